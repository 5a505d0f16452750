"""update: other limits for a live container."""

from __future__ import annotations

import sys
from typing import Any

from scow.errors import Conflict, InvalidArgument
from scow_runtime_native.command import bundle, store

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_CPU = {
    "cpu_period": "period", "cpu_quota": "quota", "cpu_burst": "burst", "cpu_share": "shares", "cpu_idle": "idle",
    "cpu_rt_period": "realtimePeriod", "cpu_rt_runtime": "realtimeRuntime", "cpuset_cpus": "cpus",
    "cpuset_mems": "mems",
}  # fmt: skip
_MEMORY = {"memory": "limit", "memory_reservation": "reservation", "memory_swap": "swap"}


def update(root: str, id: str, values: dict[str, Any]) -> None:
    """The limits that *values*, the command's flags, name hold for container *id*."""
    from scow_runtime_native.command.runtime import Driver

    with store.locked(store.find(root, id)) as container:
        status = container.status()
        if status == "stopped":
            raise Conflict(f"container not running: {id!r} is {status}")
        resources = _from_file(values["resources"]) if values["resources"] else from_flags(values)
        Driver(root, container).update(id, resources)


def _from_file(name: str) -> dict[str, Any]:
    if name == "-":
        return with_default_devices(bundle.parse(sys.stdin.buffer.read(), "stdin"))
    try:
        with open(name, "rb") as file:
            return with_default_devices(bundle.parse(file.read(), name))
    except OSError as error:
        raise InvalidArgument(f"cannot read the resources file {name}: {error.strerror}") from error


def with_default_devices(resources: dict[str, Any]) -> dict[str, Any]:
    """*resources*; where they have device rules, those of the default devices come last, as at create."""
    if resources.get("devices"):
        return {**resources, "devices": [*resources["devices"], *bundle.default_device_rules()]}
    return resources


def from_flags(values: dict[str, Any]) -> dict[str, Any]:
    """The OCI ``linux.resources`` of the flags that were given."""
    cpu = {key: values[flag] for flag, key in _CPU.items() if values[flag] not in (None, "")}
    memory = {key: amount(flag, values[flag]) for flag, key in _MEMORY.items() if values[flag]}
    resources: dict[str, Any] = {"cpu": cpu} if cpu else {}
    if memory:
        resources["memory"] = memory
    if values["pids_limit"] is not None:
        resources["pids"] = {"limit": values["pids_limit"]}
    if values["blkio_weight"] is not None:
        resources["blockIO"] = {"weight": values["blkio_weight"]}
    return resources


def amount(flag: str, text: str) -> int:
    """*text*, such as ``512m`` or ``-1``, in bytes."""
    digits = text.lower().removesuffix("ib").removesuffix("b") or text
    number, unit = (digits[:-1], digits[-1]) if digits[-1:].isalpha() else (digits, "")
    try:
        return int(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise InvalidArgument(f"--{flag.replace('_', '-')}: {text!r} is not a size", hint="such as 512m") from None
