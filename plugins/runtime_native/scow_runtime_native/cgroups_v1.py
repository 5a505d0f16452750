"""cgroup version 1: one folder per mounted hierarchy (Documentation/admin-guide/cgroup-v1).

A new group costs one mkdir per hierarchy; limits that a container does not have are not written.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, NotFound, Unavailable
from scow.linux import cgroup_tree, signals
from scow_runtime_native import limits_v1, realtime, stats
from scow_runtime_native.cgroups import (
    check_unused,
    key_values,
    number,
    read,
    remove_empty,
    write,
)
from scow_runtime_native.device_program import Exemption, Rules, reduce_rules
from scow_runtime_native.limits import Setting, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scow.linux.hierarchies import Hierarchies

_EVERYTHING = "a *:* rwm"
_FILES = {True: "devices.allow", False: "devices.deny"}
_FREEZE_TIMEOUT_S = 10.0
_DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.002


class CgroupsV1:
    """Implements `scow_runtime_native.cgroup_manager.Manager` over *hierarchies.v1*. *top* is the engine's own group,
    which gives its containers the real-time they ask for."""

    def __init__(self, hierarchies: Hierarchies, top: str = "scow") -> None:
        self._top = top
        self._mounts = dict(hierarchies.v1)
        self._unique = tuple(dict.fromkeys(self._mounts.values()))
        self._handing_on: set[str] = set()  # groups whose new ones start with their CPUs

    def create(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        made: list[str] = []
        try:
            for mount in self._unique:
                directory = f"{mount}/{path}"
                if self._make(directory, mount):
                    made.append(directory)
                else:
                    check_unused(directory)
            self._apply(path, resources, live=False)
        except BaseException:
            for directory in made:
                cgroup_tree.remove(directory)  # nothing has joined it yet
            raise

    def join_record(self, path: str, resources: Mapping[str, Any]) -> dict[str, Any]:
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

    def _make(self, directory: str, mount: str) -> bool:
        """The folder is there, and those above it; False where it was there before."""
        parent = os.path.dirname(directory)
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if self._make(parent, mount) and mount == self._mounts.get("cpuset"):
                write(f"{parent}/cgroup.clone_children", "1")
            return self._make(directory, mount)
        if mount == self._mounts.get("cpuset") and parent not in self._handing_on:
            self._fill_cpuset(directory, parent)
        return True

    def _fill_cpuset(self, directory: str, parent: str) -> None:
        """*directory* has the CPUs and memory nodes of *parent*; without any no process could join it. A group whose
        ``cgroup.clone_children`` is on has given them by itself, and will go on doing so."""
        filled = True
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not read(f"{directory}/{name}").strip():
                filled = False
                if not read(f"{parent}/{name}").strip():  # made by others and left empty, as podman's conmon does
                    self._fill_cpuset(parent, os.path.dirname(parent))
                write(f"{directory}/{name}", read(f"{parent}/{name}").strip())
        if filled:
            self._handing_on.add(parent)

    def _directory(self, controller: str, path: str) -> str:
        return f"{self._mounts[controller]}/{path}"

    def _folder(self, controller: str, path: str) -> str:
        if controller not in self._mounts:
            raise InvalidArgument(f"cannot limit {controller}: the host has no {controller} cgroup controller")
        return f"{self._mounts[controller]}/{path}"

    def _settings(self, path: str, resources: Mapping[str, Any], *, live: bool) -> Iterator[Setting]:
        def offered(controller: str, file: str) -> bool:
            return os.path.exists(f"{self._folder(controller, path)}/{file}")

        return limits_v1.settings(resources, offered, live=live)

    def _apply(self, path: str, resources: Mapping[str, Any], *, live: bool) -> None:
        settings = self._settings(path, resources, live=live)
        devices = resources.get("devices")
        limit_devices = None
        if devices and "devices" in self._mounts:
            limit_devices = functools.partial(self._apply_devices, path, devices, new=not live)
        cpu = resources.get("cpu") or {}
        if cpu.get("realtimeRuntime", 0) > 0 and "cpu" in self._mounts:
            period = cpu.get("realtimePeriod") or number(read(f"{self._folder('cpu', path)}/cpu.rt_period_us")) or 1
            realtime.make_room(self._mounts["cpu"], path, self._top, cpu["realtimeRuntime"], period)
        write_all(settings, lambda controller: self._folder(controller, path), live=live, last=limit_devices)

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
        if wanted.allow or _EVERYTHING in has:
            _write_rules(directory, [(bool(rule.get("allow")), device_rule(rule)) for rule in rules])
            return
        lines = {_line(exemption) for exemption in wanted.exemptions}
        allowed = [(True, line) for line in sorted(lines - has)]
        _write_rules(directory, allowed + [(False, line) for line in sorted(has - lines)])

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol. Raises `NotFound` where there is no group."""
        if not any(os.path.isdir(f"{mount}/{path}") for mount in self._unique):
            raise NotFound(f"no cgroup {path}")
        self._apply(path, resources, live=True)

    def processes(self, path: str) -> list[int]:
        """See the protocol."""
        return cgroup_tree.processes(f"{self._main}/{path}")

    @property
    def _main(self) -> str:
        """The hierarchy that is asked for processes: the one that freezes them."""
        return self._mounts.get("freezer") or self._mounts.get("pids") or self._unique[0]

    def signal_all(self, path: str, signum: int) -> None:
        """See the protocol. A kill happens in the frozen group, so that no fork escapes it."""
        freeze = signum == signals.SIGKILL and "freezer" in self._mounts
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
            while not cgroup_tree.remove(directory):
                self.signal_all(path, signals.SIGKILL)
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


def _write_rules(directory: str, rules: list[tuple[bool, str]]) -> None:
    """The rules hold in this order; where the kernel refuses one, what was changed before is taken back."""
    with contextlib.ExitStack() as stack:
        opened: dict[bool, int] = {}
        done: list[tuple[bool, str]] = []
        for allow, line in rules:
            if allow not in opened:
                opened[allow] = os.open(f"{directory}/{_FILES[allow]}", os.O_WRONLY | os.O_CLOEXEC)
                stack.callback(os.close, opened[allow])
            try:
                os.write(opened[allow], line.encode())
            except OSError as error:
                for allowed, other in reversed(done):
                    write(f"{directory}/{_FILES[not allowed]}", other)
                reason = os.strerror(error.errno or 0).lower()
                raise InvalidArgument(
                    f"cannot set {_FILES[allow]} to {line}: {reason}",
                    hint="the group above must be allowed the device too" if allow else None,
                ) from error
            done.append((allow, line))


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
