"""The container's root: mounts, devices, masked paths, and pivot_root.

Everything is resolved below one descriptor of the new root with ``openat2(RESOLVE_IN_ROOT)`` while the host's /proc is
still there, so that no symbolic link of an image leads outside (the CVE-2021-30465 and CVE-2019-19921 families). Mounts
that the image could replace by links (proc, sysfs) refuse links altogether, as runc does.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.errors import SyscallError
from scow.linux import mounts
from scow.linux import syscalls as sys
from scow.linux.mount_options import attributes
from scow_runtime_native import binds, devices, hooks, joined_proc, mount_changes, terminal
from scow_runtime_native.failure import StageError, stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scow_runtime_native.userns import Handed

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class Recipe(NamedTuple):
    """`scow.ports.Mount`, without importing it."""

    type: str
    source: str
    target: str
    options: Sequence[str]


def enter(plan: dict[str, Any], tty: bool, handed: Handed | None = None) -> tuple[int, int]:
    """The caller's root is the container's, complete: a descriptor (O_PATH) of it, and with *tty* the master of the
    terminal in its devpts that is the caller's stdio then (-1: stdio stays what it is). *handed*: what was mounted for
    a caller that has a user namespace."""
    root_fd, trees = handed or _mount_root(plan)
    for place, entry in enumerate(plan["mounts"]):
        with stage(f"mounting {entry['destination']}"):
            if entry["kind"] == "remount":
                mount_changes.remount(root_fd, entry)
            elif entry["kind"] != "bind":
                _mount(root_fd, entry, trees.get(place))
            elif handed:
                binds.place(root_fd, entry, trees[place])
            else:
                binds.mount(root_fd, entry, trees.get(place))
    master = terminal.take(root_fd) if tty and plan["process"]["own_terminal"] else -1
    if plan["setup_dev"]:
        with stage("making devices"):
            devices.populate(root_fd, plan["devices"])
            if tty:
                devices.bind_console(root_fd, os.ttyname(0) if master < 0 else "/proc/self/fd/0")
    with stage("masking paths"):
        _mask(root_fd, plan["masked"])
        for path in plan["readonly_paths"]:
            _make_readonly(root_fd, path)
    with stage("making the working directory"):
        os.close(mounts.open_target(root_fd, plan["process"]["cwd"].lstrip("/") or ".", directory=True))
    if plan["hooks"]:
        hooks.before_pivot(plan, root_fd)
    with stage("pivot_root"):
        _finish_attributes(root_fd, plan)
        if plan["join_mount"]:  # pivot_root would change the root of all that are in there
            mount_changes.change_root(root_fd)
        else:
            _pivot(root_fd)
    if plan["root_propagation"] and not plan["join_mount"]:
        with stage("propagation of the root"):
            sys.mount(None, "/", None, plan["root_propagation"])
    return root_fd, master


def _mount_root(plan: dict[str, Any]) -> tuple[int, dict[int, int]]:
    """The root is mounted, for the caller alone: a descriptor of it, and the copies of live binds."""
    with stage("mounting the root filesystem"):
        live = {}
        if not plan["join_mount"]:  # whose propagation is others' too
            live = binds.open_live(plan["mounts"])
            sys.mount(None, "/", None, sys.MS_REC | (plan["root_propagation"] & sys.MS_SLAVE or sys.MS_PRIVATE))
        mounts.mount_all([Recipe(*recipe) for recipe in plan["root"]], plan["rootfs"])
        return os.open(plan["rootfs"], _DIRECTORY | os.O_CLOEXEC), live


def _finish_attributes(root_fd: int, plan: dict[str, Any]) -> None:
    for destination in plan["late_readonly"]:  # mounts that had to stay writable while the root was made
        fd = sys.openat2(root_fd, destination.lstrip("/"), os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
        try:
            sys.mount_setattr(fd, "", sys.AT_EMPTY_PATH, sys.MOUNT_ATTR_RDONLY)
        finally:
            os.close(fd)
    if plan["readonly"]:
        sys.mount_setattr(root_fd, "", sys.AT_EMPTY_PATH, sys.MOUNT_ATTR_RDONLY)


def _pivot(root_fd: int) -> None:
    """The root of the mount namespace is *root_fd*; the host's tree is gone from it (pivot_root(2), the `.` idiom)."""
    os.fchdir(root_fd)
    sys.pivot_root(".", ".")
    sys.umount(".", sys.MNT_DETACH)
    os.chdir("/")


def _mount(root_fd: int, entry: dict[str, Any], tree: int | None) -> None:
    """*tree* is the filesystem where it is mounted already, detached."""
    kind, destination = entry["kind"], entry["destination"]
    if kind in ("proc", "sysfs"):
        fd = _ordinary_directory(root_fd, destination, entry["type"])
    elif kind == "tmpfs":
        fd, entry = _tmpfs_target(root_fd, entry)
        binds.check_place(root_fd, fd, destination)
    else:
        fd = mounts.open_target(root_fd, destination.strip("/") or ".", directory=True)
    try:
        if tree is not None:
            binds.attach(tree, fd)
            os.close(tree)
        elif entry.get("pid_namespace"):
            _attach_proc(entry, fd)
        elif entry.get("copy_up"):
            mount_changes.mount_with_content(entry, fd)
        else:
            _mount_filesystem(entry, f"/proc/self/fd/{fd}", destination)
    finally:
        os.close(fd)
    if kind == "cgroup":
        _mount_hierarchies(root_fd, entry)
    if entry["propagation"] or entry["set_recursive"] or entry["clear_recursive"]:
        mount_changes.change(root_fd, entry)


def _attach_proc(entry: dict[str, Any], target: int) -> None:
    options = [option for option in (entry["data"] or "").split(",") if option]
    tree = joined_proc.open_detached(entry["pid_namespace"], attributes(entry["flags"]), options)
    try:
        binds.attach(tree, target)
    finally:
        os.close(tree)


def _mount_filesystem(entry: dict[str, Any], target: str, destination: str) -> None:
    try:
        sys.mount(entry["source"], target, entry["type"], entry["flags"], entry["data"])
    except OSError as error:
        if error.errno == errno.EPERM and entry["kind"] == "sysfs":  # the network namespace is not our user namespace's
            _bind_sysfs(target)
            return
        raise SyscallError(error.errno or 0, "mount", f"{entry['type']} at {destination}") from error


def _bind_sysfs(target: str) -> None:
    """The host's /sys, read-only, is at *target*: for a container with a user namespace in a network of others."""
    tree = sys.open_tree(sys.AT_FDCWD, "/sys", sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_RECURSIVE)
    try:
        hardened = sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC
        sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH | sys.AT_RECURSIVE, hardened)
        sys.move_mount(tree, "", sys.AT_FDCWD, target, sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_SYMLINKS)
    finally:
        os.close(tree)


def _ordinary_directory(root_fd: int, destination: str, fstype: str) -> int:
    """A descriptor of *destination*, made where missing, in whose path nothing is a symbolic link."""
    path = destination.strip("/")
    flags, resolve = _DIRECTORY, sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS
    try:
        try:
            return sys.openat2(root_fd, path, flags, resolve=resolve)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            os.close(mounts.open_target(root_fd, path, directory=True))
            return sys.openat2(root_fd, path, flags, resolve=resolve)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise StageError(
            f"filesystem {fstype} must be mounted on an ordinary directory: {destination}",
            stage="mounting",
            errno=error.errno or 0,
            hint="the image has something else there, a symbolic link for example",
        ) from error


def _tmpfs_target(root_fd: int, entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The target; the tmpfs takes over mode and owner of a directory that is there already, unless it names a mode."""
    path = entry["destination"].strip("/") or "."
    try:
        fd = sys.openat2(root_fd, path, _DIRECTORY, resolve=sys.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return mounts.open_target(root_fd, path, directory=True), entry
    data = entry["data"] or ""
    if "mode=" in data:
        return fd, entry
    has = os.fstat(fd)
    owner = f"mode={stat.S_IMODE(has.st_mode):o},uid={has.st_uid},gid={has.st_gid}"
    return fd, {**entry, "data": f"{data},{owner}" if data else owner}


def _mount_hierarchies(root_fd: int, entry: dict[str, Any]) -> None:
    """cgroup v1 below the tmpfs of *entry*: each hierarchy shows the container's own group, by bind mount (mounting
    the hierarchy itself takes the kernel's cgroup lock, a bind does not), and attributes are set once for the tree."""
    top = sys.openat2(root_fd, entry["destination"].strip("/"), _DIRECTORY, resolve=sys.RESOLVE_IN_ROOT)
    try:
        for name, source in entry["hierarchies"]:
            os.mkdir(name, 0o755, dir_fd=top)
            tree = sys.open_tree(sys.AT_FDCWD, source, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC)
            try:
                sys.move_mount(tree, "", top, name, sys.MOVE_MOUNT_F_EMPTY_PATH)
            finally:
                os.close(tree)
        for link, name in entry["links"]:
            os.symlink(name, link, dir_fd=top)
        if entry["attributes"]:
            sys.mount_setattr(top, "", sys.AT_EMPTY_PATH | sys.AT_RECURSIVE, entry["attributes"])
    finally:
        os.close(top)


def _mask(root_fd: int, paths: Iterable[str]) -> None:
    """Nothing can be read at *paths*: /dev/null over files, one empty read-only tmpfs over directories. That one is
    attached itself and then copied: a detached mount that is closed waits for the kernel's readers (RCU; 1 to 5 ms)."""
    empty = -1
    try:
        for path in paths:
            try:
                fd = sys.openat2(root_fd, path.lstrip("/"), os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue
                raise
            try:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    sys.mount("/dev/null", f"/proc/self/fd/{fd}", None, sys.MS_BIND)
                elif empty < 0:
                    empty = _empty_tmpfs()
                    binds.attach(empty, fd)
                else:
                    _attach_copy(empty, fd)
            finally:
                os.close(fd)
    finally:
        if empty >= 0:
            os.close(empty)


def _attach_copy(mount: int, target: int) -> None:
    tree = sys.open_tree(mount, "", sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_EMPTY_PATH)
    try:
        binds.attach(tree, target)
    finally:
        os.close(tree)


def _empty_tmpfs() -> int:
    context = sys.fsopen("tmpfs")
    try:
        sys.fsconfig(context, sys.FSCONFIG_SET_STRING, "nr_inodes", "2")
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        return sys.fsmount(context, sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV)
    finally:
        os.close(context)


def _make_readonly(root_fd: int, path: str) -> None:
    """*path*, where it exists, is a read-only mount of itself."""
    try:
        fd = sys.openat2(root_fd, path.lstrip("/"), os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    try:
        flags = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_EMPTY_PATH | sys.AT_RECURSIVE
        tree = sys.open_tree(fd, "", flags)
        try:
            sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH | sys.AT_RECURSIVE, sys.MOUNT_ATTR_RDONLY)
            binds.attach(tree, fd)
        finally:
            os.close(tree)
    finally:
        os.close(fd)
