"""What the engine keeps of each object; these structs are stored as JSON in the state and encode ``inspect``.

Times are ns since the epoch, 0 for never. Records are replaced, never changed in place: a new one is made with
``msgspec.structs.replace``, committed, and only then put in its place.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from scow.engine.id_ranges import IdRange
from scow.options import Options
from scow.ports.network import Attachment, Network
from scow.types import ContainerConfig, CreateRequest, EndpointConfig, ExecRequest, HostConfig, ImageConfig

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


class ContainerState(msgspec.Struct, kw_only=True, frozen=True):
    """Where a container is in its life.

    A process is known by *boot_id*, *pid* and *start_ticks* together (field 22 of /proc/<pid>/stat); *monitor_pid* and
    *monitor_ticks* name its monitor. *exit_code* is 128 + signal for a killed process, as Docker has it.
    *stopped_by_user* says that a restart policy must leave it alone.
    """

    status: Status = "created"
    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    monitor_pid: int = 0
    monitor_ticks: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    stopped_by_user: bool = False

    @property
    def running(self) -> bool:
        """Whether its init lives (paused counts)."""
        return self.status in ("running", "paused")


class MountPoint(msgspec.Struct, kw_only=True, frozen=True):
    """One volume, bind or tmpfs of a container, as inspect's ``Mounts`` shows it."""

    type: Literal["volume", "bind", "tmpfs"]
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    copy_up: bool = False
    anonymous: bool = False
    options: tuple[str, ...] = ()


class EndpointRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A container's place in one network; *attachment* while it runs."""

    network_id: str
    network_name: str
    endpoint_id: str = ""
    config: EndpointConfig | None = None
    attachment: Attachment | None = None


class Container(msgspec.Struct, kw_only=True, frozen=True):
    """A container. *request* is the create request as it was sent; *config* is that merged with the image's; *ids* are
    those of its user namespace, None with the host's; *options* are Scow's own as they hold now."""

    id: str
    name: str
    created_ns: int
    request: CreateRequest
    config: ContainerConfig
    host_config: HostConfig
    image_id: str
    image_ref: str
    chain_id: str | None
    path: str
    args: tuple[str, ...]
    platform: str
    storage_driver: str
    runtime: str
    ids: IdRange | None = None
    mounts: tuple[MountPoint, ...] = ()
    endpoints: dict[str, EndpointRecord] = {}
    state: ContainerState = ContainerState()
    options: Options = Options()


class Image(msgspec.Struct, kw_only=True, frozen=True):
    """A local image, known by the digest of its config (*id*, ``sha256:…``).

    *manifest_digest* is the manifest whose blobs the content store holds (made by Scow for imported images);
    *tags* are full references (``docker.io/library/nginx:latest``), *digests* repository digests
    (``docker.io/library/nginx@sha256:…``). *size_bytes* is the sum of its unpacked layers. *parent* is the id of the
    image that it was committed from or built on, ``""`` for one that was brought. *origins* are the repository digests
    by which it, or what it was committed from, was pulled: unlike *digests* they stay when names are taken away.
    """

    id: str
    manifest_digest: str
    created_ns: int
    pulled_ns: int
    config: ImageConfig
    diff_ids: tuple[str, ...]
    chain_id: str | None
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size_bytes: int = 0
    layer_sizes: tuple[int, ...] = ()
    parent: str = ""
    origins: tuple[str, ...] = ()

    @property
    def is_served(self) -> bool:
        """Whether a registry served the very manifest that is kept here."""
        return any(name.endswith(f"@{self.manifest_digest}") for name in self.origins)


class NetworkRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A network and when it was made. *scope* is always ``local``."""

    network: Network
    created_ns: int
    builtin: bool = False


class VolumeRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A volume that the engine knows: which driver has it, and whether it was made without a name."""

    name: str
    driver: str
    created_ns: int
    mountpoint: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False


class ExecRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One exec of a container; kept in memory and in the monitor, gone with the container's run."""

    id: str
    container_id: str
    request: ExecRequest
    running: bool = False
    pid: int = 0
    exit_code: int | None = None


class Event(msgspec.Struct, kw_only=True, frozen=True):
    """What happened, as ``GET /events`` tells it."""

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int


Json = dict[str, Any]
