"""Idmapped mounts (mount_setattr(2), ``MOUNT_ATTR_IDMAP``, Linux 5.12): owners on disk stay, a mount shows others.

A mapping is a user namespace. Only who has CAP_SYS_ADMIN where the filesystem was mounted may use one: the monitor, or
an init without a user namespace of its own.
"""

from __future__ import annotations

import errno
import os

from scow.linux import syscalls as sys
from scow_runtime_native.failure import StageError

Map = list[list[int]]
"""Lines of a mapping, as in /proc/<pid>/uid_map: first id inside, first id outside, how many (user_namespaces(7))."""

_HINT = (
    "ext4, XFS, btrfs, EROFS and, since Linux 6.3, tmpfs can be; put it on one of these, or do not use a user namespace"
)


def lines(ids: Map) -> bytes:
    """*ids* as the kernel takes them: in one write."""
    return b"".join(b"%d %d %d\n" % (inside, outside, count) for inside, outside, count in ids)


def outside(ids: Map, number: int) -> int | None:
    """The id that *number* inside has outside; None where it has none."""
    for first, start, count in ids:
        if first <= number < first + count:
            return start + number - first
    return None


def read(pid: int, kind: str) -> Map:
    """The mapping (*kind*: ``uid`` or ``gid``) of the process *pid*, as the caller's user namespace sees it."""
    with open(f"/proc/{pid}/{kind}_map", encoding="utf-8") as file:
        return [[int(word) for word in line.split()] for line in file]


def write(pid: int, uids: Map, gids: Map) -> None:
    """The user namespace of the process *pid* has these mappings. setgroups(2) stays allowed inside: who writes them
    has CAP_SETGID outside, and gives the groups that they name (CVE-2014-8989 is about those who have not)."""
    for kind, ids in (("uid", uids), ("gid", gids)):
        fd = os.open(f"/proc/{pid}/{kind}_map", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, lines(ids))
        except OSError as error:
            raise StageError(
                f"{kind} mapping {lines(ids).decode().strip()!r}: {os.strerror(error.errno or 0).lower()}",
                stage="user namespace",
                errno=error.errno or 0,
                hint="ranges must not overlap, and the engine must have the ids and CAP_SETUID and CAP_SETGID itself",
            ) from error
        finally:
            os.close(fd)


def namespace(uids: Map, gids: Map) -> int:
    """A descriptor of a user namespace with these mappings, in which nobody lives: for one mount."""
    held, hold = os.pipe()
    pid = sys.clone(sys.CLONE_NEWUSER)
    if pid == 0:
        os.close(hold)
        os.read(held, 1)
        os._exit(0)
    try:
        shown = _shown(pid)
        write(shown, uids, gids)
        return os.open(f"/proc/{shown}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)
        os.close(hold)
        os.waitpid(pid, 0)


def _shown(pid: int) -> int:
    """What /proc calls the caller's child *pid*: it is the host's, also for an init in a PID namespace of its own."""
    fd = os.pidfd_open(pid)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    finally:
        os.close(fd)


def apply(tree: int, user: int, shown: str, during: str, *, recursive: bool = False, private: bool = False) -> None:
    """The detached mount *tree* shows the owners that the user namespace *user* gives them; with *private* it exchanges
    no mounts with others. Raises `StageError` of the stage *during* that names *shown* and its filesystem where that
    cannot be."""
    flags = sys.AT_EMPTY_PATH | (sys.AT_RECURSIVE if recursive else 0)
    propagation = sys.MS_PRIVATE if private else 0
    try:
        sys.mount_setattr(tree, "", flags, sys.MOUNT_ATTR_IDMAP, 0, propagation, user)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        what = "its mounts' owners" if recursive else "its owners"
        raise StageError(
            f"{shown} cannot be idmapped: the filesystem ({filesystem(shown)}) does not let a mount change {what}",
            stage=during,
            errno=error.errno,
            hint=_HINT,
        ) from error


def filesystem(path: str) -> str:
    """The type of the filesystem that *path* lies on; ``unknown`` where /proc does not tell."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return "unknown"
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounted:
        for line in mounted:
            if line.split(" ", 1)[0] == number:
                return line.partition(" - ")[2].split(" ", 1)[0]
    return "unknown"
