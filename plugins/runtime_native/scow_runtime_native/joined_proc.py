"""/proc of a PID namespace that the caller is not in: of a container that shares another one's processes.

Who mounts a procfs sees the namespace that he is in. But a process that has the right to mount must not be in that of a
container that may trace it. Linux 6.17 takes the namespace as an option; before, the /proc that its container has
mounted is copied, when it is what it claims to be.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from scow.linux import syscalls as sys
from scow_runtime_native.failure import StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROC_ROOT_INODE = 1  # PROC_ROOT_INO, linux/proc_fs.h


def open_detached(namespace: str, attributes: int, options: Sequence[str]) -> int:
    """A descriptor of a detached mount of the procfs of the PID namespace at the path *namespace*, with the
    ``MOUNT_ATTR_*`` *attributes* and the *options* of procfs. Raises `OSError` and `StageError`."""
    context = sys.fsopen("proc")
    try:
        sys.fsconfig(context, sys.FSCONFIG_SET_STRING, "source", "proc")
        sys.fsconfig(context, sys.FSCONFIG_SET_STRING, "pidns", namespace)
        for option in options:
            name, _, value = option.partition("=")
            sys.fsconfig(context, sys.FSCONFIG_SET_STRING, name, value)
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        return sys.fsmount(context, attributes)
    except OSError as error:
        if error.errno != errno.EINVAL or options:
            raise
    finally:
        os.close(context)
    return copy_of_its_own(namespace, attributes)


def copy_of_its_own(namespace: str, attributes: int) -> int:
    """As `open_detached`, from the /proc of the process that *namespace* names."""
    pid = namespace.removeprefix("/proc/").removesuffix("/ns/pid")
    if not pid.isdecimal() or namespace != f"/proc/{pid}/ns/pid":
        raise _cannot(f"{namespace} does not name a process")
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    wanted = os.stat(namespace)
    other = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sys.setns(other, sys.CLONE_NEWNS)
        try:
            tree = _copy("/proc")
        finally:
            sys.setns(own, sys.CLONE_NEWNS)
    finally:
        os.close(other)
        os.close(own)
    try:
        if os.fstat(tree).st_ino != _PROC_ROOT_INODE or not os.path.samestat(_namespace_of_init(tree), wanted):
            raise _cannot("what it has at /proc is not the procfs of its processes")
        sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH, attributes, sys.MOUNT_ATTR_RDONLY & ~attributes)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _copy(path: str) -> int:
    """Of the mount alone: not of what hides parts of it."""
    try:
        found = sys.openat2(sys.AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, resolve=sys.RESOLVE_NO_SYMLINKS)
        try:
            return sys.open_tree(found, "", sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | sys.AT_EMPTY_PATH)
        finally:
            os.close(found)
    except OSError as error:
        raise _cannot(f"its /proc: {os.strerror(error.errno or 0).lower()}") from error


def _namespace_of_init(proc: int) -> os.stat_result:
    try:
        return os.stat("1/ns/pid", dir_fd=proc)
    except OSError as error:
        raise _cannot(f"its /proc: {os.strerror(error.errno or 0).lower()}") from error


def _cannot(reason: str) -> StageError:
    return StageError(
        f"cannot mount /proc for the PID namespace of another container: {reason}",
        stage="",
        errno=errno.EINVAL,
        hint="Linux 6.17 and newer can do without",
    )
