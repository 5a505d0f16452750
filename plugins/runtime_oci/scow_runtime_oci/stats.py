"""Docker's statistics objects from the control files of a container's cgroup."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scow_runtime_oci.cgroup import key_values, read

if TYPE_CHECKING:
    from scow.linux.hierarchies import Hierarchies

Json = dict[str, Any]

_NS_PER_US = 1000
_NS_PER_S = 1_000_000_000
_NO_LIMIT = 1 << 62  # version 1 says PAGE_COUNTER_MAX where there is no limit
_EMPTY_LISTS = (
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def sample(hierarchies: Hierarchies, path: str) -> Json:
    """``cpu_stats``, ``memory_stats``, ``pids_stats`` and ``blkio_stats`` of the group *path* as of now."""
    if hierarchies.unified:
        folder = f"{hierarchies.v2}/{path}"
        return {
            "cpu_stats": _cpu_2(folder),
            "memory_stats": _memory(f"{folder}/memory.", "current", "max"),
            "pids_stats": _pids(folder),
            "blkio_stats": _blkio(*_io_stat(read(f"{folder}/io.stat"))),
        }
    folders = {name: f"{mount}/{path}" for name, mount in hierarchies.v1.items()}
    blkio = folders.get("blkio", "")
    return {
        "cpu_stats": _cpu_1(folders.get("cpuacct", ""), folders.get("cpu", "")),
        "memory_stats": _memory(f"{folders.get('memory', '')}/memory.", "usage_in_bytes", "limit_in_bytes"),
        "pids_stats": _pids(folders.get("pids", "")),
        "blkio_stats": _blkio(*(_throttle(blkio, name) for name in ("io_service_bytes", "io_serviced"))),
    }


def _cpu_1(account: str, cpu: str) -> Json:
    tick_ns = _NS_PER_S // os.sysconf("SC_CLK_TCK")
    split = key_values(read(f"{account}/cpuacct.stat"))
    throttling = key_values(read(f"{cpu}/cpu.stat"))
    usage = {
        "total_usage": _number(read(f"{account}/cpuacct.usage")),
        "usage_in_kernelmode": split.get("system", 0) * tick_ns,
        "usage_in_usermode": split.get("user", 0) * tick_ns,
        "percpu_usage": [int(value) for value in read(f"{account}/cpuacct.usage_percpu").split()],
    }
    return _cpu(usage, throttling, throttling.get("throttled_time", 0))


def _cpu_2(folder: str) -> Json:
    values = key_values(read(f"{folder}/cpu.stat"))
    usage = {
        "total_usage": values.get("usage_usec", 0) * _NS_PER_US,
        "usage_in_kernelmode": values.get("system_usec", 0) * _NS_PER_US,
        "usage_in_usermode": values.get("user_usec", 0) * _NS_PER_US,
    }
    return _cpu(usage, values, values.get("throttled_usec", 0) * _NS_PER_US)


def _cpu(usage: Json, throttling: dict[str, int], throttled_ns: int) -> Json:
    tick_ns = _NS_PER_S // os.sysconf("SC_CLK_TCK")
    host = read("/proc/stat").split("\n", 1)[0].split()[1:8]  # guest time is part of user time
    return {
        "cpu_usage": usage,
        "system_cpu_usage": sum(map(int, host)) * tick_ns,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttled_ns,
        },
    }


def _memory(prefix: str, usage: str, limit: str) -> Json:
    """The limit of a container without one is the host's memory, as Docker has it."""
    now = read(prefix + usage)
    if not now:
        return {}
    most = _number(read(prefix + limit))
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found: Json = {
        "usage": _number(now),
        "limit": most if 0 < most < _NO_LIMIT else host,
        "stats": key_values(read(f"{prefix}stat")),
    }
    if peak := read(f"{prefix}max_usage_in_bytes"):
        found.update(max_usage=_number(peak), failcnt=_number(read(f"{prefix}failcnt")))
    return found


def _pids(folder: str) -> Json:
    now = read(f"{folder}/pids.current")
    limit = _number(read(f"{folder}/pids.max"))
    return {"current": _number(now), **({"limit": limit} if limit else {})} if now else {}


def _throttle(folder: str, name: str) -> list[Json]:
    text = read(f"{folder}/blkio.throttle.{name}_recursive") or read(f"{folder}/blkio.throttle.{name}")
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return [_row(row[0], row[1], row[2].lower(), row[3]) for row in rows if len(row) == 4 and row[3].isdigit()]


def _io_stat(text: str) -> tuple[list[Json], list[Json]]:
    """Bytes and operations from ``io.stat``: ``8:0 rbytes=1 wbytes=2 rios=3 wios=4 …``."""
    found: tuple[list[Json], list[Json]] = ([], [])
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for rows, keys in zip(found, (("rbytes", "wbytes"), ("rios", "wios")), strict=True):
            for operation, key in zip(("read", "write"), keys, strict=True):
                if major.isdigit() and minor.isdigit() and values.get(key, "").isdigit():
                    rows.append(_row(major, minor, operation, values[key]))
    return found


def _row(major: str, minor: str, operation: str, value: str) -> Json:
    return {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}


def _blkio(bytes_: list[Json], operations: list[Json]) -> Json:
    rest: Json = {name: [] for name in _EMPTY_LISTS}
    return {"io_service_bytes_recursive": bytes_, "io_serviced_recursive": operations, **rest}


def _number(text: str) -> int:
    """The integer in *text*; 0 for ``max`` and for no text."""
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else 0
