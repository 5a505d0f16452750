"""Makes containers: checks the request, merges it with the image, prepares root, volumes and folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from scow.engine import device_requests, net_rate, spec
from scow.engine.merge import command, merge
from scow.engine.model import Container, EndpointRecord
from scow.engine.mounts import mount_points
from scow.engine.names import new_id
from scow.engine.netfiles import check_resolver
from scow.engine.publish import bindings
from scow.engine.records import put
from scow.engine.restart_policy import check_policy
from scow.engine.signals import parse_signal
from scow.engine.userns import give_ids
from scow.engine.volumes import ANONYMOUS
from scow.errors import Conflict, DriverNotFound, InvalidArgument, NotFound
from scow.oci import Platform
from scow.options import check_allowed, resolve
from scow.ports import LOG, RUNTIME, STORAGE
from scow.state import CloseIntent, OpenIntent

if TYPE_CHECKING:
    from pathlib import Path

    from scow.engine.containers import Containers
    from scow.engine.model import Image, MountPoint
    from scow.engine.timeline import Timeline
    from scow.options import Resolved
    from scow.types import ContainerConfig, CreateRequest, HostConfig

INTENT = "create"
RUNC_NAMES = ("runc", "io.containerd.runc.v2")
DEFAULT_SHM_BYTES = 64 << 20
MINIMUM_MEMORY_BYTES = 6 << 20


async def create(
    containers: Containers, request: CreateRequest, name: str, platform: str, timeline: Timeline
) -> tuple[Container, list[str]]:
    """The record of a new container called *name*, which is in the state; its root, volumes and folder are there.

    Everything is checked before anything is made, and what was made is undone if a later step fails.
    """
    if not request.image:
        raise InvalidArgument("no image specified", hint="set Image in the request")
    with timeline.step("image", "content store", request.image):
        image = containers.images.get(request.image)
        _check_platform(image, platform, request.image)
    record, warnings = await _record(containers, request, name, image)
    new_volumes = [p.name for p in record.mounts if p.type == "volume" and not containers.volumes.known(p.name)]
    intent = OpenIntent(f"create:{record.id}", INTENT, record.id, msgspec.json.encode(new_volumes))
    async with AsyncExitStack() as undo:
        undo.callback(containers.ids.release, record.id)
        await containers.state.commit(intent, durable=False)
        undo.push_async_callback(containers.state.commit, CloseIntent(intent.id), durable=False)
        await _prepare_root(containers, record, timeline, undo)
        record = await _make_volumes(containers, record, new_volumes, undo)
        directory = containers.directory(record.id)
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        await asyncio.to_thread(_make_directory, directory, record.config.hostname)
        await containers.state.commit(put(record), CloseIntent(intent.id))
        undo.pop_all()
    return record, warnings


async def _record(
    containers: Containers, request: CreateRequest, name: str, image: Image
) -> tuple[Container, list[str]]:
    id = new_id()
    config = merge(request, image.config.config)
    host = _with_defaults(containers, request.host_config)
    if host.network_mode.startswith("container:"):
        _share_names(containers, config, host)
    elif not config.hostname and host.network_mode != "host" and not host.uts_mode:
        config.hostname = id[:12]
    path, args = command(config)
    resolved = _options(containers, request, host)
    warnings = spec.validate(config, host)
    if host.device_requests:
        await asyncio.to_thread(device_requests.check, host.device_requests, containers.config.cdi_spec_dirs)
    if config.healthcheck is not None and config.healthcheck.test[:1] not in ([], ["NONE"]):
        warnings.append("health checks are not run by this version of Scow")
    check_policy(host)
    bindings(config, host)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    points, more = mount_points(config, host, containers.get)
    await _check_drivers(containers, host)
    endpoints = _endpoints(request, host)
    options = await net_rate.of_new(containers, host.network_mode, endpoints, resolved)
    ids = await give_ids(containers, id, host, points)
    record = Container(
        id=id,
        name=name,
        created_ns=time.time_ns(),
        request=request,
        config=config,
        host_config=host,
        image_id=image.id,
        image_ref=request.image,
        chain_id=image.chain_id,
        path=path,
        args=args,
        platform=image.config.os or "linux",
        storage_driver=containers.config.drivers["storage"],
        runtime=host.runtime,
        ids=ids,
        mounts=tuple(points),
        endpoints=endpoints,
        options=replace(options, userns=host.userns_mode),  # as `give_ids` left it
    )
    return record, warnings + more


def _with_defaults(containers: Containers, given: HostConfig) -> HostConfig:
    host = msgspec.convert(msgspec.to_builtins(given), type(given))
    drivers = containers.config.drivers
    host.runtime = _runtime(containers, host.runtime)
    host.network_mode = host.network_mode if host.network_mode not in ("", "default") else "bridge"
    if not host.log_config.type:
        host.log_config.type = drivers["log"]
        host.log_config.config = {**containers.config.log_options, **host.log_config.config}
    host.shm_size = host.shm_size or DEFAULT_SHM_BYTES
    if host.memory > 0 and not host.memory_swap:
        host.memory_swap = 2 * host.memory  # memory and swap together
    host.restart_policy.name = host.restart_policy.name or "no"
    host.ipc_mode = host.ipc_mode or "private"
    host.cgroupns_mode = host.cgroupns_mode or "private"
    check_resolver(host.dns, host.dns_search, host.dns_options)
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if 0 < host.memory < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    return host


def _runtime(containers: Containers, asked: str) -> str:
    """The runtime that a client means by *asked*: ``runc``, and containerd's name for it, is the default one unless the
    engine has a runtime of that name: clients send it who read it in Docker's ``info``. Raises `InvalidArgument`."""
    host = containers.drivers.host
    names = host.names(RUNTIME)
    default = containers.config.drivers["runtime"]
    if asked in names or (RUNTIME.name, asked) in host.instances:
        return asked
    if asked in RUNC_NAMES:
        return "runc" if "runc" in names else default
    if not asked:
        return default
    raise InvalidArgument(f"unknown or invalid runtime name: {asked}", hint=f"there are: {', '.join(names)}")


def _options(containers: Containers, request: CreateRequest, host: HostConfig) -> Resolved:
    """Scow's own options of *request*. *host* has them afterwards, and counts more where Docker has a field, too."""
    config = containers.config
    if host.userns_mode:
        check_allowed("userns", config.request_options)
    resolved = resolve(host.annotations, request.labels, config.container_options, config.request_options)
    host.annotations = {**host.annotations, **resolved.asked}
    host.userns_mode = host.userns_mode or resolved.options.userns
    return resolved


def _share_names(containers: Containers, config: ContainerConfig, host: HostConfig) -> None:
    """Who shares a network has the names of its owner; an owner that is not there is an error at start (as Docker)."""
    if config.hostname:
        raise InvalidArgument("conflicting options: hostname and the network mode")
    try:
        owner = containers.get(host.network_mode.partition(":")[2]).config
    except NotFound:
        return
    config.hostname, config.domainname = owner.hostname, owner.domainname


async def _check_drivers(containers: Containers, host: HostConfig) -> None:
    try:
        log = await containers.drivers.driver(LOG, host.log_config.type)
    except DriverNotFound as error:
        installed = ", ".join(containers.drivers.host.names(LOG))
        message = f"logger: no log driver named '{host.log_config.type}' is registered"
        raise InvalidArgument(message, hint=f"installed: {installed}") from error
    log.limits(host.log_config.config)
    await containers.drivers.driver(RUNTIME, host.runtime)


def _check_platform(image: Image, platform: str, ref: str) -> None:
    if not platform:
        return
    wanted = Platform.parse(platform)
    if (wanted.os, wanted.architecture) != (image.config.os or "linux", image.config.architecture):
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform: wanted {wanted}, "
            f"actual: {image.config.os}/{image.config.architecture}"
        )


def _endpoints(request: CreateRequest, host: HostConfig) -> dict[str, EndpointRecord]:
    mode = host.network_mode
    if mode.startswith("container:") or request.network_disabled:
        return {}
    given = request.networking_config.endpoints_config
    configs = {"bridge" if key == "default" else key: value for key, value in given.items()}
    if len(configs) > 1:
        raise InvalidArgument("a container joins one network when it is created", hint="connect it to others later")
    wanted = configs or dict.fromkeys([mode])
    if configs and mode not in ("bridge", *configs):
        raise InvalidArgument(f"conflicting networks: {mode} and {', '.join(configs)}")
    return {key: EndpointRecord(network_id="", network_name=key, config=value) for key, value in wanted.items()}


async def _prepare_root(containers: Containers, record: Container, timeline: Timeline, undo: AsyncExitStack) -> None:
    driver = record.storage_driver
    with timeline.step("layers", driver, f"writable layer on {record.chain_id or 'nothing'}"):
        try:
            await containers.drivers.call(STORAGE, driver, "prepare", lambda d: d.prepare(record.id, record.chain_id))
        except NotFound as error:
            raise Conflict(
                f"image {record.image_ref} was not unpacked by storage driver {driver!r}: {error}", hint="pull it again"
            ) from error
    undo.push_async_callback(containers.drivers.call, STORAGE, driver, "remove", lambda d: d.remove(record.id))


async def _make_volumes(
    containers: Containers, record: Container, new_volumes: list[str], undo: AsyncExitStack
) -> Container:
    points: list[MountPoint] = []
    for point in record.mounts:
        if point.type != "volume":
            points.append(point)
            continue
        volume = await containers.volumes.create(point.name, point.driver, *_volume_options(record, point))
        if point.name in new_volumes:
            undo.push_async_callback(containers.volumes.remove, point.name, True)
        if point.copy_up and record.chain_id is not None:
            root = await containers.drivers.call(
                STORAGE, record.storage_driver, "view", lambda d: d.view(record.chain_id)
            )
            await containers.volumes.fill(point, root, record.id)
        points.append(msgspec.structs.replace(point, source=volume.mountpoint, driver=volume.driver))
    return msgspec.structs.replace(record, mounts=tuple(points))


def _volume_options(record: Container, point: MountPoint) -> tuple[dict[str, str], dict[str, str]]:
    for mount in record.host_config.mounts:
        if mount.type == "volume" and mount.source == point.name and mount.volume_options is not None:
            driver = mount.volume_options.driver_config
            return (driver.options if driver else {}), mount.volume_options.labels
    return {}, ({ANONYMOUS: ""} if point.anonymous else {})


def _make_directory(directory: Path, hostname: str) -> None:
    os.mkdir(directory, 0o710)
    for child in ("rootfs", "log"):
        os.mkdir(directory / child, 0o700)
    for name, content in (("hostname", hostname + "\n"), ("hosts", ""), ("resolv.conf", "")):
        with open(directory / name, "w") as file:
            file.write(content)


def name_conflict(name: str, holder: str) -> Conflict:
    """Docker's words for a name that is taken."""
    return Conflict(
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". You have to remove '
        "(or rename) that container to be able to reuse that name."
    )
