"""A runtime without namespaces and cgroups: programs run on the host, as the user who runs the tests.

With it the whole engine (create, start, attach, exec, exit, restart of the daemon) is tested without root.
"""

from __future__ import annotations

import os
import shutil
import signal as signals
from typing import TYPE_CHECKING, Any

from scow.errors import NotFound
from scow.ports.runtime import Plan, RuntimeInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scow.ports import DriverContext, Mount


class FakeRuntime:
    """A `scow.ports.runtime.Runtime`; *calls* records ``(method, id)``, *paused* the ids that are frozen.

    *fail_create* is raised by the next `create`.
    """

    child_module = "scow.testing.fake_child"

    def __init__(self, context: DriverContext | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.paused: set[str] = set()
        self.known: set[str] = set()
        self.fail_create: Exception | None = None

    def check(self) -> None:
        """Runs everywhere."""

    def info(self) -> RuntimeInfo:
        """Says that it is fake."""
        return RuntimeInfo("fake", "2", "none", features={"user_namespaces": True})

    def create(self, id: str, spec: Mapping[str, Any], root: Sequence[Mount], bundle: Path) -> Plan:
        """A plan of the child module from the spec's process."""
        self.calls.append(("create", id))
        if self.fail_create is not None:
            error, self.fail_create = self.fail_create, None
            raise error
        self.known.add(id)
        return _plan(spec["process"])

    def exec(self, id: str, spec: Mapping[str, Any], process: Mapping[str, Any]) -> Plan:
        """As `create`, for a further process."""
        self.calls.append(("exec", id))
        return _plan(process)

    def processes(self, id: str) -> list[int]:
        """Not known: there is no cgroup."""
        return []

    def signal_all(self, id: str, signal: int) -> None:
        """Only recorded; the monitor signals the init itself."""
        self.calls.append((f"signal {signals.Signals(signal).name}", id))

    def pause(self, id: str) -> None:
        """Only recorded."""
        self.paused.add(id)

    def resume(self, id: str) -> None:
        """Only recorded."""
        self.paused.discard(id)

    def update(self, id: str, resources: Mapping[str, Any]) -> None:
        """Only recorded."""
        self.calls.append(("update", id))

    def oom_killed(self, id: str) -> bool:
        """Never."""
        return False

    def stats(self, id: str) -> dict[str, Any]:
        """Zeros."""
        if id not in self.known:
            raise NotFound(f"no container {id[:12]}")
        return {"cpu_stats": {}, "memory_stats": {}, "pids_stats": {"current": 1}, "blkio_stats": {}}

    def delete(self, id: str) -> None:
        """Only recorded."""
        self.calls.append(("delete", id))
        self.known.discard(id)

    def list(self) -> list[str]:
        """Those created and not deleted by this object."""
        return sorted(self.known)

    def close(self) -> None:
        """Nothing to release."""


def _plan(process: Mapping[str, Any]) -> Plan:
    environment = [entry for entry in process["env"] if not entry.startswith("PATH=")]
    program, *arguments = process["args"]
    environment.append(f"PATH={os.defpath}")
    return {"args": [shutil.which(program) or program, *arguments], "env": environment, "cwd": "/"}
