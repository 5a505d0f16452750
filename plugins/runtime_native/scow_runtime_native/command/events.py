"""events: a container's statistics in runc's form, and its out-of-memory kills."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from scow.errors import Conflict, InvalidArgument, NotFound
from scow_runtime_native.command import store

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_OOM_POLL_S = 0.5
_BLKIO = {
    "io_service_bytes_recursive": "ioServiceBytesRecursive", "io_serviced_recursive": "ioServicedRecursive",
    "io_queue_recursive": "ioQueueRecursive", "io_service_time_recursive": "ioServiceTimeRecursive",
    "io_wait_time_recursive": "ioWaitTimeRecursive", "io_merged_recursive": "ioMergedRecursive",
    "io_time_recursive": "ioTimeRecursive", "sectors_recursive": "sectorsRecursive",
}  # fmt: skip


def seconds(text: str) -> float:
    """The Go duration *text* of one unit, such as ``5s``."""
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * factor
    raise InvalidArgument(f"--interval: {text!r} is not a duration", hint="such as 5s")


def statistics(root: str, id: str) -> dict[str, Any]:
    """The event ``stats`` of container *id*, as of now. Raises `Conflict` where it has ended."""
    from scow_runtime_native.command.runtime import Driver

    container = store.find(root, id)
    status = container.status()
    if status in ("stopped", "creating"):
        raise Conflict(f"container not running: {id!r} is {status}")
    return {"type": "stats", "id": id, "data": in_runcs_form(Driver(root, container).stats(id))}


def follow(root: str, id: str, interval_s: float) -> None:
    """Events are written to stdout, a line each, until the container has ended."""
    from scow_runtime_native.command.runtime import Driver

    container = store.find(root, id)
    if container.status() in ("stopped", "creating"):
        raise Conflict(f"container not running: {id!r} is {container.status()}")
    driver, told, due = Driver(root, container), False, time.monotonic()
    while container.alive():
        if not told and driver.oom_killed(id):
            _write({"type": "oom", "id": id})
            told = True
        if time.monotonic() >= due:
            try:
                _write(statistics(root, id))
            except (Conflict, NotFound):
                return
            due += interval_s
        time.sleep(max(0.0, min(_OOM_POLL_S, due - time.monotonic())))


def _write(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def in_runcs_form(stats: dict[str, Any]) -> dict[str, Any]:
    """Docker's statistics *stats* as the ``data`` of runc's event."""
    cpu, memory = stats["cpu_stats"], stats["memory_stats"]
    usage, throttling, detail = cpu["cpu_usage"], cpu["throttling_data"], memory.get("stats") or {}
    return {
        "cpu": {
            "usage": {
                "total": usage["total_usage"],
                "percpu": usage.get("percpu_usage") or [],
                "kernel": usage["usage_in_kernelmode"],
                "user": usage["usage_in_usermode"],
            },
            "throttling": {
                "periods": throttling["periods"],
                "throttledPeriods": throttling["throttled_periods"],
                "throttledTime": throttling["throttled_time"],
            },
        },
        "memory": {
            "cache": detail.get("cache", detail.get("file", 0)),
            "usage": {
                "limit": memory.get("limit", 0),
                "usage": memory.get("usage", 0),
                "max": memory.get("max_usage", 0),
                "failcnt": memory.get("failcnt", 0),
            },
            "raw": detail,
        },
        "pids": stats["pids_stats"],
        "blkio": {name: stats["blkio_stats"].get(key) or [] for key, name in _BLKIO.items()},
    }
