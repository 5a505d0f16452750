"""Docker's statistics objects (``cpu_stats``, ``memory_stats``, ``pids_stats``, ``blkio_stats``) from control files."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from scow_runtime_native.cgroups import key_values, number, read

if TYPE_CHECKING:
    from collections.abc import Mapping

_NS_PER_US = 1000
_NS_PER_S = 1_000_000_000
_NO_LIMIT = 1 << 62  # version 1 says PAGE_COUNTER_MAX where there is no limit


@functools.cache
def _tick_ns() -> int:
    return _NS_PER_S // os.sysconf("SC_CLK_TCK")


@functools.cache
def host_memory_bytes() -> int:
    """The memory of the host, which Docker reports as the limit of a container without one."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def system_cpu_ns(text: str) -> int:
    """The CPU time of the whole host, from the first line of /proc/stat (guest time is part of user time)."""
    fields = text.split("\n", 1)[0].split()
    return sum(int(value) for value in fields[1:8]) * _tick_ns()


def _cpu(total: int, kernel: int, user: int, per_cpu: list[int] | None, throttling: dict[str, int]) -> dict[str, Any]:
    usage: dict[str, Any] = {"total_usage": total, "usage_in_kernelmode": kernel, "usage_in_usermode": user}
    if per_cpu is not None:
        usage["percpu_usage"] = per_cpu
    return {
        "cpu_usage": usage,
        "system_cpu_usage": system_cpu_ns(read("/proc/stat")),
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": throttling,
    }


def _limit(value: int) -> int:
    return value if 0 < value < _NO_LIMIT else host_memory_bytes()


def version_1(directories: Mapping[str, str]) -> dict[str, Any]:
    """The statistics of the group whose folder for each controller *directories* holds."""
    return {
        "cpu_stats": _cpu_v1(directories),
        "memory_stats": _memory_v1(directories.get("memory")),
        "pids_stats": _pids(directories.get("pids")),
        "blkio_stats": _blkio_v1(directories.get("blkio")),
    }


def _cpu_v1(directories: Mapping[str, str]) -> dict[str, Any]:
    account, cpu = directories.get("cpuacct"), directories.get("cpu")
    total = kernel = user = 0
    per_cpu = None
    if account:
        total = number(read(f"{account}/cpuacct.usage"))
        per_cpu = [int(value) for value in read(f"{account}/cpuacct.usage_percpu").split()]
        split = key_values(read(f"{account}/cpuacct.stat"))
        kernel, user = split.get("system", 0) * _tick_ns(), split.get("user", 0) * _tick_ns()
    throttling = key_values(read(f"{cpu}/cpu.stat")) if cpu else {}
    return _cpu(
        total,
        kernel,
        user,
        per_cpu,
        {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
    )


def _memory_v1(directory: str | None) -> dict[str, Any]:
    if not directory:
        return {}
    prefix = f"{directory}/memory."
    return {
        "usage": number(read(f"{prefix}usage_in_bytes")),
        "max_usage": number(read(f"{prefix}max_usage_in_bytes")),
        "failcnt": number(read(f"{prefix}failcnt")),
        "limit": _limit(number(read(f"{prefix}limit_in_bytes"))),
        "stats": key_values(read(f"{prefix}stat")),
    }


def _pids(directory: str | None) -> dict[str, Any]:
    if not directory:
        return {}
    current = number(read(f"{directory}/pids.current"))
    limit = number(read(f"{directory}/pids.max"))
    return {"current": current, "limit": limit} if limit else {"current": current}


def _blkio_v1(directory: str | None) -> dict[str, Any]:
    if not directory:
        return {}
    bytes_, operations = (
        _blkio_lines(read(f"{directory}/blkio.throttle.{name}_recursive") or read(f"{directory}/blkio.throttle.{name}"))
        for name in ("io_service_bytes", "io_serviced")
    )
    return {
        "io_service_bytes_recursive": bytes_,
        "io_serviced_recursive": operations,
        "io_queue_recursive": [],
        "io_service_time_recursive": [],
        "io_wait_time_recursive": [],
        "io_merged_recursive": [],
        "io_time_recursive": [],
        "sectors_recursive": [],
    }


def _blkio_lines(text: str) -> list[dict[str, Any]]:
    entries = []
    for line in text.splitlines():
        fields = line.replace(":", " ").split()
        if len(fields) == 4 and fields[3].isdigit():
            major, minor, operation, value = fields
            entries.append({"major": int(major), "minor": int(minor), "op": operation.lower(), "value": int(value)})
    return entries


def version_2(directory: str) -> dict[str, Any]:
    """The statistics of the group *directory* of the unified hierarchy."""
    cpu = key_values(read(f"{directory}/cpu.stat"))
    return {
        "cpu_stats": _cpu(
            cpu.get("usage_usec", 0) * _NS_PER_US,
            cpu.get("system_usec", 0) * _NS_PER_US,
            cpu.get("user_usec", 0) * _NS_PER_US,
            None,
            {
                "periods": cpu.get("nr_periods", 0),
                "throttled_periods": cpu.get("nr_throttled", 0),
                "throttled_time": cpu.get("throttled_usec", 0) * _NS_PER_US,
            },
        ),
        "memory_stats": _memory_v2(directory),
        "pids_stats": _pids(directory if os.path.exists(f"{directory}/pids.current") else None),
        "blkio_stats": _blkio_v2(read(f"{directory}/io.stat")),
    }


def _memory_v2(directory: str) -> dict[str, Any]:
    usage = read(f"{directory}/memory.current")
    if not usage:
        return {}
    return {
        "usage": number(usage),
        "limit": _limit(number(read(f"{directory}/memory.max"))),
        "stats": key_values(read(f"{directory}/memory.stat")),
    }


def _blkio_v2(text: str) -> dict[str, Any]:
    bytes_: list[dict[str, Any]] = []
    operations: list[dict[str, Any]] = []
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for target, key, operation in (
            (bytes_, "rbytes", "read"),
            (bytes_, "wbytes", "write"),
            (operations, "rios", "read"),
            (operations, "wios", "write"),
        ):
            if values.get(key, "").isdigit():
                target.append({"major": int(major), "minor": int(minor), "op": operation, "value": int(values[key])})
    return {
        "io_service_bytes_recursive": bytes_,
        "io_serviced_recursive": operations,
        "io_queue_recursive": None,
        "io_service_time_recursive": None,
        "io_wait_time_recursive": None,
        "io_merged_recursive": None,
        "io_time_recursive": None,
        "sectors_recursive": None,
    }
