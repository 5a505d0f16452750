"""One start of a container, step by step: what DESIGN calls the path of `run`.

The writable root and the folder were made at create. Here the monitor is forked while the runtime makes the cgroup and
the plan; the init clones and makes its root while the network is attached; it executes the program when both are done.
Whatever was made is undone, last first, when a step fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from scow.engine import device_requests, net_rate, spec, userns
from scow.engine.container_files import write_files
from scow.engine.monitor_connection import ProcessId
from scow.engine.names import new_id
from scow.engine.networks import shown_driver
from scow.engine.publish import bindings
from scow.engine.spec_security import check_rights
from scow.errors import CannotRun, CommandNotFound, Conflict, InvalidArgument, Unavailable
from scow.monitor.protocol import start_ticks
from scow.ports import LOG, NETWORK, RUNTIME, STORAGE
from scow.ports.network import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.engine.model import Container, ContainerState, EndpointRecord, MountPoint
    from scow.engine.monitor_connection import MonitorConnection
    from scow.ports.network import Attachment, Network, NetworkDriver, PortBinding
    from scow.ports.runtime import Plan

log = logging.getLogger(__name__)
_LAST_WORDS_S = 10


class Started(NamedTuple):
    """What the record must remember of a run: its processes, and its endpoints with their attachments."""

    init: ProcessId
    monitor: ProcessId
    endpoints: dict[str, EndpointRecord]


class Launch:
    """Starts the container of *live*; its lock is held by the caller."""

    def __init__(self, containers: Containers, live: Live) -> None:
        self._containers = containers
        self._live = live
        self._record = live.record
        self._timeline = live.timeline
        self._directory = containers.directory(live.record.id)

    async def run(self) -> Started:
        """The program was executed; raises why not, and nothing is left then."""
        record, live = self._record, self._live
        async with AsyncExitStack() as undo:
            spawned = asyncio.ensure_future(self._spawn_monitor(undo))
            try:
                plan = await self._plan(undo)
            except BaseException:
                await asyncio.gather(spawned, return_exceptions=True)
                raise
            monitor = await spawned
            with self._timeline.step("namespaces and cgroups", record.runtime, "clone"), _of_the_task():
                init = await self._create(monitor, plan)
            begun = time.perf_counter()
            try:
                endpoints = await self._join_networks(init.pid, undo)
                self._timeline.add("network", record.host_config.network_mode, _shown(endpoints), begun)
                await self._connect_sessions(monitor)
            except Unavailable:  # namespace and monitor go with an init that failed: what that says is the cause
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(monitor.ready(), _LAST_WORDS_S)
                raise
            begun = time.perf_counter()
            with _of_the_task():
                init = await monitor.start()  # executed as soon as the root is ready, without a turn through here
            self._tell_start(begun, monitor.ready_at)
            self._containers.follow(live, monitor)
            undo.pop_all()
        return Started(init, ProcessId(monitor.pid, monitor.start_ticks), endpoints)

    def _tell_start(self, begun: float, ready_at: float) -> None:
        """The last two steps, as far as the network had not been waited for anyhow."""
        record, timeline = self._record, self._timeline
        ready_at = max(begun, ready_at)
        timeline.add("root", record.storage_driver, "mounts and pivot_root", begun, ready_at)
        timeline.add("process", record.runtime, record.path, ready_at)

    # ------------------------------------------------------------------ monitor

    async def _spawn_monitor(self, undo: AsyncExitStack) -> MonitorConnection:
        module = (await self._containers.drivers.driver(RUNTIME, self._record.runtime)).child_module
        with self._timeline.step("monitor", "core", "fork of the zygote"):
            hint = "userns" if self._record.ids else ""
            monitor = await self._containers.zygote.spawn(self._record.id, self._directory, module, hint)
        undo.push_async_callback(monitor.destroy)
        return monitor

    async def _create(self, monitor: MonitorConnection, plan: Plan) -> ProcessId:
        config, log_config = self._record.config, self._record.host_config.log_config
        driver = await self._containers.drivers.driver(LOG, log_config.type)
        rows, cols = self._record.host_config.console_size or (0, 0)
        return await monitor.create(
            plan,
            tty=config.tty,
            open_stdin=config.open_stdin,
            stdin_once=config.stdin_once,
            log_directory=self._directory / "log",
            limits=driver.limits(log_config.config),
            size=(rows, cols),
        )

    async def _connect_sessions(self, monitor: MonitorConnection) -> None:
        sessions, self._live.sessions = self._live.sessions, []
        for session in sessions:
            await session.attach(monitor)

    # ------------------------------------------------------------------ plan

    async def _plan(self, undo: AsyncExitStack) -> Plan:
        record, drivers = self._record, self._containers.drivers
        with self._timeline.step("volumes", "volume", f"{len(record.mounts)} mounts"):
            sources = await hold_volumes(self._containers, record, undo)
        with self._timeline.step("metadata", "core", "OCI runtime spec"):
            self._live.spec = built = await build_spec(self._containers, record, sources)
            if built.get("hooks"):  # which find the bundle in the state that they are given, and read it
                await asyncio.to_thread(write_bundle, self._directory, built)
        root = await drivers.call(STORAGE, record.storage_driver, "mounts", lambda d: d.mounts(record.id))
        if record.ids is not None:  # on disk the owners stay those of the image
            root = [replace(mount, options=(*mount.options, "idmap")) for mount in root]
        with self._timeline.step("runtime", record.runtime, "cgroup and plan"):
            runtime = await drivers.driver(RUNTIME, record.runtime)
            plan: Plan = await drivers.call(
                RUNTIME,
                record.runtime,
                "create",
                lambda d: d.create(record.id, built, root, self._directory),
                undo=lambda _: runtime.delete(record.id),
            )
        undo.push_async_callback(drivers.call, RUNTIME, record.runtime, "delete", lambda d: d.delete(record.id))
        return plan

    # ------------------------------------------------------------------ network

    async def _join_networks(self, pid: int, undo: AsyncExitStack) -> dict[str, EndpointRecord]:
        record = self._record
        joined: dict[str, EndpointRecord] = {}
        for name, endpoint in record.endpoints.items():
            network = self._containers.networks.get(endpoint.network_id or name).network
            wanted = Endpoint(
                id=new_id(),  # of each run: the interface of the one before may still be on its way out
                network_id=network.id,
                container_id=record.id,
                container_name=record.name,
                ip_address=_address(endpoint),
                mac_address=_mac(record, endpoint),
                labels=record.config.labels,
            )
            attachment = await self._attach(network, wanted, pid)
            undo.push_async_callback(
                self._containers.drivers.call,
                NETWORK,
                network.driver,
                "detach",
                partial(_detach_one, network=network, attachment=attachment),
            )
            joined[name] = msgspec.structs.replace(
                endpoint,
                network_id=network.id,
                network_name=network.name,
                endpoint_id=wanted.id,
                attachment=attachment,
            )
        write_files(self._directory, record, joined)
        for endpoint in joined.values():
            _tell(self._containers, "connect", endpoint.network_id, record.id)
        return joined

    async def _attach(self, network: Network, wanted: Endpoint, pid: int) -> Attachment:
        """Publishes each port on the first host port of its range that is free."""
        driver = network.driver
        loaded = await self._containers.drivers.driver(NETWORK, driver)
        sandbox, rates = loaded.sandbox, self._record.options.net_rate
        netns = f"/proc/{pid}/ns/net" if sandbox == "new" else ""
        ranges = bindings(self._record.config, self._record.host_config) if sandbox == "new" else []
        tries = max((len(choices) for _, choices in ranges), default=1)
        for number in range(tries):
            ports = tuple(_choose(binding, choices, number) for binding, choices in ranges)
            endpoint = replace(wanted, ports=ports)
            try:
                return await self._containers.drivers.call(
                    NETWORK,
                    driver,
                    "attach",
                    partial(net_rate.attach, network=network, endpoint=endpoint, netns=netns, wanted=rates),
                    undo=partial(loaded.detach, network),
                )
            except Conflict:
                if number == tries - 1:
                    raise
        raise AssertionError("no attempt was made")


async def build_spec(containers: Containers, record: Container, sources: dict[str, str]) -> dict[str, Any]:
    """The OCI configuration of the container, as plugins left it; raises `Conflict` for a container that it joins and
    that does not run."""
    check_rights(record.host_config)
    joined: dict[str, int] = {}
    files = None
    for kind, ref in spec.joins(record.host_config).items():
        other = containers.get(ref)
        if not other.state.running or not _is_there(other.state):
            raise Conflict(f"cannot join the {kind} namespace of container {ref}: it is not running")
        if kind == "ipc" and other.host_config.ipc_mode != "shareable":
            raise Conflict(
                f"cannot join IPC of container {ref}: non-shareable IPC", hint="run that container with --ipc shareable"
            )
        joined[kind] = other.state.pid
        if kind == "network":
            files = containers.directory(other.id)
    if record.ids is not None and (pid := userns.joined_pid(containers, record.ids)):
        joined["user"] = pid
    directory = containers.directory(record.id)
    built = spec.build(record, directory=directory, sources=sources, joined=joined, files=files)
    requests = record.host_config.device_requests
    if requests:
        await asyncio.to_thread(device_requests.inject, built, requests, containers.config.cdi_spec_dirs)
    await containers.drivers.host.spec(record.id, built, record.host_config.annotations)
    return built


def write_bundle(directory: Path, built: dict[str, Any]) -> None:
    """*directory* is an OCI bundle: it has *built* as its ``config.json``."""
    temporary = directory / "config.json.tmp"
    temporary.write_bytes(msgspec.json.encode(built))
    temporary.rename(directory / "config.json")


def _is_there(state: ContainerState) -> bool:
    """Whether the pid is still its init's: that of a process of the host would lead into the host's namespaces."""
    try:
        return start_ticks(state.pid) == state.start_ticks
    except OSError:
        return False


async def hold_volumes(containers: Containers, record: Container, undo: AsyncExitStack | None = None) -> dict[str, str]:
    """The host path of each volume and bind of the container by destination, mounted for it.

    A missing source of ``-v`` is made as a folder, as Docker does, and said in the log.
    """
    sources: dict[str, str] = {}
    for point in record.mounts:
        if point.type == "volume":
            sources[point.destination] = await containers.volumes.hold(point, record.id)
            if undo is not None:
                undo.push_async_callback(containers.volumes.release, point, record.id)
        elif point.type == "bind":
            await asyncio.to_thread(_check_source, point, record.id)
            sources[point.destination] = point.source
    return sources


def _check_source(point: MountPoint, container_id: str) -> None:
    if os.path.exists(point.source):
        return
    if "create" not in point.options:
        raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {point.source}')
    os.makedirs(point.source, mode=0o755)
    log.warning("container %s: bind source %s did not exist and was made", container_id[:12], point.source)


async def tear_down(containers: Containers, record: Container, endpoints: dict[str, EndpointRecord]) -> list[str]:
    """Network, volumes and cgroup of an ended run are released; what fails is logged and does not stop the rest."""
    steps = [_detach(containers, endpoint, record.id) for endpoint in endpoints.values() if endpoint.attachment]
    steps += [containers.volumes.release(point, record.id) for point in record.mounts if point.type == "volume"]
    steps.append(containers.drivers.call(RUNTIME, record.runtime, "delete", lambda d: d.delete(record.id)))
    failures = [str(error) for error in await asyncio.gather(*steps, return_exceptions=True) if error is not None]
    for failure in failures:
        log.error("container %s: not released: %s", record.id[:12], failure)
    return failures


async def _detach(containers: Containers, endpoint: EndpointRecord, container_id: str) -> None:
    network = containers.networks.get(endpoint.network_id).network
    attachment = endpoint.attachment
    assert attachment is not None
    await containers.drivers.call(NETWORK, network.driver, "detach", lambda d: d.detach(network, attachment))
    _tell(containers, "disconnect", network.id, container_id)


def _tell(containers: Containers, action: str, network_id: str, container_id: str) -> None:
    network = containers.networks.get(network_id).network
    attributes = {"container": container_id, "name": network.name, "type": shown_driver(network)}
    containers.events.post("network", action, network.id, attributes)


def _detach_one(driver: NetworkDriver, network: Network, attachment: Attachment) -> None:
    driver.detach(network, attachment)


@contextmanager
def _of_the_task() -> Iterator[None]:
    """A program that cannot be run is told in Docker's words, by which its command line knows the exit code."""
    try:
        yield
    except (CannotRun, CommandNotFound) as error:
        error.message = f"failed to create task for container: {error.message}"
        raise


def _shown(endpoints: dict[str, EndpointRecord]) -> str:
    """The addresses and published ports of *endpoints*, for people."""
    words = []
    for attachment in (endpoint.attachment for endpoint in endpoints.values()):
        if attachment is not None and attachment.ip_address:
            words.append(attachment.ip_address)
            words += [f"{p.host_ip or '*'}:{p.host_port} → {p.container_port}/{p.protocol}" for p in attachment.ports]
    return " ".join(words)


def _choose(binding: PortBinding, choices: tuple[int, ...], number: int) -> PortBinding:
    return replace(binding, host_port=choices[min(number, len(choices) - 1)])


def _address(endpoint: EndpointRecord) -> str:
    ipam = endpoint.config.ipam_config if endpoint.config else None
    return ipam.ipv4_address if ipam else ""


def _mac(record: Container, endpoint: EndpointRecord) -> str:
    return (endpoint.config.mac_address if endpoint.config else "") or record.config.mac_address
