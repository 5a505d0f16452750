"""Further processes in running containers."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from scow.engine import spec
from scow.engine.detach import parse_keys
from scow.engine.framing import between
from scow.engine.model import ExecRecord
from scow.engine.names import new_id
from scow.engine.sessions import StreamSession
from scow.errors import CannotRun, CommandNotFound, Conflict, InvalidArgument, NotFound, ScowError, Unavailable
from scow.ports import RUNTIME

if TYPE_CHECKING:
    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.engine.model import Container
    from scow.engine.monitor_connection import MonitorConnection
    from scow.ports.runtime import Plan
    from scow.types import ExecRequest

log = logging.getLogger(__name__)


class Execs:
    """The execs of running containers; they are gone when the run ends."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    async def create(self, container_ref: str, request: ExecRequest) -> str:
        """An exec that is not started; its id. Raises `Conflict` where the container does not run or is paused."""
        live = self._containers.live(container_ref)
        await live.settled()
        _check_running(live.record)
        if not request.cmd:
            raise InvalidArgument("No exec command specified")
        parse_keys(request.detach_keys)
        record = ExecRecord(id=new_id(), container_id=live.record.id, request=request)
        live.execs[record.id] = record
        command = " ".join(request.cmd)
        self._containers.tell(live, f"exec_create: {command}", {"execID": record.id})
        planning = asyncio.ensure_future(self._plan(live, request))  # while the client hears of it and asks to start it
        planning.add_done_callback(_told_at_start)
        live.planned = record.id, planning
        return record.id

    async def start(
        self, exec_id: str, *, detach: bool, tty: bool, console_size: tuple[int, int] | None, stdin: bool = True
    ) -> StreamSession | None:
        """The process runs; its session, or None when *detach*. Raises `CommandNotFound` and `CannotRun`."""
        live, record = self._find(exec_id)
        _check_running(live.record)
        if record.running or record.exit_code is not None:
            raise Conflict(f"exec {exec_id} has already run" if not record.running else f"exec {exec_id} is running")
        request = record.request
        monitor = live.monitor
        if monitor is None:
            raise Conflict(f"container {live.record.id} is not running")
        session = None
        try:
            await self._prepare(live, monitor, record, console_size)
            if not detach:
                session = StreamSession(
                    tty=request.tty,
                    stdin=request.attach_stdin and stdin,
                    stdout=request.attach_stdout,
                    stderr=request.attach_stderr,
                    detach_keys=parse_keys(request.detach_keys),
                    recorded=live.exec_ends.setdefault(exec_id, asyncio.Event()),
                    framing=between(request.tty, tty),
                )
                session.on_detach = partial(self._containers.tell, live, "exec_detach", {"execID": exec_id})
                await session.attach(monitor, exec_id)
            live.execs[exec_id] = msgspec.structs.replace(record, running=True)
            pid = await monitor.exec_start(exec_id)
        except BaseException as error:  # noqa: BLE001  (recorded, and raised again)
            failure = _refused(error)
            code = failure.exit_code if isinstance(failure, ScowError) else CannotRun.exit_code
            live.execs[exec_id] = msgspec.structs.replace(record, running=False, exit_code=code)
            if session is not None:
                session.abort()
            raise failure from None
        current = live.execs.get(exec_id)
        if current is not None:
            live.execs[exec_id] = msgspec.structs.replace(current, pid=pid)
        command = " ".join(request.cmd)
        self._containers.tell(live, f"exec_start: {command}", {"execID": exec_id})
        return session

    async def _prepare(
        self, live: Live, monitor: MonitorConnection, record: ExecRecord, console_size: tuple[int, int] | None
    ) -> None:
        request = record.request
        planned, live.planned = live.planned, None
        plan = await (planned[1] if planned and planned[0] == record.id else self._plan(live, request))
        rows, cols = console_size or request.console_size or (0, 0)
        await monitor.exec_create(record.id, plan, tty=request.tty, open_stdin=request.attach_stdin, size=(rows, cols))

    async def _plan(self, live: Live, request: ExecRequest) -> Plan:
        container = live.record
        if live.spec is None:
            live.spec = await self._containers.rebuild_spec(live)
        built = live.spec
        process = spec.exec_process(container, request, built)
        plan: Plan = await self._containers.drivers.call(
            RUNTIME, container.runtime, "exec", lambda d: d.exec(container.id, built, process)
        )
        return plan

    def of(self, container_id: str) -> list[str]:
        """The ids of the container's running execs."""
        return [record.id for record in self._containers.live(container_id).execs.values() if record.running]

    def get(self, exec_id: str) -> ExecRecord:
        """Raises `NotFound` in Docker's words."""
        return self._find(exec_id)[1]

    async def resize(self, exec_id: str, rows: int, cols: int) -> None:
        """The terminal of the exec has that size."""
        live, record = self._find(exec_id)
        if live.monitor is None or not record.running:
            raise Conflict(f"exec {exec_id} is not running")
        await live.monitor.resize(rows, cols, exec_id)

    def _find(self, exec_id: str) -> tuple[Live, ExecRecord]:
        matches = [
            (live, record)
            for live in self._containers.all_live()
            for id, record in live.execs.items()
            if id == exec_id or (len(exec_id) >= 12 and id.startswith(exec_id))
        ]
        if len(matches) != 1:
            raise NotFound(f"No such exec instance: {exec_id}")
        return matches[0]


def _told_at_start(planning: asyncio.Task[Plan]) -> None:
    """What kept a plan from being made is raised to who starts the exec; asyncio need not complain that nobody did."""
    if not planning.cancelled():
        planning.exception()


def _check_running(record: Container) -> None:
    if record.state.status == "paused":
        raise Conflict(f"Container {record.id} is paused, unpause the container before exec")
    if record.state.status == "restarting":
        raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
    if not record.state.running:
        raise Conflict(f"container {record.id} is not running")


def _refused(error: BaseException) -> BaseException:
    """What a client is told: a process that could not be set up (an unknown user) cannot be run, as Docker has it."""
    if isinstance(error, CannotRun | CommandNotFound):
        error.message = f"OCI runtime exec failed: {error.message}"
    elif isinstance(error, Unavailable):
        return Conflict(f"the container is not running any more ({error.message})")
    elif type(error) is ScowError:
        return CannotRun(f"OCI runtime exec failed: {error.message}", hint=error.hint)
    return error
