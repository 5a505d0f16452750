"""What ``info`` and ``version`` tell: the host, the engine's numbers, and what its drivers can do here."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scow import __version__
from scow.engine import cdi, host_limits
from scow.errors import ScowError
from scow.oci import Platform
from scow.ports import LOG, NETWORK, RUNTIME, STORAGE, VOLUME
from scow.ports.runtime import RuntimeInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.config import Config
    from scow.engine.engine import Engine
    from scow.engine.host_limits import HostLimits

API_VERSION = "1.56"
MIN_API_VERSION = "1.24"
INDEX_SERVER = "https://index.docker.io/v1/"
ENGINE_ID_FILE = "engine-id"

Json = dict[str, Any]


class System:
    """Answers for one engine; facts of the host that cannot change while it runs are read once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fixed: Json | None = None

    async def version(self) -> Json:
        """Docker's SystemVersion."""
        host = Platform.host()
        runtime = await self._runtime()
        details = {
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": host.os,
            "Arch": host.architecture,
            "KernelVersion": os.uname().release,
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
        }
        runtime_name = self._engine.config.drivers[RUNTIME.name]
        return {
            "Platform": {"Name": "Scow"},
            "Version": __version__,
            **details,
            "Experimental": False,
            "BuildTime": "",
            "Components": [
                {"Name": "Engine", "Version": __version__, "Details": {**details, "Experimental": "false"}},
                {"Name": f"runtime {runtime_name}", "Version": runtime.version, "Details": {}},
            ],
        }

    async def info(self) -> Json:
        """Docker's SystemInfo."""
        engine, config = self._engine, self._engine.config
        if self._fixed is None:
            self._fixed = await asyncio.to_thread(_fixed_facts, config)
        runtime = await self._runtime()
        storage, warnings = await self._storage_status()
        now = await asyncio.to_thread(_changing_facts)
        devices = await asyncio.to_thread(cdi.load, config.cdi_spec_dirs)
        limits = _limits(host_limits.of_host())
        return {
            **self._fixed,
            **now,
            **self._counts(),
            **limits,
            "Driver": config.drivers[STORAGE.name],
            "DriverStatus": storage,
            "DockerRootDir": str(config.data_root),
            "Plugins": {
                "Volume": engine.host.names(VOLUME),
                "Network": engine.host.names(NETWORK),
                "Authorization": None,
                "Log": engine.host.names(LOG),
            },
            "Debug": config.debug,
            "NGoroutines": len(asyncio.all_tasks()),
            "LoggingDriver": config.drivers[LOG.name],
            "CDISpecDirs": list(config.cdi_spec_dirs),
            "DiscoveredDevices": [{"Source": "cdi", "ID": name} for name in sorted(devices.devices)],
            "CgroupDriver": runtime.cgroup_driver,
            "CgroupVersion": "1" if runtime.cgroup_version == "hybrid" else runtime.cgroup_version,
            "SecurityOptions": list(runtime.security_options),
            "Runtimes": await self._runtimes(),
            "DefaultRuntime": config.drivers[RUNTIME.name],
            "Warnings": [
                *warnings,
                *engine.problems,
                *(f"WARNING: CDI: {text}" for text in devices.problems),
                *_warnings(limits, now),
            ],
        }

    async def _runtime(self, name: str | None = None) -> RuntimeInfo:
        """What the runtime says of itself; empty where it cannot serve (``info`` must answer all the same)."""
        try:
            return await self._engine.host.call(RUNTIME, name, self._runtime_info, name)
        except ScowError:
            return RuntimeInfo("", "", "none")

    def _runtime_info(self, name: str | None = None) -> RuntimeInfo:
        return self._engine.host.driver(RUNTIME, name).info()

    async def _runtimes(self) -> Json:
        """Every runtime with the path of its program; of those that are installed and were not asked for, the name."""
        host = self._engine.host
        chosen = {*host.drivers(RUNTIME), *(name for kind, name in host.instances if kind == "runtime")}
        found = {}
        for name in host.names(RUNTIME):
            info = await self._runtime(name) if name in chosen else None
            found[name] = {"path": (info.path if info else "") or name}
        return found

    async def _storage_status(self) -> tuple[list[list[str]], list[str]]:
        """The storage driver's rows, or a warning that says why there are none."""
        try:
            rows = await self._engine.host.call(STORAGE, None, self._storage_rows)
        except ScowError as error:
            return [], [f"WARNING: {error.message}"]
        return [list(row) for row in rows], []

    def _storage_rows(self) -> list[tuple[str, str]]:
        return self._engine.host.driver(STORAGE).status()

    def _counts(self) -> Json:
        containers = self._engine.containers.list(all=True)
        paused = sum(c.state.status == "paused" for c in containers)
        running = sum(c.state.running for c in containers) - paused
        return {
            "Containers": len(containers),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(containers) - running - paused,
            "Images": len(self._engine.images.list(all=True)),
        }


def engine_id(data_root: Path) -> str:
    """The id of the engine with that data root: made once, the same ever after."""
    path = data_root / ENGINE_ID_FILE
    if not path.exists():
        made = str(uuid.uuid4())
        part = path.with_name(f".{ENGINE_ID_FILE}.{made}")
        part.write_text(made + "\n")
        with suppress(FileExistsError):  # of two who make it at once the first wins
            os.link(part, path)
        part.unlink()
    return path.read_text().strip()


def os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release(5) file."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _fixed_facts(config: Config) -> Json:
    release = os_release(_read("/etc/os-release") or _read("/usr/lib/os-release"))
    kernel = os.uname()
    return {
        "ID": engine_id(config.data_root),
        "KernelVersion": kernel.release,
        "OperatingSystem": release.get("PRETTY_NAME") or release.get("NAME") or "Linux",
        "OSVersion": release.get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": kernel.machine,
        "ServerVersion": __version__,
        "IndexServerAddress": INDEX_SERVER,
        "RegistryConfig": _registry_config(config),
        "HttpProxy": without_password(config.proxy.http or _variable("HTTP_PROXY")),
        "HttpsProxy": without_password(config.proxy.https or _variable("HTTPS_PROXY")),
        "NoProxy": ",".join(config.proxy.no_proxy) or _variable("NO_PROXY"),
        "Labels": [],
        "ExperimentalBuild": False,
        "LiveRestoreEnabled": True,  # containers go on while the daemon is away
        "Swarm": {"LocalNodeState": "inactive", "ControlAvailable": False, "RemoteManagers": None},
    }


def _variable(name: str) -> str:
    return os.environ.get(name.lower()) or os.environ.get(name) or ""


def without_password(proxy: str) -> str:
    """As Docker shows it: who logs in at the proxy, and with what, is nobody's business."""
    before, at, host = proxy.rpartition("@")
    scheme = f"{before.partition('://')[0]}://" if "://" in before else ""
    return f"{scheme}xxxxx:xxxxx@{host}" if at else proxy


def _changing_facts() -> Json:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "Name": socket.gethostname(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": pages,
        "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        "NFd": len(os.listdir("/proc/self/fd")),
        "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }


def _registry_config(config: Config) -> Json:
    hosts = {"docker.io", *config.registries}
    indexes = {}
    for host in sorted(hosts):
        known = config.registries.get(host)
        indexes[host] = {
            "Name": host,
            "Mirrors": list(known.mirrors) if known else [],
            "Secure": not (known and known.insecure),
            "Official": host == "docker.io",
        }
    mirrors = indexes["docker.io"]["Mirrors"]
    return {"IndexConfigs": indexes, "InsecureRegistryCIDRs": [], "Mirrors": mirrors}


def _limits(host: HostLimits) -> Json:
    """Which limits can be set, by Docker's names (moby: pkg/sysinfo)."""
    return {
        "MemoryLimit": host.memory,
        "SwapLimit": host.swap,
        "CpuCfsPeriod": host.cpu_quota,
        "CpuCfsQuota": host.cpu_quota,
        "CPUShares": host.cpu_shares,
        "CPUSet": host.cpuset,
        "PidsLimit": host.pids,
        "OomKillDisable": host.oom_kill_disable,
    }


def _warnings(limits: Mapping[str, bool], now: Mapping[str, Any]) -> list[str]:
    texts = {
        "MemoryLimit": "No memory limit support",
        "SwapLimit": "No swap limit support",
        "CpuCfsQuota": "No cpu cfs quota support",
        "CPUShares": "No cpu shares support",
        "CPUSet": "No cpuset support",
        "PidsLimit": "No pids limit support",
    }
    found = [f"WARNING: {text}" for name, text in texts.items() if not limits[name]]
    if not now["IPv4Forwarding"]:
        found.append("WARNING: IPv4 forwarding is disabled")
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
