"""The engine's driver, for one container of a command's root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scow.ports import DriverContext
from scow_runtime_native.driver import NativeRuntime

if TYPE_CHECKING:
    from scow_runtime_native.command.store import Container

_PARENT = "scow-runtime"


class Driver(NativeRuntime):
    """The driver; what it writes down of the container lies in the container's folder, compiled filters in the root.
    A container whose configuration has no ``cgroupsPath`` gets ``/scow-runtime/<root>/<id>``."""

    def __init__(self, root: str, container: Container) -> None:
        super().__init__(
            DriverContext(
                name="native",
                state_dir=Path(root, ".cache"),
                run_dir=Path(container.folder),
                settings={"cgroup_parent": _PARENT},
                engine=root.strip("/").replace("/", "-") or "root",
            )
        )

    def strangers(self, id: str, spec: dict[str, Any]) -> list[int]:
        """The processes that are in the cgroup which container *id* of *spec* would have."""
        linux = spec.get("linux") or {}
        return self._cgroups.processes(self._new_path(linux.get("cgroupsPath") or "") or f"{self._parent}/{id}")
