"""The life of a run: start, exit, restart, stop. Everything here works on one `Live` under its lock."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from scow.engine import restart_policy
from scow.engine.exit_record import read_exit
from scow.engine.launch import Launch, Started, tear_down
from scow.engine.live import WaitResult
from scow.engine.model import ContainerState
from scow.engine.remove import auto_remove
from scow.engine.signals import parse_signal
from scow.errors import CannotRun, CommandNotFound, Conflict, NotModified, ScowError, Unavailable
from scow.ports import RUNTIME
from scow.state import CloseIntent, OpenIntent

if TYPE_CHECKING:
    from scow.engine.containers import Containers
    from scow.engine.live import Live

log = logging.getLogger(__name__)

DEFAULT_STOP_TIMEOUT_S = 10
KILL_ATTEMPTS = 10
KILL_RETRY_S = 2
MONITOR_LOST = "monitor lost"


class Lifecycle:
    """Starts and ends runs, and follows the restart policy."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    # ------------------------------------------------------------------ start

    async def start(self, live: Live) -> None:
        """The container runs; raises `NotModified` when it does already, what kept it from running otherwise."""
        self.cancel_restart(live)
        async with live.lock:
            state = live.record.state
            if state.running:
                raise NotModified(f"container {live.record.id} is already running")
            if state.status in ("removing", "dead"):
                raise Conflict("container is marked for removal and cannot be started")
            live.failures = 0
            await self._start_locked(live, restart_count=0)

    async def _start_locked(self, live: Live, restart_count: int) -> None:
        containers = self._containers
        record = live.record
        intent = OpenIntent(f"start:{record.id}", "start", record.id, b"")
        await containers.state.commit(intent, durable=False)
        live.stop_wanted = False
        live.ended = asyncio.Event()
        try:
            started = await Launch(containers, live).run()
        except BaseException as error:
            await self._start_failed(live, error)
            raise
        try:
            await self._record_start(live, started, restart_count, CloseIntent(intent.id))
        except BaseException:  # the disk is full: what cannot be recorded must not run
            assert live.monitor is not None
            await live.monitor.destroy()
            await tear_down(containers, record, started.endpoints)
            live.monitor = None
            raise
        containers.tell(live, "start")

    async def _record_start(self, live: Live, started: Started, restart_count: int, *changes: Any) -> None:
        state = ContainerState(
            status="running",
            pid=started.init.pid,
            start_ticks=started.init.start_ticks,
            boot_id=self._containers.boot_id,
            monitor_pid=started.monitor.pid,
            monitor_ticks=started.monitor.start_ticks,
            started_ns=time.time_ns(),
            finished_ns=live.record.state.finished_ns,
            restart_count=restart_count,
        )
        await self._commit(live, state, *changes, endpoints=started.endpoints)

    async def _start_failed(self, live: Live, error: BaseException) -> None:
        code = error.exit_code if isinstance(error, CannotRun | CommandNotFound) else 128
        state = msgspec.structs.replace(
            live.record.state,
            status="created" if not live.record.state.started_ns else "exited",
            exit_code=code,
            error=str(error),
            pid=0,
            finished_ns=live.record.state.finished_ns,
        )
        for session in live.sessions:
            session.abort()
        live.sessions.clear()
        live.ended.set()
        await self._commit(live, state, CloseIntent(f"start:{live.record.id}"))
        if live.record.host_config.auto_remove:
            asyncio.get_running_loop().create_task(auto_remove(self._containers, live))

    # ------------------------------------------------------------------ the end of a run

    async def ended(self, live: Live, exit: dict[str, Any]) -> None:
        """A run's end is recorded, its network, volumes and cgroup are released, and what follows from it happens.

        *exit* is the exit record that the monitor wrote.
        """
        async with live.lock:
            record = live.record
            if not record.state.running or live.ended.is_set():
                return
            if exit.get("reason") == MONITOR_LOST:
                exit = await self._lost(live, exit)
            reason = str(exit.get("reason") or "")
            if not live.stop_wanted and time.time_ns() - record.state.started_ns > restart_policy.STABLE_AFTER_S * 1e9:
                live.failures = 0
            state = msgspec.structs.replace(
                record.state,
                status="exited",
                pid=0,
                monitor_pid=0,
                exit_code=int(exit["exit_code"]),
                oom_killed=bool(exit.get("oom_killed")),
                error="" if reason in ("exited", "killed") else reason,
                finished_ns=int(exit.get("finished_ns") or time.time_ns()),
                stopped_by_user=live.stop_wanted,
            )
            policy = record.host_config.restart_policy
            again = restart_policy.wants_restart(policy, state) and not self._containers.closing
            if again:
                state = msgspec.structs.replace(state, status="restarting")
            endpoints = record.endpoints
            await self._commit(live, state, endpoints={k: _detached(e) for k, e in endpoints.items()})
            live.monitor = None
            live.ended.set()
            result = WaitResult(state.exit_code, state.error)
            live.resolve(("next-exit", "not-running"), result)  # also where it is started again (moby: SetRestarting)
            if state.oom_killed and not record.state.oom_killed:
                self._containers.tell(live, "oom")
            self._containers.tell(live, "die", {"exitCode": str(state.exit_code), "execDuration": str(_seconds(state))})
            await tear_down(self._containers, record, endpoints)
            live.spec = None
            live.forget_execs()
        if record.host_config.auto_remove:
            await auto_remove(self._containers, live)
        elif again:
            live.failures += 1
            live.restart = asyncio.get_running_loop().create_task(
                self._restart_later(live, restart_policy.delay_s(live.failures))
            )

    async def exec_killed(self, live: Live) -> None:
        """Where it was the kernel that killed an exec, for want of memory, the running container's state says so."""
        record = live.record
        if not record.state.running or record.state.oom_killed:
            return
        if not await self._containers.drivers.call(
            RUNTIME, record.runtime, "oom_killed", lambda driver: driver.oom_killed(record.id)
        ):
            return
        async with live.lock:
            state = live.record.state
            if state.running and not state.oom_killed and state.start_ticks == record.state.start_ticks:
                state = msgspec.structs.replace(state, oom_killed=True)
                await self._containers.save(live, msgspec.structs.replace(live.record, state=state))
                self._containers.tell(live, "oom")

    async def _lost(self, live: Live, exit: dict[str, Any]) -> dict[str, Any]:
        """The exit record of a run whose monitor is gone: what it wrote, or else the container is killed with it."""
        record = live.record
        written = await asyncio.to_thread(read_exit, self._containers.directory(record.id), record.state.started_ns)
        if written is not None:
            return written
        number = parse_signal("KILL")
        await self._containers.drivers.call(
            RUNTIME, record.runtime, "signal_all", lambda d: d.signal_all(record.id, number)
        )
        return exit

    async def _restart_later(self, live: Live, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with live.lock:
            if live.record.state.status != "restarting":
                return
            live.restart = None
            try:
                await self._start_locked(live, live.record.state.restart_count + 1)
            except ScowError as error:
                log.warning("container %s could not be restarted: %s", live.record.id[:12], error)

    def cancel_restart(self, live: Live) -> None:
        """No start is pending."""
        if live.restart is not None:
            live.restart.cancel()
            live.restart = None

    # ------------------------------------------------------------------ stop and kill

    async def stop(self, live: Live, timeout_s: int | None, signal: str) -> None:
        """The container does not run: its stop signal, then SIGKILL after *timeout_s* (-1: never)."""
        if live.record.state.status == "restarting":
            await self._stop_restarting(live)
            return
        if not live.record.state.running:
            raise NotModified(f"container {live.record.id} is not running")
        config = live.record.config
        if timeout_s is None:
            timeout_s = config.stop_timeout if config.stop_timeout is not None else DEFAULT_STOP_TIMEOUT_S
        live.stop_wanted = True
        ended = live.ended
        await self._thaw(live)
        number = parse_signal(signal or config.stop_signal or "TERM")
        await self._signal_unless_ending(live, number)
        try:
            await asyncio.wait_for(ended.wait(), None if timeout_s < 0 else timeout_s)
        except TimeoutError:
            await self.kill_now(live)
        self._containers.tell(live, "stop")

    async def _stop_restarting(self, live: Live) -> None:
        self.cancel_restart(live)
        async with live.lock:
            if live.record.state.status != "restarting":
                return
            state = msgspec.structs.replace(live.record.state, status="exited", stopped_by_user=True)
            await self._commit(live, state)
            live.resolve(("not-running",), WaitResult(state.exit_code, state.error))
        self._containers.tell(live, "stop")

    async def kill_now(self, live: Live) -> None:
        """The run that there is now is over; every process of it was killed. Raises `Unavailable` if that fails."""
        live.stop_wanted = True
        ended, number = live.ended, parse_signal("KILL")  # a start by another client makes a new event for its own run
        record = live.record
        for _ in range(KILL_ATTEMPTS):
            await self._thaw(live)  # a frozen process does not die; another client may freeze it again
            await self._signal_unless_ending(live, number)
            try:
                await asyncio.wait_for(ended.wait(), KILL_RETRY_S)
                return
            except TimeoutError:
                await self._containers.drivers.call(
                    RUNTIME, record.runtime, "signal_all", lambda d: d.signal_all(record.id, number)
                )
        raise Unavailable(f"container {record.id} did not end after SIGKILL within {KILL_ATTEMPTS * KILL_RETRY_S} s")

    async def _thaw(self, live: Live) -> None:
        """The container is not paused."""
        if live.record.state.status == "paused":
            try:
                await self.unpause(live)
            except Conflict as error:
                log.debug("container %s: %s", live.record.id[:12], error)

    async def _signal_unless_ending(self, live: Live, number: int) -> None:
        """As `signal`; a run that ends at this moment needs none."""
        try:
            await self.signal(live, number)
        except (Conflict, Unavailable) as error:
            log.debug("container %s is ending: %s", live.record.id[:12], error)

    async def signal(self, live: Live, number: int) -> None:
        """The init got signal *number*; raises `Conflict` when there is none."""
        monitor = live.monitor
        if monitor is None or not live.record.state.running:
            raise Conflict(f"container {live.record.id} is not running")
        await monitor.signal(number)
        self._containers.tell(live, "kill", {"signal": str(number)})

    async def pause(self, live: Live) -> None:
        """Every process is frozen; raises `Conflict` in other states than running."""
        await self._freeze(live, "running", "paused")

    async def unpause(self, live: Live) -> None:
        """Every process goes on; raises `Conflict` for a container that is not paused."""
        await self._freeze(live, "paused", "running")

    async def _freeze(self, live: Live, before: str, after: str) -> None:
        async with live.lock:
            record = live.record
            if record.state.status != before:
                told = "already paused" if record.state.status == after == "paused" else f"not {before}"
                raise Conflict(f"Container {record.id} is {told}")
            runtime = record.runtime
            if after == "paused":
                await self._containers.drivers.call(RUNTIME, runtime, "pause", lambda d: d.pause(record.id))
            else:
                await self._containers.drivers.call(RUNTIME, runtime, "resume", lambda d: d.resume(record.id))
            await self._commit(live, msgspec.structs.replace(record.state, status=after))
        self._containers.tell(live, "pause" if after == "paused" else "unpause")

    # ------------------------------------------------------------------ record

    async def _commit(self, live: Live, state: ContainerState, *changes: Any, endpoints: Any = None) -> None:
        record = msgspec.structs.replace(live.record, state=state)
        if endpoints is not None:
            record = msgspec.structs.replace(record, endpoints=endpoints)
        await self._containers.save(live, record, *changes)


def lost(why: str) -> dict[str, Any]:
    """The exit record of a run whose monitor left none."""
    return {"exit_code": 137, "signal": 9, "oom_killed": False, "finished_ns": time.time_ns(), "reason": why}


def _detached(endpoint: Any) -> Any:
    return msgspec.structs.replace(endpoint, attachment=None)


def _seconds(state: ContainerState) -> int:
    return max(0, (state.finished_ns - state.started_ns) // 1_000_000_000)
