"""The containers: found, made, listed, changed, removed. Starting and ending runs is `Lifecycle`'s."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from scow.engine import container_list, logs, net_rate
from scow.engine.create import create, name_conflict
from scow.engine.detach import parse_keys
from scow.engine.id_ranges import IdRanges
from scow.engine.launch import build_spec, hold_volumes
from scow.engine.lifecycle import Lifecycle
from scow.engine.live import Live, WaitResult
from scow.engine.model import Container
from scow.engine.names import check_container_name, find, random_name
from scow.engine.net_stats import interfaces
from scow.engine.records import KIND, put, read
from scow.engine.remove import remove
from scow.engine.sessions import StreamSession
from scow.engine.signals import parse_signal
from scow.engine.timeline import Timeline
from scow.engine.top import top
from scow.errors import Conflict, InvalidArgument, NotFound
from scow.ports import LOG, RUNTIME, STORAGE
from scow.ports.log import LogQuery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from scow.config import Config
    from scow.engine.drivers import Drivers
    from scow.engine.images import Images
    from scow.engine.monitor_connection import MonitorConnection
    from scow.engine.networks import Networks
    from scow.engine.volumes import Volumes
    from scow.engine.zygote import Zygote
    from scow.events import Events
    from scow.ports.network import Rates
    from scow.state import State
    from scow.types import CreateRequest, Resources, RestartPolicy

log = logging.getLogger(__name__)
KILLED = 137  # by SIGKILL, as shells and Docker count


class Containers:
    """Every container of the engine. The parts it works with are public attributes, for the modules of this package."""

    images: Images
    networks: Networks
    volumes: Volumes

    def __init__(self, config: Config, drivers: Drivers, state: State, events: Events, zygote: Zygote) -> None:
        self.config = config
        self.drivers = drivers
        self.state = state
        self.events = events
        self.zygote = zygote
        self.boot_id = _boot_id()
        self.closing = False
        self.lifecycle = Lifecycle(self)
        self.ids = IdRanges(config.userns_size, config.userns_user)
        self._live: dict[str, Live] = {}
        self._names: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ finding

    def load(self) -> None:
        """Reads the records; blocking, at start only."""
        for row in self.state.load(KIND):
            record = read(row)
            self._live[record.id] = Live(record)
            self._names[record.name] = record.id
            if record.ids is not None:
                self.ids.hold(record.id, record.ids)

    def live(self, ref: str) -> Live:
        """By id, name or unique id prefix; raises `NotFound` ("No such container: x")."""
        return find(ref, "container", self._live, self._names)

    def all_live(self) -> list[Live]:
        """Every container."""
        return list(self._live.values())

    def get(self, ref: str) -> Container:
        """The record that *ref* means; raises `NotFound`."""
        return self.live(ref).record

    def records(self) -> list[Container]:
        """Every record, in no order."""
        return [live.record for live in self._live.values()]

    def directory(self, id: str) -> Path:
        """The container's folder."""
        return self.config.data_root / "containers" / id

    # ------------------------------------------------------------------ making and removing

    async def create(self, request: CreateRequest, name: str = "", platform: str = "") -> tuple[str, list[str]]:
        """A new container that is not started; its id, and warnings."""
        name = check_container_name(name) if name else random_name(self._names)
        if name in self._names:
            raise name_conflict(name, self._names[name])
        self._names[name] = ""  # reserved while it is being made
        timeline = Timeline()
        try:
            record, warnings = await create(self, request, name, platform, timeline)
        except BaseException:
            del self._names[name]
            raise
        live = self._live[record.id] = Live(record, timeline=timeline)
        self._names[record.name] = record.id
        self.tell(live, "create")
        return record.id, warnings

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """The container, its root, folder and log are gone; with *volumes* its anonymous volumes too.

        Raises `Conflict` for a running one unless *force* kills it.
        """
        await remove(self, self.live(ref), force=force, volumes=volumes)

    def forget(self, live: Live) -> None:
        """The container is found no more, and its name is free."""
        record = live.record
        del self._live[record.id]
        if self._names.get(record.name) == record.id:
            del self._names[record.name]

    def knows(self, live: Live) -> bool:
        """Whether the container was not removed meanwhile."""
        return self._live.get(live.record.id) is live

    async def rename(self, ref: str, name: str) -> None:
        """The container is called *name*."""
        name = check_container_name(name)
        live = self.live(ref)
        async with live.lock:
            if not self.knows(live):  # removed while this one waited: it must not come back
                raise NotFound(f"No such container: {ref}")
            old = live.record.name
            if name in self._names:
                if old == name:
                    raise InvalidArgument("Renaming a container with the same name as its current name")
                raise name_conflict(name, self._names[name])
            self._names[name] = live.record.id
            try:
                await self.save(live, msgspec.structs.replace(live.record, name=name))
            except BaseException:
                del self._names[name]
                raise
            del self._names[old]
        self.tell(live, "rename", {"oldName": f"/{old}"})

    # ------------------------------------------------------------------ runs

    async def start(self, ref: str) -> None:
        """It runs; raises `NotModified` when it does already."""
        await self.lifecycle.start(self.live(ref))

    async def stop(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None:
        """It does not run; raises `NotModified` when it did not."""
        live = self.live(ref)
        await live.settled()
        await self.lifecycle.stop(live, timeout_s, signal)

    async def restart(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None:
        """It was stopped where it ran, and runs."""
        live = self.live(ref)
        if live.record.state.running or live.record.state.status == "restarting":
            await self.lifecycle.stop(live, timeout_s, signal)
        await self.lifecycle.start(live)
        self.tell(live, "restart")

    async def kill(self, ref: str, signal: str = "KILL") -> None:
        """Its init got *signal*; after KILL it is not started again. Raises `Conflict` when it does not run."""
        live = self.live(ref)
        number = parse_signal(signal or "KILL")
        await live.settled()
        if not live.record.state.running:
            raise Conflict(f"cannot kill container: {ref}: container {live.record.id} is not running")
        if number == parse_signal("KILL"):
            await self.lifecycle.kill_now(live)
        else:
            if number == parse_signal(live.record.config.stop_signal or "TERM"):
                live.stop_wanted = True
            await self.lifecycle.signal(live, number)

    async def pause(self, ref: str) -> None:
        """Its processes are frozen."""
        await self.lifecycle.pause(self.live(ref))

    async def unpause(self, ref: str) -> None:
        """Its processes go on."""
        await self.lifecycle.unpause(self.live(ref))

    def wait(self, ref: str, condition: str = "not-running") -> asyncio.Future[WaitResult]:
        """Resolves when *condition* (``not-running``, ``next-exit``, ``removed``) holds."""
        live = self.live(ref)
        condition = condition or "not-running"
        if condition not in ("not-running", "next-exit", "removed"):
            raise InvalidArgument(f"invalid condition: {condition!r}", hint="known: not-running, next-exit, removed")
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        state = live.record.state
        if condition == "not-running" and not state.running and state.status != "restarting":
            future.set_result(WaitResult(state.exit_code, ""))
        else:
            waiter = condition, future
            live.waiters.append(waiter)
            future.add_done_callback(lambda _: live.waiters.remove(waiter) if waiter in live.waiters else None)
        return future

    # ------------------------------------------------------------------ streams

    async def attach(
        self, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool, stream: bool, detach_keys: str = ""
    ) -> StreamSession:
        """A session with the container's process, or with the next one if it does not run yet."""
        live = self.live(ref)
        record = live.record
        if record.state.status == "paused":
            raise Conflict(f"Container {record.id} is paused, unpause the container before attach")
        keys = parse_keys(detach_keys)
        history = None
        if logs:
            query = LogQuery(stdout=stdout, stderr=stderr, framed=not record.config.tty)
            history = self.logs(ref, query, follow=False)
        session = StreamSession(
            tty=record.config.tty,
            stdin=stdin and record.config.open_stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=keys,
            history=history,
        )
        session.on_detach = partial(self.tell, live, "detach")
        if not stream:
            session.finish()
        elif record.state.running and live.monitor is not None:
            await session.attach(live.monitor)
        else:
            live.sessions.append(session)
        self.tell(live, "attach")
        return session

    def logs(self, ref: str, query: LogQuery, follow: bool) -> AsyncIterator[bytes]:
        """The container's output; with *follow* it goes on until the run ends. Framed unless it has a tty.

        Raises at once: `NotFound`, `InvalidArgument` without a stream, `Unsupported` where the log cannot be read.
        """
        live = self.live(ref)
        record = live.record
        if not (query.stdout or query.stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        driver = self.drivers.get(LOG, record.host_config.log_config.type)
        reader = driver.open(self.directory(record.id) / "log", replace(query, framed=not record.config.tty))
        running = record.state.running or record.state.status == "restarting"
        directory = self.directory(record.id) / "log"
        return logs.stream(reader, directory, follow and running, live.ended, query.until_ns)

    async def resize(self, ref: str, rows: int, cols: int) -> None:
        """Its terminal has that size; raises `Conflict` when it does not run."""
        live = self.live(ref)
        await live.settled()
        if live.monitor is None:
            raise Conflict(f"container {live.record.id} is not running")
        await live.monitor.resize(rows, cols)
        self.tell(live, "resize", {"height": str(rows), "width": str(cols)})

    # ------------------------------------------------------------------ looking

    async def top(self, ref: str, ps_args: str = "") -> tuple[list[str], list[list[str]]]:
        """The titles and rows of ps(1) for its processes."""
        record = self.get(ref)
        if not record.state.running:
            raise Conflict(f"container {record.id} is not running")
        pids = await self.drivers.call(RUNTIME, record.runtime, "processes", lambda d: d.processes(record.id))
        return await top(pids, ps_args or "-ef")

    async def size(self, ref: str) -> tuple[int, int]:
        """Bytes of the writable layer, and of the whole root."""
        record = self.get(ref)
        own = await self.drivers.call(STORAGE, record.storage_driver, "usage", lambda d: d.usage(record.id))
        try:
            below = self.images.get(record.image_id).size_bytes
        except NotFound:
            below = 0
        return own.size_bytes, own.size_bytes + below

    async def stats(self, ref: str) -> dict[str, Any]:
        """One sample of cpu, memory, pids and block I/O, in Docker's shape; empty for one that does not run."""
        record = self.get(ref)
        if not record.state.running:
            return {}
        sample: dict[str, Any] = await self.drivers.call(RUNTIME, record.runtime, "stats", lambda d: d.stats(record.id))
        networks = await asyncio.to_thread(interfaces, record.state.pid)
        return {**sample, "networks": networks} if networks else sample

    async def update(self, ref: str, resources: Resources, policy: RestartPolicy | None) -> list[str]:
        """The limits given hold, for a running container at once; the rest stays. Answers warnings."""
        from scow.engine.update import update

        return await update(self, self.live(ref), resources, policy)

    async def set_net_rate(self, ref: str, text: str) -> Rates:
        """The sides that *text* names (``in=10mbit``) have those rates, at once and after restarts; answers both."""
        return await net_rate.change(self, self.live(ref), text)

    # ------------------------------------------------------------------ for the modules of this package

    async def save(self, live: Live, record: Container, *changes: Any, durable: bool = True) -> None:
        """*record* is committed, then it is the container's."""
        await self.state.commit(put(record), *changes, durable=durable)
        live.record = record

    def tell(self, live: Live, action: str, more: Mapping[str, str] | None = None) -> None:
        """The event *action* of the container is on its way to the store and to whoever listens."""
        record = live.record
        attributes = {**record.config.labels, "image": record.image_ref, "name": record.name, **(more or {})}
        self.events.post("container", action, record.id, attributes)

    def follow(self, live: Live, monitor: MonitorConnection) -> None:
        """*monitor* is the container's; what it tells of the end of the run and of execs is acted on in tasks."""
        live.monitor = monitor
        monitor.on_exit = lambda exit: self.spawn(self.lifecycle.ended(live, exit))
        monitor.on_exec_exit = lambda exec_id, code: self._exec_ended(live, exec_id, code)

    def _exec_ended(self, live: Live, exec_id: str, exit_code: int) -> None:
        record = live.execs.get(exec_id)
        if record is not None and record.running:  # not after a failed start, which has an exit code of its own
            live.execs[exec_id] = msgspec.structs.replace(record, running=False, exit_code=exit_code)
            end = live.exec_ends.pop(exec_id, None)
            if end is not None:
                end.set()
            self.tell(live, "exec_die", {"execID": exec_id, "exitCode": str(exit_code)})
            if exit_code == KILLED:
                self.spawn(self.lifecycle.exec_killed(live))

    async def rebuild_spec(self, live: Live) -> dict[str, Any]:
        """The OCI configuration of a run that an earlier daemon started."""
        sources = await hold_volumes(self, live.record)
        return await build_spec(self, live.record, sources)

    async def close(self) -> None:
        """No start is pending and no monitor is connected; containers run on."""
        self.closing = True
        for live in self._live.values():
            self.lifecycle.cancel_restart(live)
            if live.monitor is not None:
                live.monitor.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def spawn(self, coroutine: Any) -> None:
        """Runs *coroutine* as a task that is kept and whose failure is logged."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background task failed", exc_info=task.exception())

    def list(
        self, *, all: bool = False, limit: int = 0, filters: Mapping[str, Sequence[str]] | None = None
    ) -> list[Container]:
        """Newest first; only running ones unless *all*, a *limit* or a status filter says otherwise."""
        return container_list.select(self, all, limit, filters or {})


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
