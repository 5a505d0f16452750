"""Checks of the limits in a create or update request, in Docker's words (moby: daemon_unix.go)."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from scow.engine.host_limits import HostLimits
    from scow.types import Resources

_MIN_MEMORY_BYTES = 6 << 20
_MIN_PERIOD_US, _MAX_PERIOD_US = 1000, 1_000_000
_NS_PER_CPU = 1_000_000_000
_MAX_CPU = 8192
_RATES = (  # Docker's two ways to name each
    ("blkio_device_read_bps", "BPS Block I/O read", "BPS read"),
    ("blkio_device_write_bps", "BPS Block I/O write", "BPS write"),
    ("blkio_device_read_iops", "IOPS Block read", "IOPS read"),
    ("blkio_device_write_iops", "IOPS Block write", "IOPS write"),
)
_ABSENT = "or the cgroup is not mounted"
_RLIMITS = frozenset(
    {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
     "rttime", "sigpending", "stack", "as"}
)  # fmt: skip


def check_resources(host: Resources, limits: HostLimits, *, update: bool = False) -> list[str]:
    """The limits make sense, alone and together; what the host does not offer is taken out of *host*, and the warnings
    say so. With *update* the memory+swap limit may come without that of the memory."""
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    warnings = _discard_memory(host, limits)
    _check_memory(host, update=update)
    warnings += _discard_others(host, limits)
    _check_cpu(host, limits)
    warnings += _discard_io(host, limits)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for weighted in host.blkio_weight_device:
        if weighted.weight and not 10 <= weighted.weight <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000: {weighted.path}")
    for field, _, _ in _RATES:
        for device in getattr(host, field):
            if device.rate < 0:
                raise InvalidArgument(f"invalid rate for device {device.path}: {device.rate} is negative")
    for limit in host.ulimits:
        _check_ulimit(limit.name, limit.soft, limit.hard)
    return warnings


def _discard_memory(host: Resources, limits: HostLimits) -> list[str]:
    warnings = []
    if host.memory > 0 and not limits.memory:
        warnings.append(f"Your kernel does not support memory limit capabilities {_ABSENT}. Limitation discarded.")
        host.memory, host.memory_swap = 0, -1
    if host.memory > 0 and host.memory_swap != -1 and not limits.swap:
        warnings.append(f"Your kernel does not support swap limit capabilities {_ABSENT}. Memory limited without swap.")
        host.memory_swap = -1
    if host.memory_swappiness is not None and not limits.swappiness:
        warnings.append(
            f"Your kernel does not support memory swappiness capabilities {_ABSENT}. Memory swappiness discarded."
        )
        host.memory_swappiness = None
    if host.memory_reservation > 0 and not limits.reservation:
        warnings.append(f"Your kernel does not support memory soft limit capabilities {_ABSENT}. Limitation discarded.")
        host.memory_reservation = 0
    if host.kernel_memory:  # no kernel since 5.4 limits it
        warnings.append(
            f"Your kernel does not support kernel memory limit capabilities {_ABSENT}. Limitation discarded."
        )
        host.kernel_memory = 0
    if host.oom_kill_disable and not limits.oom_kill_disable:
        warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        host.oom_kill_disable = None
    return warnings


def _check_memory(host: Resources, *, update: bool) -> None:
    if host.memory and host.memory < _MIN_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0 and not update:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swap < -1:
        raise InvalidArgument(f"Invalid value {host.memory_swap} for the memoryswap limit: -1 is for no limit")
    if host.memory_reservation and host.memory_reservation < _MIN_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < host.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    swappiness = host.memory_swappiness
    if swappiness is not None and not 0 <= swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")


def _discard_others(host: Resources, limits: HostLimits) -> list[str]:
    warnings = []
    if host.pids_limit is not None and not limits.pids:
        if host.pids_limit > 0:
            warnings.append(f"Your kernel does not support PIDs limit capabilities {_ABSENT}. PIDs limit discarded.")
        host.pids_limit = None
    if host.cpu_shares and not limits.cpu_shares:
        warnings.append(f"Your kernel does not support CPU shares {_ABSENT}. Shares discarded.")
        host.cpu_shares = 0
    if (host.cpu_period or host.cpu_quota) and not limits.cpu_quota:
        warnings.append("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
        host.cpu_period = host.cpu_quota = 0
    if (host.cpuset_cpus or host.cpuset_mems) and not limits.cpuset:
        warnings.append(f"Your kernel does not support cpuset {_ABSENT}. Cpuset discarded.")
        host.cpuset_cpus = host.cpuset_mems = ""
    return warnings


def _check_cpu(host: Resources, limits: HostLimits) -> None:
    count = os.cpu_count() or 1
    if host.nano_cpus:
        if host.cpu_period or host.cpu_quota:
            other = "CPU Period" if host.cpu_period else "CPU Quota"
            raise InvalidArgument(f"Conflicting options: Nano CPUs and {other} cannot both be set")
        if not limits.cpu_quota:
            raise InvalidArgument(
                f"NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler {_ABSENT}"
            )
        if not 0 < host.nano_cpus <= count * _NS_PER_CPU:
            raise InvalidArgument(f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if host.cpu_shares < 0:
        raise InvalidArgument("shares: invalid argument")
    if host.cpu_period and not _MIN_PERIOD_US <= host.cpu_period <= _MAX_PERIOD_US:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < _MIN_PERIOD_US:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (host.cpu_realtime_period or host.cpu_realtime_runtime) and not limits.cpu_realtime:
        raise InvalidArgument("Your kernel does not support CPU real-time scheduler")
    if host.cpu_realtime_runtime > (host.cpu_realtime_period or _MAX_PERIOD_US):
        raise InvalidArgument("CPU real-time runtime cannot be higher than CPU real-time period")
    for what, kind, text, available in (
        ("CPUs", "cpus", host.cpuset_cpus, _online("cpu")),
        ("memory nodes", "mems", host.cpuset_mems, _online("node")),
    ):
        wanted = parse_list(text, kind)
        if available and wanted - available:
            raise InvalidArgument(
                f"Requested {what} are not available - requested {text}, available: {_ranges(available)}"
            )


def _discard_io(host: Resources, limits: HostLimits) -> list[str]:
    warnings = []
    if host.blkio_weight and not limits.io_weight:
        warnings.append(f"Your kernel does not support Block I/O weight {_ABSENT}. Weight discarded.")
        host.blkio_weight = 0
    if host.blkio_weight_device and not limits.io_weight_device:
        warnings.append(f"Your kernel does not support Block I/O weight_device {_ABSENT}. Weight-device discarded.")
        host.blkio_weight_device = []
    for field, name, again in _RATES:
        if getattr(host, field) and not limits.io_rates:
            warnings.append(f"Your kernel does not support {name} limit {_ABSENT}. Block I/O {again} limit discarded.")
            setattr(host, field, [])
    return warnings


def parse_list(text: str, what: str = "cpus") -> frozenset[int]:
    """``0-3,7`` as numbers. Raises `InvalidArgument`."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise InvalidArgument(f"Invalid value {text} for cpuset {what}")
        if int(last or first) > _MAX_CPU:
            raise InvalidArgument(f"Invalid value {text} for cpuset {what}: value out of range, maximum is {_MAX_CPU}")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


@functools.cache
def _online(what: str) -> frozenset[int]:
    try:
        with open(f"/sys/devices/system/{what}/online", encoding="ascii") as file:
            return parse_list(file.read().strip())
    except OSError:  # no such file (a kernel without NUMA): the cgroup will say what it takes
        return frozenset()


def _ranges(numbers: frozenset[int]) -> str:
    ordered = sorted(numbers)
    contiguous = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]}-{ordered[-1]}" if contiguous and len(ordered) > 1 else ",".join(map(str, ordered))


def _check_ulimit(name: str, soft: int, hard: int) -> None:
    if name not in _RLIMITS:
        raise InvalidArgument(f"invalid ulimit type: {name}")
    if hard != -1 and (soft > hard or soft == -1):
        raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
