"""``linux.resources`` and ``linux.devices`` of the runtime spec: limits of the cgroup, and devices of the host."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from scow.engine import spec_defaults as defaults
from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scow.types import DeviceMapping, HostConfig, Resources, ThrottleDevice

_NOT_SCANNED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"})
_NS_PER_S = 1_000_000_000


def resources(host: HostConfig) -> dict[str, Any]:
    """The limits that *host* sets and its devices, as OCI ``linux.resources``; what it does not set is absent."""
    return {"devices": device_rules(host), **limits(host)}


def limits(host: Resources) -> dict[str, Any]:
    """As `resources`, without the devices."""
    made: dict[str, Any] = {}
    for key, value in (("memory", _memory(host)), ("cpu", _cpu(host)), ("blockIO", _block_io(host))):
        if value:
            made[key] = value
    if host.pids_limit is not None:
        made["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}  # 0 is no limit in Docker's API
    return made


def _memory(host: Resources) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory > 0:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or 2 * host.memory  # memory and swap together, as Docker has it
    elif host.memory_swap:
        memory["swap"] = host.memory_swap
    if host.memory_reservation > 0:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable is not None:
        memory["disableOOMKiller"] = host.oom_kill_disable
    return memory


def _cpu(host: Resources) -> dict[str, Any]:
    period, quota = host.cpu_period, host.cpu_quota
    if host.nano_cpus > 0:
        period = defaults.CPU_PERIOD_US
        quota = host.nano_cpus * period // _NS_PER_S
    values = {
        "shares": host.cpu_shares,
        "period": period,
        "quota": quota,
        "realtimePeriod": host.cpu_realtime_period,
        "realtimeRuntime": host.cpu_realtime_runtime,
        "cpus": host.cpuset_cpus,
        "mems": host.cpuset_mems,
    }
    return {key: value for key, value in values.items() if value}


def _block_io(host: Resources) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        block["weightDevice"] = [
            {**_numbers(device.path), "weight": device.weight} for device in host.blkio_weight_device
        ]
    for key, devices in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if devices:
            block[key] = [_throttle(device) for device in devices]
    return block


def changed_limits(before: Resources, after: Resources) -> dict[str, Any]:
    """What must be told to a running container with the limits *before* so that those of *after* hold.

    Values that the kernel holds against each other go together; a disk that is not limited any more is told so.
    """
    old, new = limits(before), limits(after)
    made: dict[str, Any] = {}
    for section in ("memory", "cpu"):
        has, wanted = old.get(section, {}), new.get(section, {})
        keys = {key for key in wanted if wanted[key] != has.get(key)}
        for pair in ({"limit", "swap"}, {"period", "quota"}):
            if keys & pair:
                keys |= pair & set(wanted)
        if keys:
            made[section] = {key: value for key, value in wanted.items() if key in keys}
    if new.get("pids") != old.get("pids"):
        made["pids"] = new.get("pids", {"limit": -1})
    block = _changed_block_io(old.get("blockIO", {}), new.get("blockIO", {}))
    if block:
        made["blockIO"] = block
    return made


def _changed_block_io(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key in dict.fromkeys((*new, *old)):
        if key == "weight":
            if new.get(key) != old.get(key):
                made[key] = new[key]
            continue
        amount = "weight" if key == "weightDevice" else "rate"
        had = {(item["major"], item["minor"]): item[amount] for item in old.get(key, ())}
        has = {(item["major"], item["minor"]): item[amount] for item in new.get(key, ())}
        items = [
            {"major": disk[0], "minor": disk[1], amount: has.get(disk, 0)}
            for disk in dict.fromkeys((*has, *had))
            if has.get(disk, 0) != had.get(disk, 0)
        ]
        if items:
            made[key] = items
    return made


def _throttle(device: ThrottleDevice) -> dict[str, Any]:
    return {**_numbers(device.path), "rate": device.rate}


def _numbers(path: str) -> dict[str, int]:
    try:
        number = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidArgument(f"cannot find device {path}: {os.strerror(error.errno or 0).lower()}") from error
    return {"major": os.major(number), "minor": os.minor(number)}


def device_rules(host: HostConfig) -> list[dict[str, Any]]:
    """What the devices controller lets the container do, in order."""
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = [dict(rule) for rule in defaults.DEVICE_RULES]
    for mapping in host.devices:
        for node in _nodes(mapping):
            access = mapping.cgroup_permissions or "rwm"
            rules.append({"allow": True, "access": access, **{key: node[key] for key in ("type", "major", "minor")}})
    return rules + [parse_device_rule(rule) for rule in host.device_cgroup_rules]


def parse_device_rule(text: str) -> dict[str, Any]:
    """``--device-cgroup-rule``: ``c 42:* rmw``. Raises `InvalidArgument` in Docker's words."""
    fields = text.split()
    error = InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    if len(fields) != 3 or fields[0] not in ("a", "b", "c") or not fields[2] or set(fields[2]) - set("rwm"):
        raise error
    numbers = fields[1].split(":")
    if len(numbers) != 2 or not all(part == "*" or part.isdigit() for part in numbers):
        raise error
    rule: dict[str, Any] = {"allow": True, "type": fields[0], "access": fields[2]}
    for key, part in zip(("major", "minor"), numbers, strict=True):
        if part != "*":
            rule[key] = int(part)
    return rule


def device_nodes(host: HostConfig) -> list[dict[str, Any]]:
    """The nodes that the container has besides the standard ones."""
    nodes: dict[str, dict[str, Any]] = {}
    if host.privileged:
        for path in _scan("/dev"):
            node = _node(path, path)
            if node is not None:
                nodes[path] = node
    for mapping in host.devices:
        for node in _nodes(mapping):
            nodes[node["path"]] = node
    return list(nodes.values())


def _nodes(mapping: DeviceMapping) -> list[dict[str, Any]]:
    """The device, or those below the directory, that *mapping* names. Raises `InvalidArgument` where there is none."""
    outside = mapping.path_on_host
    inside = mapping.path_in_container or outside
    reason = ""
    try:
        node = _node(outside, inside)
        if node is not None:
            return [node]
        if os.path.isdir(outside):
            found = [_node(path, inside + path[len(outside.rstrip("/")) :]) for path in _scan(outside)]
            return [node for node in found if node is not None]
        reason = "not a device node"
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
    raise InvalidArgument(f'error gathering device information while adding custom device "{outside}": {reason}')


def _node(path: str, inside: str) -> dict[str, Any] | None:
    """The device *path* as OCI object; None for what is no device. Raises `OSError`."""
    has = os.stat(path)
    kind = "c" if stat.S_ISCHR(has.st_mode) else "b" if stat.S_ISBLK(has.st_mode) else ""
    if not kind:
        return None
    return {
        "path": inside,
        "type": kind,
        "major": os.major(has.st_rdev),
        "minor": os.minor(has.st_rdev),
        "fileMode": stat.S_IMODE(has.st_mode),
        "uid": has.st_uid,
        "gid": has.st_gid,
    }


def _scan(directory: str) -> Iterator[str]:
    """Paths of the device nodes below *directory*; those of other filesystems' own (pts, shm) left out."""
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in _NOT_SCANNED or entry.is_symlink():
                continue
            if entry.is_dir():
                yield from _scan(entry.path)
            elif not entry.is_file():
                yield entry.path
