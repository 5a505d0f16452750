"""The rarer things that a spec asks of its mounts: propagation and recursive attributes of a filesystem, ``remount``,
``tmpcopyup``, and a root in a mount namespace that is joined. Entries are those of `scow_runtime_native.plan`.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from scow.errors import SyscallError
from scow.linux import syscalls as sys
from scow_runtime_native import binds

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def change(root_fd: int, entry: dict[str, Any]) -> None:
    """What is mounted at the entry's destination has the attributes and the propagation that it names."""
    fd = sys.openat2(root_fd, entry["destination"].strip("/") or ".", os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
    try:
        _change(fd, entry)
    finally:
        os.close(fd)


def _change(fd: int, entry: dict[str, Any]) -> None:
    if entry["set_recursive"] or entry["clear_recursive"]:
        deep = sys.AT_EMPTY_PATH | sys.AT_RECURSIVE
        sys.mount_setattr(fd, "", deep, entry["set_recursive"], entry["clear_recursive"])
    for propagation in entry["propagation"]:
        flags = sys.AT_EMPTY_PATH | (sys.AT_RECURSIVE if propagation & sys.MS_REC else 0)
        sys.mount_setattr(fd, "", flags, propagation=propagation & ~sys.MS_REC)


def remount(root_fd: int, entry: dict[str, Any]) -> None:
    """The mount at the entry's destination has new flags; with ``bind`` its own attributes only, not the filesystem's
    behind it, which may be mounted elsewhere too."""
    destination = entry["destination"]
    fd = sys.openat2(root_fd, destination.strip("/") or ".", os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
    try:
        if entry["bind"]:
            if entry["set"] or entry["clear"]:
                sys.mount_setattr(fd, "", sys.AT_EMPTY_PATH, entry["set"], entry["clear"])
        else:
            sys.mount(None, f"/proc/self/fd/{fd}", None, entry["flags"], entry["data"])
        _change(fd, entry)
    except OSError as error:
        raise SyscallError(error.errno or 0, "remount", destination) from error
    finally:
        os.close(fd)


def change_root(root_fd: int) -> None:
    """The caller's root is *root_fd*; the mount namespace, which others may be in, keeps its own."""
    os.fchdir(root_fd)
    os.chroot(".")
    os.chdir("/")


def open_root(pid: int) -> int:
    """A descriptor of the root of process *pid*, for `change_root` in its mount namespace."""
    return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def mount_with_content(entry: dict[str, Any], target: int) -> None:
    """``tmpcopyup``: the tmpfs of *entry* is on *target* and holds what that directory held: files, links and nodes
    with mode, owner and times. No link is followed. It is filled before anybody can see it."""
    filled = _new_tmpfs(entry)
    try:
        below = os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _copy_directory(below, filled)
        finally:
            os.close(below)
        binds.attach(filled, target)
    finally:
        os.close(filled)


def _new_tmpfs(entry: dict[str, Any]) -> int:
    """A descriptor of a detached tmpfs with the entry's options, its size among them."""
    context = sys.fsopen("tmpfs")
    try:
        sys.fsconfig(context, sys.FSCONFIG_SET_STRING, "source", entry["source"])
        for word in (entry["data"] or "").split(","):
            key, equals, value = word.partition("=")
            if equals:
                sys.fsconfig(context, sys.FSCONFIG_SET_STRING, key, value)
            elif key:
                sys.fsconfig(context, sys.FSCONFIG_SET_FLAG, key)
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        return sys.fsmount(context, entry["attributes"])
    finally:
        os.close(context)


def _copy_directory(source: int, target: int) -> None:
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        has = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(has.st_mode):
            os.mkdir(name, dir_fd=target)
            _copy_below(source, target, name)
        elif stat.S_ISLNK(has.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISREG(has.st_mode):
            _copy_file(source, target, name)
        else:
            os.mknod(name, has.st_mode, has.st_rdev, dir_fd=target)
        _like(target, name, has)


def _copy_below(source: int, target: int, name: str) -> None:
    inner = os.open(name, _DIRECTORY, dir_fd=source)
    try:
        made = os.open(name, _DIRECTORY, dir_fd=target)
        try:
            _copy_directory(inner, made)
        finally:
            os.close(made)
    finally:
        os.close(inner)


def _copy_file(source: int, target: int, name: str) -> None:
    inner = os.open(name, _FILE, dir_fd=source)
    try:
        made = os.open(name, _NEW_FILE, 0o600, dir_fd=target)
        try:
            while os.sendfile(made, inner, None, _CHUNK):
                pass
        finally:
            os.close(made)
    finally:
        os.close(inner)


def _like(directory: int, name: str, has: os.stat_result) -> None:
    """*name* has mode, owner and times of *has*."""
    os.chown(name, has.st_uid, has.st_gid, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(has.st_mode):
        os.chmod(name, stat.S_IMODE(has.st_mode), dir_fd=directory)
    os.utime(name, ns=(has.st_atime_ns, has.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
