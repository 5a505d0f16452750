"""A container as this process holds it: its record, and what belongs to its present run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.engine.timeline import Timeline

if TYPE_CHECKING:
    from scow.engine.model import Container, ExecRecord
    from scow.engine.monitor_connection import MonitorConnection
    from scow.engine.sessions import StreamSession
    from scow.ports.runtime import Plan


class WaitResult(NamedTuple):
    """How a container ended; *error* is what kept it from starting or being watched."""

    exit_code: int
    error: str = ""


@dataclass(slots=True, eq=False)
class Live:
    """The record is replaced after each commit; the rest is this process's alone and is made again after a restart.

    *lock* orders what changes the container; no hook or driver that may call back runs under it. *ended* is set when
    the present run's end was recorded. *sessions* wait for the process to come. *exec_ends* are set when an exec's exit
    code is recorded. *spec* is the OCI configuration of the present run, for execs; *planned* the exec that was created
    last, and its plan, on which work goes on until it is started.
    """

    record: Container
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    monitor: MonitorConnection | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: list[StreamSession] = field(default_factory=list)
    waiters: list[tuple[str, asyncio.Future[WaitResult]]] = field(default_factory=list)
    execs: dict[str, ExecRecord] = field(default_factory=dict)
    exec_ends: dict[str, asyncio.Event] = field(default_factory=dict)
    spec: dict[str, Any] | None = None
    planned: tuple[str, asyncio.Task[Plan]] | None = None
    timeline: Timeline = field(default_factory=Timeline)
    restart: asyncio.Task[None] | None = None
    failures: int = 0
    stop_wanted: bool = False

    async def settled(self) -> None:
        """A start or an end that was under way is recorded: its output may have told a client before."""
        async with self.lock:
            return

    def forget_execs(self) -> None:
        """The run is over: no exec is known, and nobody waits for the end of one."""
        for end in self.exec_ends.values():
            end.set()
        self.exec_ends.clear()
        self.execs.clear()
        self.planned = None

    def resolve(self, conditions: tuple[str, ...], result: WaitResult) -> None:
        """Those who wait for one of *conditions* have *result*."""
        rest = []
        for condition, future in self.waiters:
            if condition not in conditions:
                rest.append((condition, future))
            elif not future.done():
                future.set_result(result)
        self.waiters = rest
