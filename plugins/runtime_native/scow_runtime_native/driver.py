"""The half of the runtime that lives in scowd: plans, and everything that goes through a container's cgroup."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from scow.errors import DriverUnusable, InvalidArgument
from scow.linux.hierarchies import detect_host
from scow_runtime_native import device_program, namespaces, plan
from scow_runtime_native.cgroups_hybrid import CgroupsHybrid
from scow_runtime_native.cgroups_v1 import CgroupsV1
from scow_runtime_native.cgroups_v2 import CgroupsV2
from scow_runtime_native.plan_hooks import state_base
from scow_runtime_native.seccomp import Compiler, library_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scow.linux.hierarchies import Hierarchies
    from scow.ports import DriverContext, Mount
    from scow.ports.runtime import RuntimeInfo
    from scow_runtime_native.cgroup_manager import Manager

_NEEDED = (5, 12)  # mount_setattr; openat2, clone3 and close_range are older


class NativeRuntime:
    """Implements `scow.ports.runtime.Runtime`. *hierarchies* stands for the host's, for tests."""

    child_module = "scow_runtime_native.child"

    def __init__(self, context: DriverContext, hierarchies: Hierarchies | None = None) -> None:
        top = context.settings.get("cgroup_parent", "scow").strip("/")
        self._parent = f"{top}/{context.engine}"
        self._relative = f"{self._parent}.paths"  # not below the parent, whose groups are containers
        self._elsewhere = context.run_dir / "cgroup-paths"  # a file a container that has a cgroup parent of its own
        self._hierarchies = hierarchies or detect_host()
        self._uncounted = "" if self._hierarchies.unified else self._hierarchies.v1.get("blkio", "")
        self._compiler = Compiler(context.state_dir / "seccomp")
        self._cgroups: Manager
        if self._hierarchies.unified:
            self._cgroups = CgroupsV2(self._hierarchies, device_program.attach)
        elif self._hierarchies.version == "hybrid":
            self._cgroups = CgroupsHybrid(self._hierarchies, top)
        else:
            self._cgroups = CgroupsV1(self._hierarchies, top)

    def check(self) -> None:
        """See the protocol."""
        release = os.uname().release
        version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
        if version < _NEEDED:
            raise DriverUnusable(f"the native runtime needs Linux 5.12 or newer, this is {release}")
        if os.geteuid() != 0:
            raise DriverUnusable("the native runtime needs root")
        if not self._hierarchies.version:
            raise DriverUnusable(
                "no control groups are mounted", hint="mount -t cgroup2 none /sys/fs/cgroup, or start systemd"
            )

    def info(self) -> RuntimeInfo:
        """See the protocol."""
        from importlib.metadata import version

        from scow.ports.runtime import RuntimeInfo

        seccomp = library_version()
        controllers = {*self._hierarchies.v1, *self._hierarchies.v2_controllers}
        return RuntimeInfo(
            version=version("scow-runtime-native"),
            cgroup_version=self._hierarchies.version,
            cgroup_driver="cgroupfs",
            security_options=("name=seccomp,profile=builtin",) if seccomp else (),
            features={"libseccomp": seccomp, "controllers": sorted(controllers), "user_namespaces": True},
        )

    def create(self, id: str, spec: Mapping[str, Any], root: Sequence[Mount], bundle: Path) -> dict[str, Any]:
        """See the protocol."""
        linux: Mapping[str, Any] = spec.get("linux", {})
        seccomp = self._compiler.compile(linux.get("seccomp"))
        resources = linux.get("resources") or {}
        path = self._new_path(linux.get("cgroupsPath", "")) or f"{self._parent}/{id}"
        made = plan.container_plan(id, spec, root, bundle, self._cgroups.join_record(path, resources), seccomp)
        if path != f"{self._parent}/{id}":
            self._elsewhere.mkdir(parents=True, exist_ok=True)
            (self._elsewhere / id).write_text(path)
        try:
            self._cgroups.create(path, resources)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._elsewhere / id)
            raise
        self._count_block_io(path)
        for warning in made["process"].pop("warnings"):
            _warn(f"container {id[:12]}: {warning}")
        return made

    def exec(self, id: str, spec: Mapping[str, Any], process: Mapping[str, Any]) -> dict[str, Any]:
        """See the protocol."""
        linux: Mapping[str, Any] = spec.get("linux") or {}
        kinds = namespaces.read(linux)
        state = state_base(id, spec, self._bundle(spec))
        return {
            "id": id,
            "cgroup": self._cgroups.join_record(self._path(id), linux.get("resources") or {}),
            "userns": "user" in kinds,
            "time": "time" in kinds,
            "own_root": bool(kinds["mount"]),  # another than that of the mount namespace it is in
            "process": plan.process_plan(
                process, self._compiler.compile(linux.get("seccomp")), linux, state, "user" in kinds
            ),
        }

    def processes(self, id: str) -> list[int]:
        """See the protocol."""
        return self._cgroups.processes(self._path(id))

    def signal_all(self, id: str, signal: int) -> None:
        """See the protocol."""
        self._cgroups.signal_all(self._path(id), signal)

    def pause(self, id: str) -> None:
        """See the protocol."""
        self._cgroups.freeze(self._path(id), True)

    def resume(self, id: str) -> None:
        """See the protocol."""
        self._cgroups.freeze(self._path(id), False)

    def update(self, id: str, resources: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._cgroups.update(self._path(id), resources)

    def oom_killed(self, id: str) -> bool:
        """See the protocol."""
        return self._cgroups.oom_kills(self._path(id)) > 0

    def stats(self, id: str) -> dict[str, Any]:
        """See the protocol."""
        return self._cgroups.stats(self._path(id))

    def delete(self, id: str) -> None:
        """See the protocol."""
        path = self._path(id)
        self._cgroups.delete(path)
        if path.startswith(f"{self._relative}/"):
            self._cgroups.tidy(os.path.dirname(path))
        try:
            os.unlink(self._elsewhere / id)
        except FileNotFoundError:
            return

    def list(self) -> list[str]:
        """See the protocol."""
        elsewhere = os.listdir(self._elsewhere) if self._elsewhere.is_dir() else []
        return sorted({*self._cgroups.children(self._parent), *elsewhere})

    def close(self) -> None:
        """See the protocol. The engine's own cgroup goes with the last container's."""
        self._cgroups.tidy(self._parent)

    def _bundle(self, spec: Mapping[str, Any]) -> str:
        """The folder of the container of *spec*, as a seccomp agent is told it."""
        return os.path.dirname((spec.get("root") or {}).get("path") or "/")

    def _count_block_io(self, path: str) -> None:
        """What the disks carry is counted from the first container on."""
        blkio, self._uncounted = self._uncounted, ""
        if blkio:
            from scow_runtime_native import block_counters  # here: the command does without

            block_counters.start(f"{blkio}/{path}")

    def _new_path(self, asked: str) -> str:
        """The spec's ``cgroupsPath`` below the hierarchies' roots: an absolute one from there, a relative one from a
        group of the engine's; ``""`` where it leaves the choice to us."""
        if asked.count(":") == 2 and "/" not in asked:
            raise InvalidArgument(
                f"cgroup path {asked!r} has systemd's form slice:prefix:name, and this runtime makes cgroups itself",
                hint="give a path such as /scow/web, or tell the caller that the cgroup driver is cgroupfs",
            )
        if asked and not asked.startswith("/"):
            asked = f"/{self._relative}{os.path.normpath('/' + asked)}"
        return os.path.normpath("/" + asked).lstrip("/")

    def _path(self, id: str) -> str:
        try:
            return (self._elsewhere / id).read_text()
        except FileNotFoundError:
            return f"{self._parent}/{id}"


def _warn(message: str) -> None:
    import logging  # here: few specs give cause, and the command starts faster without

    logging.getLogger(__name__).warning(message)
