"""Which limits the host's control groups offer (moby: pkg/sysinfo): ``docker info`` tells it, and a limit that is not
there is discarded with Docker's warning instead of failing the container."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What can be limited; *unified*: by version 2."""

    unified: bool = False
    memory: bool = True
    swap: bool = True
    reservation: bool = True
    swappiness: bool = True
    oom_kill_disable: bool = True
    pids: bool = True
    cpu_shares: bool = True
    cpu_quota: bool = True
    cpu_realtime: bool = True
    cpuset: bool = True
    io_weight: bool = True
    io_weight_device: bool = True
    io_rates: bool = True


@functools.cache
def of_host() -> HostLimits:
    """Those of this host, looked up once."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return detect(file.read())


def detect(mountinfo: str) -> HostLimits:
    """Those of the hierarchies in *mountinfo* (/proc/self/mountinfo)."""
    v1: dict[str, str] = {}
    v2 = ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = after.split(" ", 2)
        if fields[0] == "cgroup2":
            v2 = v2 or before.split(" ")[4]
        elif fields[0] == "cgroup":
            for option in fields[2].split(","):
                v1.setdefault(option, before.split(" ")[4])
    if v2 and not {"memory", "cpu", "pids"} & set(v1):
        return _of_version_2(v2)
    return _of_version_1(v1)


def _of_version_2(mount: str) -> HostLimits:
    try:
        with open(f"{mount}/cgroup.controllers", encoding="ascii") as file:
            has = set(file.read().split())
    except OSError:
        has = set()
    return HostLimits(
        unified=True,
        memory="memory" in has,
        swap="memory" in has and _below(mount, "memory.swap.max"),
        reservation="memory" in has,
        swappiness=False,
        oom_kill_disable=False,
        pids="pids" in has,
        cpu_shares="cpu" in has,
        cpu_quota="cpu" in has,
        cpu_realtime=False,
        cpuset="cpuset" in has,
        io_weight="io" in has,
        io_weight_device="io" in has,
        io_rates="io" in has,
    )


def _below(mount: str, file: str) -> bool:
    """Whether groups have *file*, which the root has not; True where there is no group to tell by."""
    with os.scandir(mount) as entries:
        groups = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    able = [group for group in groups if os.path.exists(f"{group}/memory.max")]
    return not able or any(os.path.exists(f"{group}/{file}") for group in able)


def _of_version_1(mounts: Mapping[str, str]) -> HostLimits:
    has = functools.partial(_has, mounts)
    # the root of blkio has no weight where bfq has replaced cfq, but it has bfq's other files
    weight = has("blkio", "blkio.bfq.io_serviced") or has("blkio", "blkio.weight")
    return HostLimits(
        memory=has("memory", "memory.limit_in_bytes"),
        swap=has("memory", "memory.memsw.limit_in_bytes"),
        reservation=has("memory", "memory.soft_limit_in_bytes"),
        swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        pids="pids" in mounts,
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_quota=has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime=has("cpu", "cpu.rt_runtime_us"),
        cpuset="cpuset" in mounts,
        io_weight=weight,
        io_weight_device=weight,
        io_rates=has("blkio", "blkio.throttle.read_bps_device"),
    )


def _has(mounts: Mapping[str, str], controller: str, file: str) -> bool:
    return controller in mounts and os.path.exists(f"{mounts[controller]}/{file}")
