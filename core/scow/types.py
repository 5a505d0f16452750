"""What a client asks for, as typed values: Docker's create request, stored with the container as it was sent.

Field names are Docker's (``rename="pascal"``), so that the same structs decode the request and encode inspect. Unknown
fields are ignored as Docker does; a wrong type is a `msgspec.ValidationError`. JSON ``null`` stands for the default:
decode with `decode`, which drops nulls first. Memory in bytes, durations in ns, as the Engine API has them.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from scow.errors import InvalidArgument
from scow.spelling import respelled

S = TypeVar("S", bound=msgspec.Struct)

_SUSPICIOUS = re.compile(rb"\\u0000|[0-9]{19}")  # where it is not found, `_check_values` has nothing to find


class _Model(msgspec.Struct, rename="pascal", kw_only=True, omit_defaults=False):
    pass


class HealthConfig(_Model):
    """How to probe a container; intervals in ns."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(_Model):
    """The part of a create request that an image can give defaults for."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class PortMapping(_Model):
    """One host side of a published port; an empty or ``0`` *host_port* asks for any."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(_Model):
    """*name*: ``""`` or ``no``, ``always``, ``unless-stopped``, ``on-failure``."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(_Model):
    """Which log driver, and its options."""

    type: str = ""
    config: dict[str, str] = {}


class Ulimit(_Model):
    """A resource limit; -1 is unlimited."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class DeviceMapping(_Model):
    """A device of the host in the container."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class DeviceRequest(_Model):
    """``--gpus`` and CDI devices."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] = msgspec.field(default_factory=list, name="DeviceIDs")
    capabilities: list[list[str]] = []
    options: dict[str, str] = {}


class ThrottleDevice(_Model):
    """A rate for one device of the host."""

    path: str = ""
    rate: int = 0


class WeightDevice(_Model):
    """A relative weight for one device of the host."""

    path: str = ""
    weight: int = 0


class BindOptions(_Model):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(_Model):
    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(_Model):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: VolumeDriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(_Model):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] = []


class MountSpec(_Model):
    """One ``--mount``."""

    target: str = ""
    source: str = ""
    type: str = "volume"
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(_Model):
    """Limits; also the body of ``update``. 0 stands for no limit."""

    cpu_shares: int = 0
    memory: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] = []
    blkio_device_read_bps: list[ThrottleDevice] = []
    blkio_device_write_bps: list[ThrottleDevice] = []
    blkio_device_read_iops: list[ThrottleDevice] = msgspec.field(default_factory=list, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] = msgspec.field(default_factory=list, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] = []
    device_cgroup_rules: list[str] = []
    device_requests: list[DeviceRequest] = []
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    kernel_memory: int = 0
    nano_cpus: int = 0
    oom_kill_disable: bool | None = None
    init: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] = []


class HostConfig(Resources):
    """The part of a create request that depends on the host."""

    binds: list[str] = []
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortMapping] | None] = {}
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = []
    mounts: list[MountSpec] = []
    console_size: list[int] = []
    annotations: dict[str, str] = {}
    cap_add: list[str] = []
    cap_drop: list[str] = []
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    group_add: list[str] = []
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] = []
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = []
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None


class EndpointIPAMConfig(_Model):
    ipv4_address: str = msgspec.field(default="", name="IPv4Address")
    ipv6_address: str = msgspec.field(default="", name="IPv6Address")
    link_local_ips: list[str] = msgspec.field(default_factory=list, name="LinkLocalIPs")


class EndpointConfig(_Model):
    """How a container wants to join one network."""

    ipam_config: EndpointIPAMConfig | None = msgspec.field(default=None, name="IPAMConfig")
    links: list[str] = []
    aliases: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0


class NetworkingConfig(_Model):
    endpoints_config: dict[str, EndpointConfig | None] = {}


class CreateRequest(ContainerConfig):
    """The body of ``POST /containers/create``: the config's fields on the top level, and two parts of their own."""

    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    networking_config: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)


class ExecRequest(_Model):
    """The body of ``POST /containers/{id}/exec``."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[int] | None = None
    detach_keys: str = ""
    tty: bool = False
    env: list[str] = []
    cmd: list[str] = []
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


class ImageConfig(msgspec.Struct, kw_only=True):
    """The OCI image configuration (image-spec config.md), as far as the engine reads it."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str = ""
    author: str = ""
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    rootfs: dict[str, Any] = {}
    history: list[dict[str, Any]] = []


def without_nulls(value: Any) -> Any:
    """*value* (decoded JSON) without object members that are null: clients send null for the default."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def decode(body: bytes, model: type[S]) -> S:
    """*body* as *model*, its members in any case; raises `InvalidArgument` that names the field in error.

    No text may hold a NUL: what the kernel is given ends there, so that it would see another text than was checked.
    Integers have 64 bits, as in Docker: the kernel takes larger ones modulo that."""
    try:
        value = msgspec.json.decode(body or b"{}")
        if _SUSPICIOUS.search(body):
            _check_values(value)
        return msgspec.convert(respelled(without_nulls(value), model), model)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid request: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"invalid JSON: not UTF-8: {error.reason}") from error
    except RecursionError:
        raise InvalidArgument("invalid JSON: nested too deeply") from None


def _check_values(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(key)
            _check_values(item)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)
    elif isinstance(value, str) and "\0" in value:
        raise InvalidArgument("invalid request: a text holds a NUL")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidArgument(f"invalid request: {value} does not fit 64 bits")
