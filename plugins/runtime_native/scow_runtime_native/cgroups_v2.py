"""cgroup version 2: one folder, limits in one namespace of files (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from typing import TYPE_CHECKING, Any

from scow.errors import NotFound, Unavailable
from scow.linux import cgroup_tree, signals
from scow_runtime_native import limits_v2, stats
from scow_runtime_native.cgroups import (
    check_unused,
    key_values,
    read,
    remove_empty,
    write,
)
from scow_runtime_native.limits import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scow.linux.hierarchies import Hierarchies

_WANTED = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb", "rdma", "misc")
_FREEZE_TIMEOUT_S = 10.0
_DELETE_TIMEOUT_S = 10.0
_POLL_S = 0.002


class CgroupsV2:
    """Implements `scow_runtime_native.cgroup_manager.Manager` below *hierarchies.v2*.

    *limit_devices* makes a device rule list hold for a folder (`scow_runtime_native.device_program`).
    """

    def __init__(
        self, hierarchies: Hierarchies, limit_devices: Callable[[str, Sequence[Mapping[str, Any]]], None] | None = None
    ) -> None:
        self._mount = hierarchies.v2 or ""
        self._available = hierarchies.v2_controllers
        self._controllers = [name for name in _WANTED if name in hierarchies.v2_controllers]
        self._limit_devices = limit_devices
        self._enabled: set[str] = set()

    def create(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        directory = self._directory(path)
        made = self._make(path)
        if not made:
            check_unused(directory)
        try:
            self._apply(directory, resources, live=False)
        except BaseException:
            if made:
                cgroup_tree.remove(directory)  # nothing has joined it yet
            raise

    def join_record(self, path: str, resources: Mapping[str, Any]) -> dict[str, Any]:
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

    def _make(self, path: str) -> bool:
        """The folder is there, and those above it hand their controllers on; False where it was there before."""
        while True:
            self._enable_down_to(os.path.dirname(path))
            try:
                os.mkdir(self._directory(path), 0o755)
            except FileNotFoundError:  # somebody tidied the empty ones above
                continue
            except FileExistsError:
                return False
            return True

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

    def _apply(self, directory: str, resources: Mapping[str, Any], *, live: bool) -> None:
        settings = limits_v2.settings(resources, directory, self._available, live=live)
        devices = resources.get("devices")
        limit_devices = None
        if devices and self._limit_devices is not None:
            limit_devices = functools.partial(self._limit_devices, directory, devices)
        write_all(settings, lambda _: directory, live=live, last=limit_devices)

    def update(self, path: str, resources: Mapping[str, Any]) -> None:
        """See the protocol. Raises `NotFound` where there is no group."""
        directory = self._directory(path)
        if not os.path.isdir(directory):
            raise NotFound(f"no cgroup {path}")
        self._apply(directory, resources, live=True)

    def processes(self, path: str) -> list[int]:
        """See the protocol."""
        return cgroup_tree.processes(self._directory(path))

    def signal_all(self, path: str, signum: int) -> None:
        """See the protocol. ``cgroup.kill`` needs Linux 5.14; before that one process after the other is killed."""
        directory = self._directory(path)
        if signum == signals.SIGKILL and os.path.exists(f"{directory}/cgroup.kill"):
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
        while not cgroup_tree.remove(directory):
            self.signal_all(path, signals.SIGKILL)
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
