"""A `Container` as the Engine API shows it: ``GET /containers/{id}/json`` and a line of ``GET /containers/json``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from scow.api.times import SECOND_NS, human_duration, rfc3339
from scow.engine.publish import parse_port, port_map, published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scow.engine.model import Container, ContainerState, EndpointRecord, MountPoint
    from scow.types import ContainerConfig, HostConfig

Json = dict[str, Any]

DEFAULT_LOG_TYPE = "json-file"

# Go's ``omitempty``: absent unless they say something.
_CONFIG_OPTIONAL = (
    "ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress", "StopSignal", "StopTimeout", "Shell",
)  # fmt: skip
_HOST_OPTIONAL = ("Annotations", "Mounts", "Init", "Sysctls", "StorageOpt", "Tmpfs", "VolumeDriver", "KernelMemory")


def container_config(config: ContainerConfig) -> Json:
    """Docker's ``Config``."""
    value: Json = msgspec.to_builtins(config)
    for name in _CONFIG_OPTIONAL:
        if value[name] is False or value[name] in (None, "", {}, []):
            del value[name]
    for name in ("Volumes", "OnBuild"):
        value[name] = value[name] or None
    return value


def host_config(config: HostConfig, asked: HostConfig) -> Json:
    """Docker's ``HostConfig``. A log driver that was not *asked* for is shown as ``json-file``: docker-py and others
    take that name as the promise that the log can be read back."""
    value: Json = msgspec.to_builtins(config)
    for name in _HOST_OPTIONAL:
        if not value.get(name) and value.get(name) is not False:
            value.pop(name, None)
    for name in ("Binds", "CapAdd", "CapDrop", "GroupAdd", "ExtraHosts", "VolumesFrom", "Links", "SecurityOpt"):
        value[name] = value[name] or None
    value["RestartPolicy"]["Name"] = value["RestartPolicy"]["Name"] or "no"
    value["LogConfig"]["Type"] = asked.log_config.type or DEFAULT_LOG_TYPE
    value["Runtime"] = asked.runtime or config.runtime
    return value


def container_state(state: ContainerState) -> Json:
    """Docker's ``State``."""
    return {
        "Status": state.status,
        "Running": state.running or state.status == "restarting",
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": state.status == "dead",
        "Pid": state.pid if state.running else 0,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_ns),
        "FinishedAt": rfc3339(state.finished_ns),
    }


def inspect(container: Container, data_root: Path, size: tuple[int, int] | None, execs: list[str]) -> Json:
    """Docker's ContainerInspectResponse; *execs* are the ids of its running execs, *size* is ``SizeRw`` and
    ``SizeRootFs`` where the client asked for them."""
    directory = data_root / "containers" / container.id
    value: Json = {
        "Id": container.id,
        "Created": rfc3339(container.created_ns),
        "Path": container.path,
        "Args": list(container.args),
        "State": container_state(container.state),
        "Image": container.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": str(directory / "log"),
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": container.storage_driver,
        "Platform": container.platform.partition("/")[0] or "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs or None,
        "HostConfig": host_config(container.host_config, container.request.host_config),
        "GraphDriver": {"Name": container.storage_driver, "Data": {}},
        "Mounts": [mount_point(mount) for mount in container.mounts],
        "Config": container_config(container.config),
        "NetworkSettings": _network_settings(container),
    }
    if size is not None:
        value["SizeRw"], value["SizeRootFs"] = size
    return value


def summary(container: Container, image_id: Callable[[str], str | None], size: tuple[int, int] | None) -> Json:
    """A line of ``docker ps``. *image_id* says what a reference names now; an image without its name is shown by id."""
    host = container.host_config
    named = image_id(container.image_ref) == container.image_id
    value: Json = {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image_ref if named else container.image_id,
        "ImageID": container.image_id,
        "Command": " ".join((container.path, *container.args)),
        "Created": container.created_ns // SECOND_NS,
        "Ports": _ports(container),
        "Labels": container.config.labels,
        "State": container.state.status,
        "Status": status_text(container.state, time.time_ns()),
        "HostConfig": {"NetworkMode": host.network_mode or "default"},
        "NetworkSettings": {"Networks": _networks(container)},
        "Mounts": [mount_point(mount) for mount in container.mounts],
    }
    if host.annotations:
        value["HostConfig"]["Annotations"] = host.annotations
    if size is not None:
        value["SizeRw"], value["SizeRootFs"] = size
    return value


def status_text(state: ContainerState, now_ns: int) -> str:
    """``Up 5 seconds``, ``Exited (0) 3 minutes ago``, ``Up 2 minutes (Paused)``, … (moby container/state.go)."""
    up = human_duration(max(0, now_ns - state.started_ns) / SECOND_NS)
    ago = human_duration(max(0, now_ns - state.finished_ns) / SECOND_NS)
    match state.status:
        case "running":
            return f"Up {up}"
        case "paused":
            return f"Up {up} (Paused)"
        case "restarting":
            return f"Restarting ({state.exit_code}) {ago} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "created":
            return "Created"
        case "exited":
            return f"Exited ({state.exit_code}) {ago} ago" if state.finished_ns else ""


def mount_point(mount: MountPoint) -> Json:
    """One of Docker's ``Mounts``."""
    value: Json = {"Type": mount.type, "Source": mount.source, "Destination": mount.destination, "Mode": mount.mode}
    value |= {"RW": mount.rw, "Propagation": mount.propagation}
    if mount.type == "volume":
        value |= {"Name": mount.name, "Driver": mount.driver}
    return value


def endpoint(record: EndpointRecord, container: Container) -> Json:
    """Docker's EndpointSettings: what was asked for, and what the driver gave while the container runs."""
    config, given = record.config, record.attachment
    value: Json = {
        "IPAMConfig": msgspec.to_builtins(config.ipam_config) if config and config.ipam_config else None,
        "Links": (config.links or None) if config else None,
        "Aliases": (config.aliases or None) if config else None,
        "DriverOpts": (config.driver_opts or None) if config else None,
        "GwPriority": config.gw_priority if config else 0,
        "NetworkID": record.network_id,
        "EndpointID": given.endpoint_id if given else record.endpoint_id,
        "MacAddress": given.mac_address if given else (config.mac_address if config else ""),
        "Gateway": given.gateway if given else "",
        "IPAddress": given.ip_address if given else "",
        "IPPrefixLen": given.prefix_length if given else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": [container.name, container.id[:12]],
    }
    return value


def _networks(container: Container) -> Json:
    return {record.network_name: endpoint(record, container) for record in container.endpoints.values()}


def _network_settings(container: Container) -> Json:
    running = container.state.running
    pid = container.state.pid
    networks = _networks(container)
    return {
        "SandboxID": container.id if running else "",
        "SandboxKey": f"/proc/{pid}/ns/net" if running and pid else "",
        "Ports": port_map(container.config.exposed_ports, published(container)) if running else {},
        "Networks": networks,
        **_first_address(networks),
    }


def _first_address(networks: Json) -> Json:
    """The address in the default network again: API 1.52 dropped these, but clients still look here."""
    first = networks.get("bridge") or {}
    texts = ("EndpointID", "Gateway", "GlobalIPv6Address", "IPAddress", "IPv6Gateway", "MacAddress")
    value: Json = {name: first.get(name, "") for name in texts}
    value |= {name: first.get(name, 0) for name in ("IPPrefixLen", "GlobalIPv6PrefixLen")}
    value |= {"Bridge": "", "HairpinMode": False, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0}
    return value | {"SecondaryIPAddresses": None, "SecondaryIPv6Addresses": None}


def _ports(container: Container) -> list[Json]:
    if not container.state.running:
        return []
    return list(_port_lines(container))


def _port_lines(container: Container) -> Iterator[Json]:
    bound = published(container)
    taken = {(port.container_port, port.protocol) for port in bound}
    for text in container.config.exposed_ports:
        number, protocol = parse_port(text)
        if (number, protocol) not in taken:
            yield {"PrivatePort": number, "Type": protocol}
    for port in bound:
        yield {
            "IP": port.host_ip or "0.0.0.0",
            "PrivatePort": port.container_port,
            "PublicPort": port.host_port,
            "Type": port.protocol,
        }
