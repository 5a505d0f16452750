"""The control group hierarchies that a host has mounted, of version 1, of version 2, or of both (cgroups(7)).

`detect` reads any mountinfo text, so that tests can describe other hosts.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROLLERS = frozenset(
    {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio",
     "perf_event", "pids", "rdma"}
)  # fmt: skip


class Hierarchies(NamedTuple):
    """*v1*: mount point by controller (``name=systemd`` as ``systemd``); *v2*: mount point of the unified one."""

    v1: Mapping[str, str] = MappingProxyType({})
    v2: str | None = None
    v2_controllers: frozenset[str] = frozenset()

    @property
    def version(self) -> str:
        """``1``, ``2``, ``hybrid``, or ``""`` where there are no control groups."""
        if self.v1 and self.v2:
            return "hybrid"
        return "1" if self.v1 else "2" if self.v2 else ""

    @property
    def unified(self) -> bool:
        """Whether limits are version 2's business: no controller that counts is bound to version 1."""
        return self.v2 is not None and not {"memory", "cpu", "pids"} & set(self.v1)


def detect(mountinfo: str) -> Hierarchies:
    """What *mountinfo* (/proc/self/mountinfo) has mounted; for version 2 also its controllers, read from there."""
    v1: dict[str, str] = {}
    v2 = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        point = before.split(" ")[4].replace("\\040", " ")
        fstype, _, options = after.split(" ", 2)
        if fstype == "cgroup2":
            v2 = v2 or point
        elif fstype == "cgroup":
            for option in options.split(","):
                if option in CONTROLLERS:
                    v1.setdefault(option, point)
                elif option.startswith("name="):
                    v1.setdefault(option.removeprefix("name="), point)
    return Hierarchies(v1, v2, _controllers(v2))


def _controllers(mount: str | None) -> frozenset[str]:
    if mount is None:
        return frozenset()
    try:
        with open(f"{mount}/cgroup.controllers", encoding="utf-8") as file:
            return frozenset(file.read().split())
    except OSError:  # a mount that cannot be looked into offers nothing
        return frozenset()


def detect_host() -> Hierarchies:
    """What this host has mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return detect(file.read())
