"""The half of the runtime that lives in scowd: bundles, plans, and calls of the program for what is no process."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scow.errors import DriverUnusable, InvalidArgument, NotFound, Unsupported
from scow.linux.hierarchies import detect_host
from scow.linux.mounts import mount_point_of
from scow.ports.runtime import RuntimeInfo
from scow_runtime_oci import bundle as bundles
from scow_runtime_oci import cgroup, elsewhere, options, rates, stats
from scow_runtime_oci.calls import Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scow.linux.hierarchies import Hierarchies
    from scow.ports import DriverContext, Mount


class OciRuntime:
    """Implements `scow.ports.runtime.Runtime` with one program. *hierarchies* stands for the host's, for tests.

    The program keeps its state below the driver's *run_dir*, beside a record of each container (its bundle and cgroup).
    """

    child_module = "scow_runtime_oci.child"

    def __init__(self, context: DriverContext, hierarchies: Hierarchies | None = None) -> None:
        self.name = context.name
        self._options = options.parse(context.options)
        # a group beside the engine's own: what another runtime lists there is not ours, nor ours its
        engine = f"{context.engine}.{context.name}"
        self._parent = f"{context.settings.get('cgroup_parent', 'scow').strip('/')}/{engine}"
        self._hierarchies = hierarchies or detect_host()
        self._state = context.run_dir / "state"
        self._records = context.run_dir / "containers"
        path = options.find(self._options.command)
        arguments = (*self._options.arguments, "--root", str(self._state))
        self._program = Program(path, arguments, context.run_dir / "log", self._options.hide_unified)

    def check(self) -> None:
        """See the protocol."""
        if os.geteuid() != 0:
            raise DriverUnusable("the OCI runtimes need root")
        if not self._program.path:
            raise DriverUnusable(
                f"there is no program {self._options.command!r}",
                hint=f"install it, or name its path in the config file: options, runtime.{self.name}, command",
            )
        if not self._hierarchies.version:
            raise DriverUnusable(
                "no control groups are mounted", hint="mount -t cgroup2 none /sys/fs/cgroup, or start systemd"
            )

    def info(self) -> RuntimeInfo:
        """See the protocol."""
        said = self._version
        return RuntimeInfo(
            version=said.splitlines()[0].strip() if said else "",
            cgroup_version=self._hierarchies.version,
            cgroup_driver="cgroupfs",
            security_options=("name=seccomp,profile=builtin",) if "seccomp" in said.lower() else (),
            path=self._program.path or self._options.command,
        )

    @functools.cached_property
    def _version(self) -> str:
        return self._program.version()

    def create(self, id: str, spec: Mapping[str, Any], root: Sequence[Mount], bundle: Path) -> dict[str, Any]:
        """See the protocol. The cgroup is made by the program, when the monitor runs it."""
        path = _cgroup_path((spec.get("linux") or {}).get("cgroupsPath", "")) or f"{self._parent}/{id}"
        rootfs = f"{bundle}/rootfs"
        config = bundles.configuration(spec, rootfs, f"/{path}", self._options.init)
        shared = config["linux"].get("rootfsPropagation", "") in ("shared", "rslave", "rshared", "slave")
        if shared and self._options.hide_unified:
            raise InvalidArgument(
                f"runtime {self.name!r} cannot share the mounts of a volume with the host",
                hint="that does not go with its option hide_unified",
            )
        self._state.mkdir(mode=0o700, exist_ok=True)
        self._records.mkdir(mode=0o700, exist_ok=True)
        _write(self._records / id, {"bundle": str(bundle), "cgroup": path})
        try:
            _write(bundle / "config.json", config)
        except BaseException:
            os.unlink(self._records / id)
            raise
        return {
            **self._plan(id, str(bundle)),
            "rootfs": rootfs,
            "root": [[mount.type, mount.source, mount.target, list(mount.options)] for mount in root],
            "private": mount_point_of(rootfs) if shared else "",
            "pid_file": f"{bundle}/init.pid",
            "log": f"{bundle}/runtime.log",
            "oom_file": cgroup.oom_file(self._hierarchies, path),
        }

    def exec(self, id: str, spec: Mapping[str, Any], process: Mapping[str, Any]) -> dict[str, Any]:
        """See the protocol."""
        return {**self._plan(id, self._record(id)["bundle"]), "process": bundles.process(process)}

    def _plan(self, id: str, bundle: str) -> dict[str, Any]:
        return {
            "id": id,
            "bundle": bundle,
            "command": self._program.command,
            "hide_unified": self._options.hide_unified,
        }

    def processes(self, id: str) -> list[int]:
        """See the protocol."""
        return cgroup.processes(self._hierarchies, self._path(id))

    def signal_all(self, id: str, signal: int) -> None:
        """See the protocol."""
        cgroup.signal_all(self._hierarchies, self._path(id), signal)

    def pause(self, id: str) -> None:
        """See the protocol."""
        self._program.call("pause", self._known(id))

    def resume(self, id: str) -> None:
        """See the protocol."""
        self._program.call("resume", self._known(id))

    def update(self, id: str, resources: Mapping[str, Any]) -> None:
        """See the protocol. Raises `Unsupported` where the program leaves the rates of disks: all stays then."""
        if limits := rates.of(resources):
            self._update(id, limits)
            if left := ", ".join(rates.missing(self._hierarchies, self._path(id), limits)):
                raise Unsupported(
                    f"{os.path.basename(self._program.path)} update does not change {left}",
                    hint="crun and scow-runtime do; or make the container anew with these rates",
                )
        if rest := rates.without(resources):
            self._update(id, rest)

    def _update(self, id: str, resources: Mapping[str, Any]) -> None:
        fd, file = tempfile.mkstemp(prefix="update-", suffix=".json", dir=self._records.parent)
        try:
            with open(fd, "w", encoding="utf-8") as out:
                json.dump(resources, out)
            self._program.call("update", "--resources", file, self._known(id))
        finally:
            os.unlink(file)

    def oom_killed(self, id: str) -> bool:
        """See the protocol."""
        return cgroup.oom_kills(self._hierarchies, self._path(id)) > 0

    def stats(self, id: str) -> dict[str, Any]:
        """See the protocol."""
        path = self._path(id)
        if not cgroup.exists(self._hierarchies, path):
            raise NotFound(f"no cgroup {path}")
        return stats.sample(self._hierarchies, path)

    def delete(self, id: str) -> None:
        """See the protocol. The program's own state is gone as well, and what it was told by files."""
        record = self._record(id)
        if not record:
            return
        cgroup.empty(self._hierarchies, record["cgroup"])
        failure = None
        if (self._state / id).exists():
            try:
                self._program.call("delete", "--force", id)  # poststop hooks, and what only the program knows of
            except Exception as error:  # noqa: BLE001  (raised when all the rest is gone)
                failure = error
        cgroup.remove(self._hierarchies, record["cgroup"])
        shutil.rmtree(self._state / id, ignore_errors=True)
        for name in ("config.json", "init.pid", "runtime.log", "runtime.log.start"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{record['bundle']}/{name}")
        elsewhere.tidy(record["bundle"])
        os.unlink(self._records / id)
        if failure:
            raise failure

    def list(self) -> list[str]:
        """See the protocol."""
        names = os.listdir(self._records) if self._records.is_dir() else []
        return sorted(name for name in names if not name.startswith("."))

    def close(self) -> None:
        """See the protocol. The groups above those of containers go with the last of them."""
        cgroup.tidy(self._hierarchies, self._parent)

    def _known(self, id: str) -> str:
        if not self._record(id):
            raise NotFound(f"runtime {self.name!r} has no container {id[:12]}")
        return id

    def _path(self, id: str) -> str:
        return str(self._record(id).get("cgroup") or f"{self._parent}/{id}")

    def _record(self, id: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._records / id).read_text())
        except FileNotFoundError:
            return {}
        return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """*path* holds *value*, whole or not at all; only root reads it."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8", opener=_private) as file:
        json.dump(value, file)
    os.replace(part, path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _cgroup_path(asked: str) -> str:
    """The spec's ``cgroupsPath`` relative to the hierarchies' roots; ``""`` where it leaves the choice to us."""
    if ":" in asked:
        raise InvalidArgument(f"cgroup path {asked!r} is for systemd; this runtime's driver is cgroupfs")
    return os.path.normpath("/" + asked).lstrip("/")
