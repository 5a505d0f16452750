"""The engine's driver, for one container of a command's root."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from scow_runtime_native.driver import NativeRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scow.ports import DriverContext
    from scow_runtime_native.command.store import Container

_PARENT = "scow-runtime"


class Place(str):
    """As much of `pathlib.Path` as the driver asks for: importing that one takes as long as making a container."""

    __slots__ = ()

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self}/{name}")

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return os.path.isdir(self)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """The folder is there."""
        os.makedirs(self, mode, exist_ok)

    def read_bytes(self) -> bytes:
        """What the file holds."""
        with open(self, "rb") as file:
            return file.read()

    def read_text(self) -> str:
        """What the file holds."""
        return self.read_bytes().decode()

    def write_text(self, text: str) -> None:
        """The file holds *text*."""
        with open(self, "w", encoding="utf-8") as file:
            file.write(text)


class _Context:
    """`scow.ports.DriverContext`, without the import of all ports."""

    name = "native"

    def __init__(self, root: str, folder: str) -> None:
        self.state_dir = Place(root) / ".cache"
        self.run_dir = Place(folder)
        self.options: dict[str, Any] = {}
        self.settings = {"cgroup_parent": _PARENT}
        self.engine = "default"  # every container has a cgroup path of its own: see `with_cgroup`


def with_cgroup(spec: dict[str, Any], id: str) -> dict[str, Any]:
    """*spec* with a ``cgroupsPath``: where it leaves the choice to the runtime, ``/scow-runtime-<id>``. One level, as
    each is made and removed in a dozen hierarchies of version 1."""
    linux = spec.get("linux") or {}
    return {**spec, "linux": {**linux, "cgroupsPath": linux.get("cgroupsPath") or f"/{_PARENT}-{id}"}}


class Driver(NativeRuntime):
    """The driver; what it writes down of the container lies in the container's folder, compiled filters in the root."""

    def __init__(self, root: str, container: Container) -> None:
        super().__init__(cast("DriverContext", _Context(root, container.folder)))
        self._uncounted = ""  # block I/O is counted for engines: here every start would pay for it
        self._bundle_path = str(container.record.get("bundle", ""))

    def create_in(self, bundle: str, id: str, spec: dict[str, Any]) -> dict[str, Any]:
        """As `create`, of the root filesystem that the bundle itself names."""
        return self.create(id, spec, [], cast("Path", Place(bundle)))

    def _bundle(self, spec: Mapping[str, Any]) -> str:
        return self._bundle_path

    def strangers(self, id: str, spec: dict[str, Any]) -> list[int]:
        """The processes that are in the cgroup which container *id* of *spec* would have."""
        return self._cgroups.processes(self._new_path(spec["linux"]["cgroupsPath"]) or f"{self._parent}/{id}")
