"""spec: a configuration to begin with, as runc's: a shell with a terminal, and what Docker masks."""

from __future__ import annotations

import json
import os
from typing import Any

from scow.errors import Conflict, Unavailable

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
]  # fmt: skip
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def _mount(destination: str, type: str, *options: str, source: str = "") -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": type, "source": source or type}
    return {**mount, "options": list(options)} if options else mount


def configuration() -> dict[str, Any]:
    """The configuration."""
    quiet = ("nosuid", "noexec", "nodev")
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "scow",
        "mounts": [
            _mount("/proc", "proc"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            _mount("/dev/shm", "tmpfs", *quiet, "mode=1777", "size=65536k", source="shm"),
            _mount("/dev/mqueue", "mqueue", *quiet),
            _mount("/sys", "sysfs", *quiet, "ro"),
            _mount("/sys/fs/cgroup", "cgroup", *quiet, "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }


def write(bundle: str) -> None:
    """``config.json`` is in the folder *bundle*. Raises `Conflict` where there is one."""
    path = os.path.join(bundle, "config.json")
    text = json.dumps(configuration(), indent=4) + "\n"
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"file {path} exists", hint="remove it first") from None
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from error
