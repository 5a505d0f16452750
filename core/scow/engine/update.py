"""``update``: limits and restart policy of a container, changed while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scow.engine import spec
from scow.engine.restart_policy import check_policy
from scow.errors import Conflict, ScowError
from scow.ports import RUNTIME
from scow.types import Resources

if TYPE_CHECKING:
    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.types import HostConfig, RestartPolicy, ThrottleDevice, WeightDevice

_RATES = ("blkio_device_read_bps", "blkio_device_write_bps", "blkio_device_read_iops", "blkio_device_write_iops")
_DEVICES = (*_RATES, "blkio_weight_device")
_LIMITS = (  # of Resources: what can change while a container runs
    "cpu_shares", "memory", "blkio_weight", "cpu_period", "cpu_quota", "cpu_realtime_period", "cpu_realtime_runtime",
    "cpuset_cpus", "cpuset_mems", "memory_reservation", "memory_swap", "memory_swappiness", "kernel_memory",
    "nano_cpus", "oom_kill_disable", "pids_limit", *_DEVICES,
)  # fmt: skip


async def update(containers: Containers, live: Live, resources: Resources, policy: RestartPolicy | None) -> list[str]:
    """The values given (those that differ from "no limit") replace the container's; answers warnings.

    Everything is checked before anything changes; the kernel is told before the record is stored. Of limits for a
    disk, those of the other disks stay, and a rate or weight of 0 takes one away.
    """
    async with live.lock:
        record = live.record
        if record.state.status in ("removing", "dead"):
            raise Conflict(f"container {record.id} is being removed")
        try:
            host = changed(record.host_config, resources)
            if policy is not None and policy.name:
                host.restart_policy = policy
            check_policy(host)
            warnings = spec.validate(record.config, host, update=True)
            limits = spec.changed_limits(record.host_config, host) if record.state.running else {}
            if limits:
                await containers.drivers.call(RUNTIME, record.runtime, "update", lambda d: d.update(record.id, limits))
        except ScowError as error:
            error.message = f"Cannot update container {record.id}: {error.message}"
            raise
        await containers.save(live, msgspec.structs.replace(record, host_config=host))
    containers.tell(live, "update")
    return warnings


def changed(has: HostConfig, given: Resources) -> HostConfig:
    """*has* with what *given* sets. Raises `Conflict` in Docker's words for what does not go with what is set."""
    _check_conflicts(has, given)
    empty = Resources()
    values: dict[str, Any] = {
        name: getattr(given, name) for name in _LIMITS if getattr(given, name) != getattr(empty, name)
    }
    for name in _DEVICES:
        if name in values:
            values[name] = _merged(getattr(has, name), values[name], "weight" if "weight" in name else "rate")
    host = msgspec.structs.replace(has, **values)
    if given.memory > 0 and not host.memory_swap:
        host.memory_swap = 2 * host.memory
    return host


def _merged(
    has: list[ThrottleDevice] | list[WeightDevice], given: list[ThrottleDevice] | list[WeightDevice], amount: str
) -> list[Any]:
    merged = {device.path: device for device in (*has, *given)}
    return [device for device in merged.values() if getattr(device, amount)]


def _check_conflicts(has: HostConfig, given: Resources) -> None:
    for wanted, what, other, already in (
        (given.nano_cpus, "Nano CPUs", has.cpu_period, "CPU Period has"),
        (given.nano_cpus, "Nano CPUs", has.cpu_quota, "CPU Quota has"),
        (given.cpu_period, "CPU Period", has.nano_cpus, "NanoCPUs has"),
        (given.cpu_quota, "CPU Quota", has.nano_cpus, "NanoCPUs has"),
    ):
        if wanted > 0 and other > 0:
            raise Conflict(f"Conflicting options: {what} cannot be updated as {already} already been set")
    total = has.memory_swap or 2 * has.memory
    if given.memory > 0 and not given.memory_swap and 0 < total < given.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
