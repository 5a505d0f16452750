"""cgroup version 2: one folder, limits in one namespace of files (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, NotFound, Unavailable
from scow_runtime_native import stats
from scow_runtime_native.cgroups import Hierarchies, folders, key_values, number, read, remove, remove_empty, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_WANTED = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")
_FREEZE_TIMEOUT_S = 10.0
_DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.002
_DEFAULT_PERIOD_US = 100_000
_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


class CgroupsV2:
    """Implements `scow_runtime_native.cgroups.Manager` below *hierarchies.v2*.

    *limit_devices* makes a device rule list hold for a folder (`scow_runtime_native.device_program`).
    """

    def __init__(
        self, hierarchies: Hierarchies, limit_devices: Callable[[str, Sequence[Mapping[str, Any]]], None] | None = None
    ) -> None:
        self._mount = hierarchies.v2 or ""
        self._controllers = [name for name in _WANTED if name in hierarchies.v2_controllers]
        self._limit_devices = limit_devices
        self._enabled: set[str] = set()

    def create(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        directory = self._directory(path)
        self._enable_down_to(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o755)
        try:
            self._apply(directory, resources)
        except BaseException:
            self.delete(path)
            raise

    def join_record(self, path: str) -> dict[str, Any]:
        """See the protocol."""
        directory = self._directory(path)
        return {
            "version": 2,
            "directory": directory,
            "mount": self._mount,
            "oom_file": f"{directory}/memory.events",
        }

    def _directory(self, path: str) -> str:
        return f"{self._mount}/{path}"

    def _enable_down_to(self, path: str) -> None:
        """Every folder down to *path* exists and hands the controllers on."""
        parts = path.split("/")
        for depth in range(len(parts) + 1):
            folder = "/".join([self._mount, *parts[:depth]])
            if folder in self._enabled and os.path.isdir(folder):
                continue
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o755)
            for controller in self._controllers:
                try:
                    write(f"{folder}/cgroup.subtree_control", f"+{controller}")
                except OSError as error:
                    # EBUSY: a process in that group; ENOENT, EINVAL: the controller is not handed down to here
                    if error.errno not in (errno.EBUSY, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
                        raise
            self._enabled.add(folder)

    def _apply(self, directory: str, resources: Mapping[str, Any]) -> None:
        for file, value in _settings(resources, directory):
            try:
                write(f"{directory}/{file}", value)
            except FileNotFoundError as error:
                if file == "memory.swap.max":  # a kernel without swap accounting: Docker only warns
                    continue
                raise InvalidArgument(f"cannot set {file} to {value}: this host does not offer it") from error
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise InvalidArgument(f"cannot set {file} to {value}: {reason}") from error
        devices = resources.get("devices")
        if devices and self._limit_devices is not None:
            self._limit_devices(directory, devices)

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol. Raises `NotFound` where there is no group."""
        directory = self._directory(path)
        if not os.path.isdir(directory):
            raise NotFound(f"no cgroup {path}")
        self._apply(directory, resources)

    def processes(self, path: str) -> list[int]:
        """See the protocol."""
        found: list[int] = []
        for folder in folders(self._directory(path)):
            found += [int(pid) for pid in read(f"{folder}/cgroup.procs").split()]
        return found

    def signal_all(self, path: str, signum: int) -> None:
        """See the protocol. ``cgroup.kill`` needs Linux 5.14; before that one process after the other is killed."""
        directory = self._directory(path)
        if signum == signal.SIGKILL and os.path.exists(f"{directory}/cgroup.kill"):
            write(f"{directory}/cgroup.kill", "1")
            return
        for pid in self.processes(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def freeze(self, path: str, frozen: bool) -> None:
        """See the protocol."""
        directory = self._directory(path)
        try:
            write(f"{directory}/cgroup.freeze", "1" if frozen else "0")
        except FileNotFoundError as error:
            raise NotFound(f"no cgroup {path}") from error
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        while key_values(read(f"{directory}/cgroup.events")).get("frozen", int(frozen)) != int(frozen):
            if time.monotonic() > deadline:
                write(f"{directory}/cgroup.freeze", "0")
                raise Unavailable(f"cannot freeze {path}: a process does not stop")
            time.sleep(_POLL_S)

    def oom_kills(self, path: str) -> int:
        """See the protocol."""
        return key_values(read(f"{self._directory(path)}/memory.events")).get("oom_kill", 0)

    def stats(self, path: str) -> dict[str, Any]:
        """See the protocol."""
        directory = self._directory(path)
        if not os.path.isdir(directory):
            raise NotFound(f"no cgroup {path}")
        return stats.version_2(directory)

    def delete(self, path: str) -> None:
        """See the protocol."""
        directory = self._directory(path)
        deadline = time.monotonic() + _DELETE_TIMEOUT_S
        while not remove(directory):
            self.signal_all(path, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Unavailable(f"cannot remove cgroup {directory}: processes {self.processes(path)} stay")
            time.sleep(_POLL_S)

    def tidy(self, path: str) -> None:
        """See the protocol."""
        remove_empty(self._mount, path)

    def children(self, path: str) -> list[str]:
        """See the protocol."""
        try:
            with os.scandir(self._directory(path)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []


def weight(shares: int) -> int:
    """``cpu.weight`` (1 to 10000) for version 1's *shares* (2 to 262144), as runc and systemd convert them."""
    return 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142


def _settings(resources: Mapping[str, Any], directory: str) -> Iterator[tuple[str, str]]:
    """OCI resources as (file, value)."""
    yield from _memory(resources.get("memory") or {})
    cpu: Mapping[str, Any] = resources.get("cpu") or {}
    if cpu.get("shares"):
        yield "cpu.weight", str(weight(cpu["shares"]))
    if cpu.get("quota") or cpu.get("period"):
        had = read(f"{directory}/cpu.max").split()
        quota = cpu.get("quota") or number(had[0] if had else "", -1)
        period = cpu.get("period") or number(had[1] if len(had) > 1 else "", _DEFAULT_PERIOD_US)
        yield "cpu.max", f"{quota if quota > 0 else 'max'} {period}"
    if cpu.get("cpus"):
        yield "cpuset.cpus", cpu["cpus"]
    if cpu.get("mems"):
        yield "cpuset.mems", cpu["mems"]
    pids = (resources.get("pids") or {}).get("limit")
    if pids:
        yield "pids.max", str(pids) if pids > 0 else "max"
    block: Mapping[str, Any] = resources.get("blockIO") or {}
    if block.get("weight"):
        yield "io.weight", f"default {1 + (block['weight'] - 10) * 9999 // 990}"
    for device in block.get("weightDevice") or ():
        yield "io.weight", f"{device['major']}:{device['minor']} {1 + (device['weight'] - 10) * 9999 // 990}"
    for key, name in _THROTTLES.items():
        for device in block.get(key) or ():
            yield "io.max", f"{device['major']}:{device['minor']} {name}={device['rate']}"


def _memory(memory: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap:
        if swap < 0:
            yield "memory.swap.max", "max"
        elif limit and limit > 0:
            yield "memory.swap.max", str(max(swap - limit, 0))  # OCI counts memory and swap together
    if limit:
        yield "memory.max", str(limit) if limit > 0 else "max"
    if memory.get("reservation"):
        yield "memory.low", str(memory["reservation"])
