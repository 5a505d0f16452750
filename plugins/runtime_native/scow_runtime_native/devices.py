"""Device nodes and links below the container's /dev."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from scow.errors import SyscallError
from scow.linux import mounts
from scow.linux import syscalls as sys
from scow.linux.mount_options import attributes
from scow_runtime_native.failure import StageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


def populate(root_fd: int, nodes: Iterable[dict[str, Any]]) -> None:
    """/dev holds *nodes* (OCI ``linux.devices``) and the usual links."""
    dev = sys.openat2(root_fd, "dev", os.O_PATH | os.O_DIRECTORY, resolve=sys.RESOLVE_IN_ROOT)
    before = os.umask(0)
    try:
        for node in nodes:
            path: str = node["path"]
            if path.startswith("/dev/") and "/" not in path[5:] and path[5:] not in ("", ".", ".."):
                _make(dev, path[5:], node)
            else:
                _make_below_root(root_fd, path, node)
        for name, target in LINKS:
            _link(dev, name, target)
    finally:
        os.umask(before)
        os.close(dev)


def _make_below_root(root_fd: int, path: str, node: dict[str, Any]) -> None:
    directory, name = os.path.split(path.strip("/"))
    parent = mounts.open_target(root_fd, directory or ".", directory=True)
    try:
        _make(parent, name, node)
    finally:
        os.close(parent)


def _make(directory: int, name: str, node: dict[str, Any]) -> None:
    mode = _TYPES[node["type"]] | stat.S_IMODE(_or(node.get("fileMode"), 0o666))
    number = 0 if node["type"] == "p" else os.makedev(node.get("major", 0), node.get("minor", 0))
    try:
        os.mknod(name, mode, number, dir_fd=directory)
    except FileExistsError:
        has = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (stat.S_IFMT(has.st_mode), has.st_rdev) != (stat.S_IFMT(mode), number):
            if node.get("own"):  # config-linux.md, "Devices": an error, where it is no node of ours
                raise StageError(
                    f"device {node['path']}: another file is there already",
                    stage="making devices",
                    errno=errno.EEXIST,
                    hint="the image or a mount has it",
                ) from None
            os.unlink(name, dir_fd=directory)
            os.mknod(name, mode, number, dir_fd=directory)
    except PermissionError:  # in a user namespace: the host's node is bound instead
        _bind_node(directory, name, node["path"], mode, number)
        return
    uid, gid = _or(node.get("uid"), 0), _or(node.get("gid"), 0)
    if uid or gid:
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _bind_node(directory: int, name: str, source: str, mode: int, number: int) -> None:
    """The node at the host's path *source* is bound at *name*, if it is the device that is asked for."""
    try:
        has = os.stat(source)
    except FileNotFoundError:
        has = None
    if has is None or (stat.S_IFMT(has.st_mode), has.st_rdev) != (stat.S_IFMT(mode), number):
        raise SyscallError(
            errno.EPERM,
            "mknod",
            source,
            hint="in a user namespace a device is made on a tmpfs at /dev, or must have the same path on the host",
        )
    _bind(directory, name, source)


def filesystem(entry: dict[str, Any], nodes: Iterable[dict[str, Any]], uid: int, gid: int) -> int:
    """A detached tmpfs for the mount *entry* of a plan, with those of *nodes* that go below it, all for *uid* and *gid*
    of the host: for a user namespace, in which nobody can make nodes."""
    context = sys.fsopen("tmpfs")
    try:
        for key, value in {
            "source": entry["source"],
            "uid": str(uid),
            "gid": str(gid),
            **_words(entry["data"]),
        }.items():
            command = sys.FSCONFIG_SET_STRING if value is not None else sys.FSCONFIG_SET_FLAG
            sys.fsconfig(context, command, key, value)
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        mount = sys.fsmount(context, attributes(entry["flags"]))
    finally:
        os.close(context)
    before = os.umask(0)
    try:
        for node in nodes:
            directory, _, name = node["path"].removeprefix("/dev/").rpartition("/")
            if node["path"].startswith("/dev/") and ".." not in node["path"].split("/"):
                _make_new(mount, directory, name, node, uid, gid)
    except BaseException:
        os.close(mount)
        raise
    finally:
        os.umask(before)
    return mount


def _words(data: str | None) -> dict[str, str | None]:
    pairs = (word.partition("=") for word in (data or "").split(",") if word)
    return {key: value if equals else None for key, equals, value in pairs}


def _make_new(mount: int, directory: str, name: str, node: dict[str, Any], uid: int, gid: int) -> None:
    path = ""
    for part in directory.split("/") if directory else ():
        path = f"{path}{part}/"
        try:
            os.mkdir(path, 0o755, dir_fd=mount)
        except FileExistsError:
            continue
        os.chown(path, uid, gid, dir_fd=mount)
    mode = _TYPES[node["type"]] | stat.S_IMODE(_or(node.get("fileMode"), 0o666))
    number = 0 if node["type"] == "p" else os.makedev(node.get("major", 0), node.get("minor", 0))
    os.mknod(f"{path}{name}", mode, number, dir_fd=mount)
    os.chown(f"{path}{name}", uid, gid, dir_fd=mount, follow_symlinks=False)


def _link(directory: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        if name == "ptmx":  # a node of the image or the host would reach another devpts
            os.unlink(name, dir_fd=directory)
            os.symlink(target, name, dir_fd=directory)


def bind_console(root_fd: int, terminal: str) -> None:
    """/dev/console is the terminal at the path *terminal*, as the caller sees it."""
    dev = sys.openat2(root_fd, "dev", os.O_PATH | os.O_DIRECTORY, resolve=sys.RESOLVE_IN_ROOT)
    try:
        _bind(dev, "console", terminal)
    finally:
        os.close(dev)


def _bind(directory: int, name: str, source: str) -> None:
    """*source* of the host is bound at *name*, a file made for it; a symbolic link there is refused."""
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=directory))
    except FileExistsError:
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise SyscallError(errno.ELOOP, "open", f"/dev/{name}")
    tree = sys.open_tree(sys.AT_FDCWD, source, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC)
    try:
        sys.move_mount(tree, "", directory, name, sys.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
