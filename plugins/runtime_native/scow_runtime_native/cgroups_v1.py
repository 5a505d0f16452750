"""cgroup version 1: one folder per mounted hierarchy (Documentation/admin-guide/cgroup-v1).

A new group costs one mkdir per hierarchy; limits that a container does not have are not written.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, NotFound, Unavailable
from scow_runtime_native import stats
from scow_runtime_native.cgroups import Hierarchies, folders, key_values, number, read, remove, remove_empty, write
from scow_runtime_native.device_program import Exemption, Rules, reduce_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_EVERYTHING = "a *:* rwm"
_FREEZE_TIMEOUT_S = 10.0
_DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.002
_THROTTLES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}


class CgroupsV1:
    """Implements `scow_runtime_native.cgroups.Manager` over *hierarchies.v1*."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._mounts = dict(hierarchies.v1)
        self._unique = tuple(dict.fromkeys(self._mounts.values()))

    def create(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        try:
            for mount in self._unique:
                self._make(f"{mount}/{path}", mount)
            self._apply(path, resources, new=True)
        except BaseException:
            self.delete(path)
            raise

    def join_record(self, path: str) -> dict[str, Any]:
        """See the protocol."""
        links = [
            [controller, os.path.basename(mount)]
            for controller, mount in self._mounts.items()
            if controller != os.path.basename(mount)
        ]
        return {
            "version": 1,
            "tasks": [f"{mount}/{path}/tasks" for mount in self._unique],
            "hierarchies": [[os.path.basename(mount), f"{mount}/{path}"] for mount in self._unique],
            "links": links,
            "oom_file": f"{self._directory('memory', path)}/memory.oom_control" if "memory" in self._mounts else "",
        }

    def _make(self, directory: str, mount: str) -> None:
        try:
            os.mkdir(directory, 0o755)
        except FileNotFoundError:
            parent = os.path.dirname(directory)
            self._make(parent, mount)
            if mount == self._mounts.get("cpuset"):
                self._fill_cpuset(parent)
                write(f"{parent}/cgroup.clone_children", "1")
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return
        if mount == self._mounts.get("cpuset"):
            self._fill_cpuset(directory)

    def _fill_cpuset(self, directory: str) -> None:
        """*directory* has CPUs and memory nodes, those of the groups above it where others made these and left them
        empty (podman's conmon does); without them no process could join."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not read(f"{directory}/{name}").strip():
                parent = os.path.dirname(directory)
                if not read(f"{parent}/{name}").strip():
                    self._fill_cpuset(parent)
                write(f"{directory}/{name}", read(f"{parent}/{name}").strip())

    def _directory(self, controller: str, path: str) -> str:
        return f"{self._mounts[controller]}/{path}"

    def _apply(self, path: str, resources: Mapping[str, Any], *, new: bool) -> None:
        devices = resources.get("devices")
        if devices and "devices" in self._mounts:
            self._apply_devices(path, devices, new=new)
        memory = resources.get("memory")
        if memory:
            self._apply_memory(path, memory)
        for controller, file, value in _settings(resources):
            if controller not in self._mounts:
                raise InvalidArgument(f"cannot limit {file}: the host has no {controller} cgroup controller")
            self._set(controller, path, file, value)

    def _set(self, controller: str, path: str, file: str, value: str) -> None:
        try:
            write(f"{self._directory(controller, path)}/{file}", value)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            if isinstance(error, FileNotFoundError):
                reason = "this kernel does not offer it"
            raise InvalidArgument(f"cannot set {file} to {value}: {reason}") from error

    def _apply_devices(self, path: str, rules: Sequence[Mapping[str, Any]], *, new: bool) -> None:
        """A new group takes the rules in their order; in a live one no device that stays allowed is refused for a
        moment: what is missing is allowed first, then what is too much is denied."""
        directory = self._directory("devices", path)
        wanted = reduce_rules(rules)
        if wanted == Rules(True, ()):
            if not new:  # a new group may do what its parent may
                write(f"{directory}/devices.allow", "a")
            return
        has = set(read(f"{directory}/devices.list").splitlines()) if not new else {_EVERYTHING}
        with contextlib.ExitStack() as stack:
            if wanted.allow or _EVERYTHING in has:
                _write_rules(stack, directory, [(bool(rule.get("allow")), device_rule(rule)) for rule in rules])
                return
            lines = {_line(exemption) for exemption in wanted.exemptions}
            allowed = [(True, line) for line in sorted(lines - has)]
            _write_rules(stack, directory, allowed + [(False, line) for line in sorted(has - lines)])

    def _apply_memory(self, path: str, memory: Mapping[str, Any]) -> None:
        if "memory" not in self._mounts:
            raise InvalidArgument("cannot limit memory: the host has no memory cgroup controller")
        directory = self._directory("memory", path)
        limit, swap = memory.get("limit"), memory.get("swap")
        swap_file = "memory.memsw.limit_in_bytes"
        writes = []
        if limit:
            writes.append(("memory.limit_in_bytes", str(limit)))
        if swap and os.path.exists(f"{directory}/{swap_file}"):
            # the sum may not be below the memory limit at any moment: raise it first, lower it last
            raised = swap < 0 or swap > number(read(f"{directory}/{swap_file}"))
            writes.insert(0 if raised else len(writes), (swap_file, str(swap)))
        if memory.get("reservation"):
            writes.append(("memory.soft_limit_in_bytes", str(memory["reservation"])))
        if memory.get("swappiness") is not None:
            writes.append(("memory.swappiness", str(memory["swappiness"])))
        if memory.get("disableOOMKiller"):
            writes.append(("memory.oom_control", "1"))
        for file, value in writes:
            self._set("memory", path, file, value)

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol. Raises `NotFound` where there is no group."""
        if not any(os.path.isdir(f"{mount}/{path}") for mount in self._unique):
            raise NotFound(f"no cgroup {path}")
        self._apply(path, resources, new=False)

    def processes(self, path: str) -> list[int]:
        """See the protocol."""
        directory = f"{self._main}/{path}"
        found: list[int] = []
        for folder in folders(directory):
            found += [int(pid) for pid in read(f"{folder}/cgroup.procs").split()]
        return found

    @property
    def _main(self) -> str:
        """The hierarchy that is asked for processes: the one that freezes them."""
        return self._mounts.get("freezer") or self._mounts.get("pids") or self._unique[0]

    def signal_all(self, path: str, signum: int) -> None:
        """See the protocol. A kill happens in the frozen group, so that no fork escapes it."""
        freeze = signum == signal.SIGKILL and "freezer" in self._mounts
        try:
            if freeze:
                self._state(path, "FROZEN")
            for pid in self.processes(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
        finally:
            if freeze:
                self._state(path, "THAWED")

    def _state(self, path: str, state: str) -> None:
        with contextlib.suppress(FileNotFoundError, OSError):
            write(f"{self._directory('freezer', path)}/freezer.state", state)

    def freeze(self, path: str, frozen: bool) -> None:
        """See the protocol."""
        if "freezer" not in self._mounts:
            raise Unavailable("cannot pause: the host has no freezer cgroup controller")
        wanted = "FROZEN" if frozen else "THAWED"
        file = f"{self._directory('freezer', path)}/freezer.state"
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        while True:
            try:
                write(file, wanted)
            except FileNotFoundError as error:
                raise NotFound(f"no cgroup {path}") from error
            if read(file).strip() == wanted:
                return
            if time.monotonic() > deadline:
                write(file, "THAWED")
                raise Unavailable(f"cannot freeze {path}: a process does not stop")
            time.sleep(_POLL_S)  # written anew each time: a process that forked meanwhile is caught by that

    def oom_kills(self, path: str) -> int:
        """See the protocol (the counter needs Linux 4.13)."""
        if "memory" not in self._mounts:
            return 0
        return key_values(read(f"{self._directory('memory', path)}/memory.oom_control")).get("oom_kill", 0)

    def stats(self, path: str) -> dict[str, Any]:
        """See the protocol."""
        if not os.path.isdir(f"{self._main}/{path}"):
            raise NotFound(f"no cgroup {path}")
        directories = {controller: f"{mount}/{path}" for controller, mount in self._mounts.items()}
        return stats.version_1(directories)

    def delete(self, path: str) -> None:
        """See the protocol."""
        deadline = time.monotonic() + _DELETE_TIMEOUT_S
        for mount in self._unique:
            directory = f"{mount}/{path}"
            while not remove(directory):
                self.signal_all(path, signal.SIGKILL)
                if time.monotonic() > deadline:
                    raise Unavailable(f"cannot remove cgroup {directory}: processes {self.processes(path)} stay")
                time.sleep(_POLL_S)

    def tidy(self, path: str) -> None:
        """See the protocol."""
        for mount in self._unique:
            remove_empty(mount, path)

    def children(self, path: str) -> list[str]:
        """See the protocol. Of every hierarchy: a crash may have left a group in some of them only."""
        found: set[str] = set()
        for mount in self._unique:
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{mount}/{path}") as entries:
                found |= {entry.name for entry in entries if entry.is_dir()}
        return sorted(found)


def _write_rules(stack: contextlib.ExitStack, directory: str, rules: list[tuple[bool, str]]) -> None:
    opened: dict[str, int] = {}
    for allow, line in rules:
        file = "devices.allow" if allow else "devices.deny"
        if file not in opened:
            opened[file] = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, opened[file])
        os.write(opened[file], line.encode())


def _line(exemption: Exemption) -> str:
    """As ``devices.list`` shows it."""
    major, minor = ("*" if value < 0 else str(value) for value in (exemption.major, exemption.minor))
    return f"{exemption.type} {major}:{minor} {''.join(letter for letter in 'rwm' if letter in exemption.access)}"


def device_rule(rule: Mapping[str, Any]) -> str:
    """An OCI device rule as the devices controller reads it: ``c 1:3 rwm``."""
    kind = rule.get("type") or "a"
    numbers = [rule.get("major"), rule.get("minor")]
    major, minor = ("*" if value is None or value < 0 else str(value) for value in numbers)
    return f"{kind} {major}:{minor} {rule.get('access') or 'rwm'}"


def _settings(resources: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The OCI resources other than memory and devices as (controller, file, value)."""
    cpu: Mapping[str, Any] = resources.get("cpu") or {}
    if cpu.get("shares"):
        yield "cpu", "cpu.shares", str(cpu["shares"])
    if cpu.get("period"):
        yield "cpu", "cpu.cfs_period_us", str(cpu["period"])
    if cpu.get("quota"):
        yield "cpu", "cpu.cfs_quota_us", str(cpu["quota"])
    if cpu.get("realtimePeriod"):
        yield "cpu", "cpu.rt_period_us", str(cpu["realtimePeriod"])
    if cpu.get("realtimeRuntime"):
        yield "cpu", "cpu.rt_runtime_us", str(cpu["realtimeRuntime"])
    if cpu.get("cpus"):
        yield "cpuset", "cpuset.cpus", cpu["cpus"]
    if cpu.get("mems"):
        yield "cpuset", "cpuset.mems", cpu["mems"]
    pids = (resources.get("pids") or {}).get("limit")
    if pids:
        yield "pids", "pids.max", str(pids) if pids > 0 else "max"
    block: Mapping[str, Any] = resources.get("blockIO") or {}
    if block.get("weight"):
        yield "blkio", "blkio.weight", str(block["weight"])
    for device in block.get("weightDevice") or ():
        yield "blkio", "blkio.weight_device", f"{device['major']}:{device['minor']} {device['weight']}"
    for key, file in _THROTTLES.items():
        for device in block.get(key) or ():
            yield "blkio", file, f"{device['major']}:{device['minor']} {device['rate']}"
