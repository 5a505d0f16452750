"""Volume drivers: named folders that outlive containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as its driver knows it. *mountpoint* is where its content is (or would be) on the host."""

    name: str
    mountpoint: str
    created_ns: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class VolumeDriver(Protocol):
    """Keeps volumes. Names are ``[a-zA-Z0-9][a-zA-Z0-9_.-]*``, checked by core."""

    scope: str  # "local" or "global"

    def check(self) -> None:
        """Raise `DriverUnusable` where this host cannot serve the driver."""

    def create(self, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
        """The volume exists. Idempotent for the same options; raises `Conflict` for other ones, `InvalidArgument` for
        an option that the driver does not know, naming those it knows."""

    def get(self, name: str) -> Volume:
        """Raises `NotFound`."""

    def list(self) -> list[Volume]:
        """Every volume, by name."""

    def mount(self, name: str, holder: str) -> Path:
        """The volume's content is at the path answered, for *holder* (a container id), until `unmount`. Counting
        holders is the driver's business; the same holder twice counts once."""

    def unmount(self, name: str, holder: str) -> None:
        """*holder* needs it no longer; no error where it did not hold it."""

    def remove(self, name: str) -> None:
        """The volume and its content are gone; no error where there is none. Raises `Conflict` while it is held."""

    def close(self) -> None:
        """Nothing of the driver runs any more; volumes stay."""
