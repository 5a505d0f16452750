"""The contracts between core and drivers: one protocol a kind, and the values that cross the border.

Drivers are plain synchronous classes that may block; the engine calls them on worker threads, several at once. A driver
is constructed with one `DriverContext` and nothing else. Values are frozen dataclasses; paths are absolute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What a driver is told about the engine that it serves.

    *name* is the name it was chosen by; *state_dir* is a folder of its own below the data root (made, mode 0700),
    *run_dir* one below the run root (gone after a reboot); *options* is its section of the config file;
    *engine* identifies the engine among several on one host, and *settings* holds engine-wide names
    (``bridge``, ``subnet_pool``, ``nft_table``, ``cgroup_parent``).
    """

    name: str
    state_dir: Path
    run_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    engine: str = "scow"


@dataclass(frozen=True, slots=True)
class DriverKind(Generic[D]):
    """One kind of driver: its name, its entry-point group and its protocol."""

    name: str
    group: str
    protocol: type[D]


@dataclass(frozen=True, slots=True)
class Mount:
    """A recipe for one mount; describing it makes nothing.

    *type* is a filesystem type (``overlay``, ``bind``, ``tmpfs``, ``proc`` …), *source* its device or path, *options*
    what mount(8) takes after ``-o`` (``ro``, ``rbind``, ``lowerdir=…``). *target* is relative to the root that is being
    made; ``""`` is that root itself.

    Core adds the option ``idmap`` where a container has a user namespace: the owners on disk stay as they are, and the
    mount shows them as the container's (an overlay: by idmapped layers).
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


from scow.ports.log import LogDriver  # noqa: E402  (the protocols use the values above)
from scow.ports.network import NetworkDriver  # noqa: E402
from scow.ports.registry import RegistryBackend  # noqa: E402
from scow.ports.runtime import Runtime  # noqa: E402
from scow.ports.storage import StorageDriver  # noqa: E402
from scow.ports.volume import VolumeDriver  # noqa: E402

STORAGE = DriverKind("storage", "scow.storage", StorageDriver)
NETWORK = DriverKind("network", "scow.network", NetworkDriver)
REGISTRY = DriverKind("registry", "scow.registry", RegistryBackend)
RUNTIME = DriverKind("runtime", "scow.runtime", Runtime)
VOLUME = DriverKind("volume", "scow.volume", VolumeDriver)
LOG = DriverKind("log", "scow.log", LogDriver)

KINDS: tuple[DriverKind[Any], ...] = (STORAGE, NETWORK, REGISTRY, RUNTIME, VOLUME, LOG)
