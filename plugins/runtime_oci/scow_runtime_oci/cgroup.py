"""What is asked of a container's cgroup directly: processes, signals, statistics, and that it is gone in the end.

The program makes it and sets its limits. With version 1 it is one folder a hierarchy, with version 2 one folder. The
`scow.linux.hierarchies` are a parameter, so that tests give trees of plain files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from scow.errors import Unavailable
from scow.linux import cgroup_tree

if TYPE_CHECKING:
    from scow.linux.hierarchies import Hierarchies

_DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.005


def mounts(hierarchies: Hierarchies) -> tuple[str, ...]:
    """Where every hierarchy is mounted, the one that tells of processes first."""
    v1 = hierarchies.v1
    if hierarchies.v2 and hierarchies.unified:
        return (hierarchies.v2, *dict.fromkeys(v1.values()))
    main = [v1[name] for name in ("freezer", "pids", "memory") if name in v1]
    return tuple(dict.fromkeys((*main, *v1.values(), *filter(None, (hierarchies.v2,)))))


def oom_file(hierarchies: Hierarchies, path: str) -> str:
    """The file whose line ``oom_kill`` counts the kills for want of memory; ``""`` without a memory controller."""
    if hierarchies.unified:
        return f"{hierarchies.v2}/{path}/memory.events"
    memory = hierarchies.v1.get("memory")
    return f"{memory}/{path}/memory.oom_control" if memory else ""


def oom_kills(hierarchies: Hierarchies, path: str) -> int:
    """How many processes the kernel killed for want of memory; 0 where there is no group."""
    return key_values(read(oom_file(hierarchies, path))).get("oom_kill", 0)


def exists(hierarchies: Hierarchies, path: str) -> bool:
    """Whether the hierarchy that tells of processes has the group."""
    return os.path.isdir(f"{mounts(hierarchies)[0]}/{path}")


def processes(hierarchies: Hierarchies, path: str) -> list[int]:
    """The PIDs in the group and below it; empty where there is none."""
    return cgroup_tree.processes(f"{mounts(hierarchies)[0]}/{path}")


def signal_all(hierarchies: Hierarchies, path: str, signum: int) -> None:
    """Every process in the group and below it got *signum*. Killed are also those that fork meanwhile."""
    file = f"{mounts(hierarchies)[0]}/{path}/cgroup.kill"
    if signum == signal.SIGKILL and os.path.exists(file):
        _write(file, "1")
        return
    told: set[int] = set()
    while new := set(processes(hierarchies, path)) - told:
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        told |= new
        if signum != signal.SIGKILL:
            return


def thaw(hierarchies: Hierarchies, path: str) -> None:
    """No process of the group is frozen: one that is does not end, whatever it was sent (version 1)."""
    cgroup_tree.thaw(f"{mounts(hierarchies)[0]}/{path}")


def empty(hierarchies: Hierarchies, path: str) -> None:
    """Every process of the group is killed and has ended. Raises `Unavailable` where one stays."""
    deadline = time.monotonic() + _DELETE_TIMEOUT_S
    while left := processes(hierarchies, path):
        signal_all(hierarchies, path, signal.SIGKILL)
        thaw(hierarchies, path)
        if time.monotonic() > deadline:
            raise Unavailable(f"cannot end the processes {left} of cgroup {path}")
        time.sleep(_POLL_S)


def remove(hierarchies: Hierarchies, path: str) -> None:
    """The group, which is empty, is gone from every hierarchy, with those below it."""
    deadline = time.monotonic() + _DELETE_TIMEOUT_S
    for mount in mounts(hierarchies):
        while not cgroup_tree.remove(f"{mount}/{path}"):
            if time.monotonic() > deadline:
                raise Unavailable(f"cannot remove cgroup {mount}/{path}: it is in use")
            time.sleep(_POLL_S)


def tidy(hierarchies: Hierarchies, path: str) -> None:
    """The groups above those of containers, *path*, are gone as far as they are empty."""
    for mount in mounts(hierarchies):
        rest = path
        while rest:
            try:
                os.rmdir(f"{mount}/{rest}")
            except OSError:  # in use, or gone
                break
            rest = os.path.dirname(rest)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The text of the control file *path*; ``""`` where it is missing, as is that of an absent feature."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:  # ENODEV: the group went away meanwhile
        return ""


def key_values(text: str) -> dict[str, int]:
    """Lines of ``key number`` as a mapping; other lines are left out."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {key: int(number) for key, _, number in pairs if number.isdigit()}
