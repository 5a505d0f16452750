"""OCI ``linux.resources``, which speak of cgroup version 1, as control files of version 2."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow_runtime_native.cgroups import number, read
from scow_runtime_native.limits import Setting, device_key, huge_page_sizes, rate_lines, rdma

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEFAULT_PERIOD_US = 100_000
_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}
_NO_RATES = "rbps=max wbps=max riops=max wiops=max"


def settings(
    resources: Mapping[str, Any], directory: str, available: frozenset[str], *, live: bool = False
) -> Iterator[Setting]:
    """The writes into the group *directory* of a host that has the controllers *available* there.

    Raises `InvalidArgument` for what version 2 does not have.
    """
    yield from _memory(resources.get("memory") or {}, directory, live=live)
    yield from _cpu(resources.get("cpu") or {}, directory)
    pids = (resources.get("pids") or {}).get("limit")
    if pids:
        yield Setting("pids", "pids.max", str(pids) if pids > 0 else "max")
    yield from _block_io(resources.get("blockIO") or {}, directory)
    for size, limit in huge_page_sizes(resources):
        for file in (f"hugetlb.{size}.rsvd.max", f"hugetlb.{size}.max"):
            if ".rsvd." not in file or os.path.exists(f"{directory}/{file}"):  # reservations: since Linux 5.7
                yield Setting("hugetlb", file, str(limit))
    for key in ("classID", "priorities"):
        if (resources.get("network") or {}).get(key):
            raise InvalidArgument(f"cannot set network {key}: cgroup version 2 has no net_cls and net_prio")
    yield from rdma(resources)
    yield from unified(resources.get("unified") or {}, available)


def unified(values: Mapping[str, str], available: frozenset[str]) -> Iterator[Setting]:
    """``unified``: file name and content; files with a line for each device are written line by line."""
    for file, text in values.items():
        if "/" in file or file.startswith("."):
            raise InvalidArgument(f"invalid name {file!r} in unified: it must be that of a control file")
        controller = file.partition(".")[0]
        if controller != "cgroup" and controller not in available:
            raise InvalidArgument(f"cannot set {file} to {text}: the host has no {controller} controller in version 2")
        for line in text.splitlines() or [""]:
            yield Setting(controller, file, line or "\n")


def _memory(memory: Mapping[str, Any], directory: str, *, live: bool) -> Iterator[Setting]:
    for key, what in (("swappiness", "swappiness"), ("disableOOMKiller", "OOM killer switch")):
        if memory.get(key):
            raise InvalidArgument(f"cannot set memory {key} to {memory[key]}: cgroup version 2 has no {what}")
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit == -1 and not swap:
        swap = -1
    alone = _swap_alone(swap, limit or number(read(f"{directory}/memory.max"))) if swap else None
    if memory.get("checkBeforeUpdate") and live:
        _check_use(directory, limit, alone)
    if alone is not None:
        value = "max" if alone < 0 else str(alone)
        yield Setting("memory", "memory.swap.max", value, lenient=alone <= 0)
    if limit:
        yield Setting("memory", "memory.max", str(limit) if limit > 0 else "max")
    if memory.get("reservation"):
        yield Setting("memory", "memory.low", str(memory["reservation"]) if memory["reservation"] > 0 else "max")


def _swap_alone(total: int, limit: int) -> int:
    """Version 2 counts swap alone, OCI (as version 1) memory and swap together; -1 for no limit."""
    if total < 0:
        return -1
    if limit <= 0:
        raise InvalidArgument(f"cannot limit memory and swap to {total} without a limit of the memory alone")
    if total < limit:
        raise InvalidArgument(f"cannot limit memory and swap to {total}: that is below the memory limit {limit}")
    return total - limit


def _check_use(directory: str, limit: int | None, swap: int | None) -> None:
    for file, wanted, used in (
        ("memory.max", limit, number(read(f"{directory}/memory.current"))),
        ("memory.swap.max", swap, number(read(f"{directory}/memory.swap.current"))),
    ):
        if wanted is not None and 0 <= wanted < used:
            raise InvalidArgument(f"cannot set {file} to {wanted}: {used} bytes are in use")


def _cpu(cpu: Mapping[str, Any], directory: str) -> Iterator[Setting]:
    for key in ("realtimePeriod", "realtimeRuntime"):
        if cpu.get(key):
            raise InvalidArgument(f"cannot set cpu {key} to {cpu[key]}: cgroup version 2 has no real-time budget")
    if cpu.get("idle") is not None:
        yield Setting("cpu", "cpu.idle", str(cpu["idle"]), lenient=not cpu["idle"])
    if cpu.get("shares") and cpu.get("idle") != 1:  # an idle group has the least weight, and no other can be set
        yield Setting("cpu", "cpu.weight", str(weight(cpu["shares"])))
    if cpu.get("quota") or cpu.get("period"):
        had = read(f"{directory}/cpu.max").split()
        quota = cpu.get("quota") or number(had[0] if had else "", -1)
        period = cpu.get("period") or number(had[1] if len(had) > 1 else "", _DEFAULT_PERIOD_US)
        yield Setting("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period}")
    if cpu.get("burst") is not None:
        yield Setting("cpu", "cpu.max.burst", str(cpu["burst"]), lenient=not cpu["burst"])
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Setting("cpuset", f"cpuset.{key}", cpu[key])


def weight(shares: int) -> int:
    """``cpu.weight`` (1 to 10000, default 100) for version 1's *shares* (2 to 262144, default 1024): a curve through
    the ends and the defaults, as runc 1.4 and crun 1.23 have it (opencontainers/cgroups#20); the straight line of
    earlier ones gave a container with 1024 shares less than half of one that asked for nothing."""
    power = math.log2(min(max(shares, 2), 1 << 18))
    return min(math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34) - 1e-9), 10000)


def _block_io(block: Mapping[str, Any], directory: str) -> Iterator[Setting]:
    """Weights are bfq's where the kernel has it (``io.bfq.weight``, 1 to 1000), else those of iocost."""
    if block.get("leafWeight") or any(device.get("leafWeight") for device in block.get("weightDevice") or ()):
        raise InvalidArgument("cannot set the block I/O leaf weight: cgroup version 2 has none")
    if block.get("weight") or block.get("weightDevice"):
        bfq = os.path.exists(f"{directory}/io.bfq.weight")
        file = "io.bfq.weight" if bfq else "io.weight"
        if block.get("weight"):
            yield Setting("io", file, f"default {_io_weight(block['weight'], bfq)}", "default", "100")
        for device in block.get("weightDevice") or ():
            key = device_key(device)
            value = _io_weight(device["weight"], bfq) if device.get("weight") else "default"
            yield Setting("io", file, f"{key} {value}", key, "default")
    for name, key, rate in rate_lines(block, _THROTTLES):
        yield Setting("io", "io.max", f"{key} {name}={rate or 'max'}", key, _NO_RATES)


def _io_weight(value: int, bfq: bool) -> int:
    """Version 1's 10 to 1000 as ``io.weight``'s 1 to 10000."""
    return value if bfq else 1 + (value - 10) * 9999 // 990
