"""``process.scheduler``, ``ioPriority``, ``execCPUAffinity`` and ``linux.personality``, checked, as the numbers that
`scow_runtime_native.scheduling` hands to the kernel. In scowd, before the fork; raises `InvalidArgument`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

# linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}  # linux/ioprio.h
_CLASS_SHIFT = 13
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}  # personality(2)
_MAX_CPU = 1 << 16


def read(process: Mapping[str, Any], linux: Mapping[str, Any]) -> dict[str, Any]:
    """What of it the spec has; empty for most containers."""
    found: dict[str, Any] = {}
    if process.get("scheduler"):
        found["scheduler"] = _scheduler(process["scheduler"])
    if process.get("ioPriority"):
        found["io_priority"] = _io_priority(process["ioPriority"])
    if linux.get("personality"):
        found["personality"] = _personality(linux["personality"])
    affinity = process.get("execCPUAffinity") or {}
    for key in ("initial", "final"):
        if affinity.get(key):
            found[f"{key}_cpus"] = cpus(str(affinity[key]))
    return found


def _known(table: Mapping[str, int], value: Any, what: str) -> int:
    if value not in table:
        raise InvalidArgument(f"{what}: unknown value {value!r}", hint=f"known: {', '.join(table)}")
    return table[value]


def _scheduler(given: Mapping[str, Any]) -> list[int]:
    """Policy, flags, nice, priority, runtime, deadline and period: the fields of ``struct sched_attr`` in its order."""
    policy, name = _known(_POLICIES, given.get("policy"), "scheduler.policy"), given.get("policy")
    flags = sum({_known(_FLAGS, flag, "scheduler.flags") for flag in given.get("flags") or ()})
    nice, priority = int(given.get("nice") or 0), int(given.get("priority") or 0)
    times = [int(given.get(key) or 0) for key in ("runtime", "deadline", "period")]
    if name in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= nice <= 19:
        raise InvalidArgument(f"scheduler.nice: {nice} is not in -20 to 19")
    if priority and name not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidArgument(f"scheduler.priority: {name} has none, only SCHED_FIFO and SCHED_RR have")
    if any(times) and name != "SCHED_DEADLINE":
        raise InvalidArgument(f"scheduler.runtime, deadline and period: {name} has none, only SCHED_DEADLINE has")
    return [policy, flags, nice, priority, *times]


def _io_priority(given: Mapping[str, Any]) -> int:
    kind, level = _known(_CLASSES, given.get("class"), "ioPriority.class"), int(given.get("priority") or 0)
    if not 0 <= level <= 7:
        raise InvalidArgument(f"ioPriority.priority: {level} is not in 0 to 7")
    return kind << _CLASS_SHIFT | level


def _personality(given: Mapping[str, Any]) -> int:
    if given.get("flags"):
        raise InvalidArgument("personality.flags: the runtime spec knows none")
    return _known(_DOMAINS, given.get("domain"), "personality.domain")


def cpus(text: str) -> list[int]:
    """The numbers in a list such as ``0-3,7``."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InvalidArgument(f"execCPUAffinity: {text!r} is no list of CPUs such as 0-3,7")
        low, high = int(first), int(last or first)
        if not low <= high < _MAX_CPU:
            raise InvalidArgument(f"execCPUAffinity: {part!r} is no range of CPUs")
        found.update(range(low, high + 1))
    return sorted(found)
