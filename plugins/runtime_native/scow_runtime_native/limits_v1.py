"""OCI ``linux.resources`` as control files of cgroup version 1; devices are `scow_runtime_native.cgroups_v1`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow_runtime_native.limits import Setting, device_key, huge_page_sizes, rate_lines, rdma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MIN_SHARES, MAX_SHARES = 2, 1 << 18  # of the kernel, which takes the nearest one silently
_THROTTLES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}


def settings(
    resources: Mapping[str, Any], offered: Callable[[str, str], bool], *, live: bool = False
) -> Iterator[Setting]:
    """The writes; *offered* tells whether a controller has a file. In a *live* group what is the default is written
    as well. Raises `InvalidArgument` for what version 1 does not have."""
    if resources.get("unified"):
        raise InvalidArgument(
            f"cannot set {', '.join(resources['unified'])}: this host has no cgroup version 2 for unified limits"
        )
    yield from _memory(resources.get("memory") or {}, live=live)
    yield from _cpu(resources.get("cpu") or {})
    pids = (resources.get("pids") or {}).get("limit")
    if pids:
        yield Setting("pids", "pids.max", str(pids) if pids > 0 else "max")
    yield from _block_io(resources.get("blockIO") or {}, offered)
    for size, limit in huge_page_sizes(resources):
        for file in (f"hugetlb.{size}.rsvd.limit_in_bytes", f"hugetlb.{size}.limit_in_bytes"):
            if ".rsvd." not in file or offered("hugetlb", file):  # reservations are counted since Linux 5.7
                yield Setting("hugetlb", file, str(limit))
    yield from _network(resources.get("network") or {})
    yield from rdma(resources)


def _memory(memory: Mapping[str, Any], *, live: bool) -> Iterator[Setting]:
    """``kernel`` and ``kernelTCP`` are left out: the kernel has given them up (5.4), and so have the spec and runc."""
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit == -1 and not swap:
        swap = -1  # memory without a limit cannot be below memory+swap that has one
    if limit:
        yield Setting("memory", "memory.limit_in_bytes", str(limit))
    if swap:
        yield Setting("memory", "memory.memsw.limit_in_bytes", str(swap), lenient=swap < 0)
    if memory.get("reservation"):
        yield Setting("memory", "memory.soft_limit_in_bytes", str(memory["reservation"]))
    if memory.get("swappiness") is not None:
        if not 0 <= memory["swappiness"] <= 100:
            raise InvalidArgument(f"cannot set memory.swappiness to {memory['swappiness']}: the range is 0 to 100")
        yield Setting("memory", "memory.swappiness", str(memory["swappiness"]))
    if memory.get("disableOOMKiller") or (live and memory.get("disableOOMKiller") is False):
        yield Setting("memory", "memory.oom_control", str(int(memory["disableOOMKiller"])))
    if memory.get("useHierarchy"):  # nothing else since Linux 5.11
        yield Setting("memory", "memory.use_hierarchy", "1", lenient=True)


def _cpu(cpu: Mapping[str, Any]) -> Iterator[Setting]:
    shares, idle = cpu.get("shares"), cpu.get("idle")
    if idle == 0:  # an idle group's shares cannot be set
        yield Setting("cpu", "cpu.idle", "0", lenient=True)
    if shares:
        if not MIN_SHARES <= shares <= MAX_SHARES:
            raise InvalidArgument(f"cannot set cpu.shares to {shares}: the range is {MIN_SHARES} to {MAX_SHARES}")
        yield Setting("cpu", "cpu.shares", str(shares))
    for key, file in (
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
    ):
        if cpu.get(key) or (key == "burst" and cpu.get(key) is not None):
            yield Setting("cpu", file, str(cpu[key]), lenient=not cpu[key])
    if idle:
        yield Setting("cpu", "cpu.idle", str(idle))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Setting("cpuset", f"cpuset.{key}", cpu[key])


def _block_io(block: Mapping[str, Any], offered: Callable[[str, str], bool]) -> Iterator[Setting]:
    """Weights are those of bfq where the kernel has it, else of cfq (up to Linux 4.20), which alone has leaves."""
    if block.get("weight") or block.get("weightDevice"):
        bfq = offered("blkio", "blkio.bfq.weight")
        prefix, unset = ("blkio.bfq.", "default") if bfq else ("blkio.", "0")
        if block.get("weight"):
            yield Setting("blkio", f"{prefix}weight", str(block["weight"]))
        for device in block.get("weightDevice") or ():
            key = device_key(device)
            if device.get("weight") is not None:
                value = str(device["weight"]) if device["weight"] else unset
                yield Setting("blkio", f"{prefix}weight_device", f"{key} {value}", key, unset)
            if device.get("leafWeight"):
                yield Setting("blkio", "blkio.leaf_weight_device", f"{key} {device['leafWeight']}", key, "0")
    if block.get("leafWeight"):
        yield Setting("blkio", "blkio.leaf_weight", str(block["leafWeight"]))
    for file, key, rate in rate_lines(block, _THROTTLES):
        yield Setting("blkio", file, f"{key} {rate}", key, "0")


def _network(network: Mapping[str, Any]) -> Iterator[Setting]:
    if network.get("classID"):
        yield Setting("net_cls", "net_cls.classid", str(network["classID"]))
    for entry in network.get("priorities") or ():
        yield Setting("net_prio", "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}", entry["name"], "0")
