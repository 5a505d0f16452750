"""An engine in memory: for tests of the API, and of clients, without root. Containers run `FakeProcess` commands."""

from __future__ import annotations

import asyncio
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from scow.config import Config
from scow.engine.filters import check_filters, match_labels
from scow.engine.live import WaitResult
from scow.engine.model import Container, ContainerState, EndpointRecord, ExecRecord
from scow.engine.names import find, new_id, random_name
from scow.engine.system import System
from scow.errors import CommandNotFound, Conflict, NotFound, NotModified
from scow.options import Options
from scow.ports.network import Attachment, PortBinding
from scow.ports.runtime import RuntimeInfo
from scow.rates import parse
from scow.testing.fakes_objects import FakeArchives, FakeEvents, FakeImages, FakeNetworks, FakeVolumes
from scow.testing.fakes_process import FakeProcess, FakeSession, framed
from scow.types import ContainerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from scow.engine.engine import Engine
    from scow.ports import DriverKind
    from scow.ports.log import LogQuery
    from scow.ports.network import Rates
    from scow.types import CreateRequest, ExecRequest, Resources, RestartPolicy

FILTERS = ("id", "name", "label", "status", "ancestor")


class FakeContainers:
    """Containers by id; see `scow.engine.containers.Containers` for what each method promises."""

    def __init__(self, images: FakeImages, networks: FakeNetworks, events: FakeEvents) -> None:
        self._images = images
        self._networks = networks
        self._events = events
        self._records: dict[str, Container] = {}
        self.processes: dict[str, FakeProcess] = {}
        self._waiting: dict[str, list[FakeSession]] = {}
        self._waiters: dict[str, list[tuple[str, asyncio.Future[WaitResult]]]] = {}
        self.sessions: list[FakeSession] = []
        self.updates: list[tuple[str, Resources, RestartPolicy | None]] = []
        self.samples = 0
        networks.containers_of = lambda: list(self._records.values())

    async def create(self, request: CreateRequest, name: str = "", platform: str = "") -> tuple[str, list[str]]:
        image = self._images.get(request.image)
        names = {record.name: record.id for record in self._records.values()}
        if name.removeprefix("/") in names:
            raise Conflict(f'Conflict. The container name "/{name}" is already in use by container "{names[name]}".')
        argv = [*(request.entrypoint or []), *(request.cmd or image.config.config.cmd or [])]
        config = ContainerConfig(**{field: getattr(request, field) for field in ContainerConfig.__struct_fields__})
        network = self._networks.get(request.host_config.network_mode.replace("default", "bridge") or "bridge").network
        container = Container(
            id=new_id(),
            name=name.removeprefix("/") or random_name(names),
            created_ns=time.time_ns(),
            request=request,
            config=config,
            host_config=request.host_config,
            image_id=image.id,
            image_ref=request.image,
            chain_id=image.chain_id,
            path=argv[0],
            args=tuple(argv[1:]),
            platform=platform or "linux/amd64",
            storage_driver="fake",
            runtime="fake",
            endpoints={network.id: EndpointRecord(network_id=network.id, network_name=network.name)},
        )
        self._records[container.id] = container
        await self._tell(container, "create")
        return container.id, []

    def get(self, ref: str) -> Container:
        return find(ref, "container", self._records, {record.name: record.id for record in self._records.values()})

    async def start(self, ref: str) -> None:
        container = self.get(ref)
        if container.state.running:
            raise NotModified(f"container {ref} is already running")
        process = FakeProcess((container.path, *container.args), lambda code: self._ended(container.id, code))
        try:
            process.start()
        except CommandNotFound:
            self._set(container.id, ContainerState(status="created", exit_code=127))
            for session in self._waiting.pop(container.id, []):
                await session.end()
            if container.host_config.auto_remove:
                self._remove(container)
            raise
        self.processes[container.id] = process
        for session in self._waiting.pop(container.id, []):
            session.connect(process)
        self._set(container.id, ContainerState(status="running", pid=4242, started_ns=time.time_ns()))
        self._connect_networks(container)
        await self._tell(container, "start")

    def _connect_networks(self, container: Container) -> None:
        ports = tuple(
            PortBinding(int(port.partition("/")[0]), "tcp", mapping.host_ip, int(mapping.host_port or 49153))
            for port, mappings in container.host_config.port_bindings.items()
            for mapping in mappings or []
        )
        given = Attachment(new_id(), "eth0", "02:42:ac:1d:00:02", "172.29.0.2", 16, "172.29.0.1", ports)
        endpoints = {key: replace(record, attachment=given) for key, record in container.endpoints.items()}
        self._records[container.id] = replace(self._records[container.id], endpoints=endpoints)

    def _set(self, id: str, state: ContainerState) -> None:
        self._records[id] = replace(self._records[id], state=state)

    def _ended(self, id: str, code: int) -> None:
        container = self._records[id]
        state = replace(container.state, status="exited", exit_code=code, pid=0, finished_ns=time.time_ns())
        self._set(id, state)
        self._resolve(id, ("not-running", "next-exit"))
        self._events.tell("container", "die", id, {"name": container.name, "exitCode": str(code)})
        if container.host_config.auto_remove:
            self._remove(container)

    def _resolve(self, id: str, conditions: tuple[str, ...]) -> None:
        for condition, future in self._waiters.get(id, []):
            if condition in conditions and not future.done():
                future.set_result(WaitResult(self._records[id].state.exit_code))

    async def stop(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None:
        container = self.get(ref)
        if not container.state.running:
            raise NotModified(f"container {ref} is not running")
        await self.kill(ref, signal or "TERM")
        await self.wait(ref)

    async def restart(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None:
        if self.get(ref).state.running:
            await self.stop(ref, timeout_s, signal)
        await self.start(ref)

    async def kill(self, ref: str, signal: str = "KILL") -> None:
        container = self.get(ref)
        if not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        numbers = {"KILL": 9, "SIGKILL": 9, "TERM": 15, "SIGTERM": 15, "INT": 2, "SIGINT": 2}
        self.processes[container.id].kill(numbers[signal])
        await self._tell(container, "kill")

    async def pause(self, ref: str) -> None:
        container = self.get(ref)
        if container.state.status != "running":
            raise Conflict(f"container {container.id} is not running")
        self._set(container.id, replace(container.state, status="paused"))

    async def unpause(self, ref: str) -> None:
        container = self.get(ref)
        if container.state.status != "paused":
            raise Conflict(f"container {container.id} is not paused")
        self._set(container.id, replace(container.state, status="running"))

    async def rename(self, ref: str, name: str) -> None:
        container = self.get(ref)
        self._records[container.id] = replace(container, name=name)

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        container = self.get(ref)
        if container.state.running:
            if not force:
                raise Conflict(
                    f"cannot remove container {container.name!r}: container is running",
                    hint="stop the container before removing or force remove",
                )
            await self.kill(ref)
            await self.wait(ref)
        self._remove(container)

    def _remove(self, container: Container) -> None:
        self._resolve(container.id, ("removed", "next-exit", "not-running"))
        if self._records.pop(container.id, None) is not None:
            self._events.tell("container", "destroy", container.id, {"name": container.name})

    async def update(self, ref: str, resources: Resources, restart_policy: RestartPolicy | None) -> list[str]:
        self.updates.append((self.get(ref).id, resources, restart_policy))
        return []

    async def set_net_rate(self, ref: str, text: str) -> Rates:
        record = self.get(ref)
        options = Options(parse(text, record.options.net_rate))
        self._records[record.id] = replace(record, options=options)
        return options.net_rate

    def wait(self, ref: str, condition: str = "not-running") -> asyncio.Future[WaitResult]:
        container = self.get(ref)
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if condition == "not-running" and not container.state.running:
            future.set_result(WaitResult(container.state.exit_code))
        else:
            self._waiters.setdefault(container.id, []).append((condition, future))
        return future

    async def resize(self, ref: str, rows: int, cols: int) -> None:
        container = self.get(ref)
        if not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        self.processes[container.id].size = (rows, cols)

    async def top(self, ref: str, ps_args: str = "-ef") -> tuple[list[str], list[list[str]]]:
        container = self.get(ref)
        return ["UID", "PID", "CMD"], [["root", "4242", " ".join((container.path, *container.args))]]

    async def attach(
        self, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool, stream: bool, detach_keys: str = ""
    ) -> FakeSession:
        container = self.get(ref)
        session = FakeSession(container.config.tty, stdin, b"\x10\x11")
        self.sessions.append(session)
        if not container.state.running:
            self._waiting.setdefault(container.id, []).append(session)
        else:
            session.connect(self.processes[container.id])
        return session

    def logs(self, ref: str, query: LogQuery, follow: bool) -> AsyncIterator[bytes]:
        container = self.get(ref)
        return self._lines(self.processes.get(container.id), query, follow)

    async def _lines(self, process: FakeProcess | None, query: LogQuery, follow: bool) -> AsyncIterator[bytes]:
        given = 0
        while process is not None:
            for stream, data in process.log[given:]:
                given += 1
                if query.stdout if stream == 1 else query.stderr:
                    yield framed(stream, data) if query.framed else data
            if not follow or process.done:
                return
            await asyncio.sleep(0.01)

    async def size(self, ref: str) -> tuple[int, int]:
        return 1000, self._images.get(self.get(ref).image_id).size_bytes + 1000

    async def stats(self, ref: str) -> dict[str, Any]:
        self.samples += 1
        if not self.get(ref).state.running:
            return {}
        return {"cpu_stats": {"cpu_usage": {"total_usage": time.process_time_ns()}}, "memory_stats": {"usage": 4096}}

    async def _tell(self, container: Container, action: str) -> None:
        await self._events.emit(
            "container", action, container.id, {"name": container.name, "image": container.image_ref}
        )

    def list(
        self, *, all: bool = False, limit: int = 0, filters: Mapping[str, Sequence[str]] | None = None
    ) -> list[Container]:
        filters = check_filters(filters or {}, FILTERS)
        tests: dict[str, Callable[[Container, Sequence[str]], bool]] = {
            "id": lambda c, values: any(c.id.startswith(value) for value in values),
            "name": lambda c, values: any(value in c.name for value in values),
            "label": lambda c, values: match_labels(values, c.config.labels),
            "status": lambda c, values: c.state.status in values,
            "ancestor": lambda c, values: c.image_ref in values,
        }
        found = [record for record in reversed(self._records.values()) if all or record.state.running]
        found = [c for c in found if False not in (tests[name](c, values) for name, values in filters.items())]
        return found[:limit] if limit else found


class FakeExecs:
    """Execs; see `scow.engine.execs.Execs`."""

    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self._records: dict[str, ExecRecord] = {}
        self._processes: dict[str, FakeProcess] = {}

    async def create(self, container_ref: str, request: ExecRequest) -> str:
        container = self._containers.get(container_ref)
        if not container.state.running:
            raise Conflict(f"container {container.id} is not running")
        record = ExecRecord(id=new_id(), container_id=container.id, request=request)
        self._records[record.id] = record
        return record.id

    async def start(
        self, exec_id: str, *, detach: bool, tty: bool, console_size: tuple[int, int] | None, stdin: bool = True
    ) -> FakeSession | None:
        record = self.get(exec_id)
        process = FakeProcess(record.request.cmd, lambda code: self._set(exec_id, running=False, exit_code=code))
        process.size = console_size or (0, 0)
        try:
            process.start()
        except CommandNotFound:
            self._set(exec_id, exit_code=127)
            raise
        self._processes[exec_id] = process
        self._set(exec_id, running=True, pid=4343)
        if detach:
            return None
        session = FakeSession(record.request.tty, record.request.attach_stdin)
        session.connect(process)
        return session

    def _set(self, exec_id: str, **changes: Any) -> None:
        self._records[exec_id] = replace(self._records[exec_id], **changes)

    def of(self, container_id: str) -> list[str]:
        return [id for id, record in self._records.items() if record.container_id == container_id and record.running]

    def get(self, exec_id: str) -> ExecRecord:
        if exec_id not in self._records:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self._records[exec_id]

    async def resize(self, exec_id: str, rows: int, cols: int) -> None:
        self.get(exec_id)
        self._processes[exec_id].size = (rows, cols)


class FakeHost:
    """Names one driver a kind, and calls functions where it stands."""

    instances: Mapping[tuple[str, str], str] = MappingProxyType({})

    def names(self, kind: DriverKind[Any]) -> list[str]:
        return ["fake"]

    def drivers(self, kind: DriverKind[Any]) -> dict[str, FakeDriver]:
        return {"fake": FakeDriver()}

    def driver(self, kind: DriverKind[Any], name: str | None = None) -> FakeDriver:
        return FakeDriver()

    async def call(self, kind: DriverKind[Any], name: str | None, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)


class FakeDriver:
    """What ``info`` asks drivers."""

    def info(self) -> RuntimeInfo:
        return RuntimeInfo("1.0", "2", "cgroupfs", ("name=seccomp,profile=builtin",))

    def status(self) -> list[tuple[str, str]]:
        return [("Backing Filesystem", "memory")]


class FakeEngine:
    """As `scow.engine.engine.Engine`, with the image ``busybox:latest`` and the built-in networks."""

    def __init__(self, data_root: Path) -> None:
        self.config = Config(data_root=data_root)
        self.host = FakeHost()
        self.ready = asyncio.Event()
        self.ready.set()
        self.events = FakeEvents()
        self.images = FakeImages()
        self.archives = FakeArchives(self.images)
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.containers = FakeContainers(self.images, self.networks, self.events)
        self.execs = FakeExecs(self.containers)
        self.problems: list[str] = []
        self.system = System(self.typed)

    @property
    def typed(self) -> Engine:
        """Itself, for those who want an `Engine`."""
        engine: Any = self
        return engine  # type: ignore[no-any-return]
