"""The base configuration that every case changes, and the root file system it has."""

from __future__ import annotations

from tests.differential.corpus import Spec

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def base() -> Spec:
    """What ``runc spec`` writes, without raised limits (they need CAP_SYS_RESOURCE) and without a terminal."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in SETS if name not in ("inheritable", "ambient")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", "proc"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/timer_list", "/proc/acpi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def mount(destination: str, type: str, source: str, *options: str) -> Spec:
    """One entry of ``mounts``."""
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def bind(source: object, destination: str, *options: str) -> Spec:
    """A bind mount; without a word for it, not recursive."""
    words = options if "rbind" in options else ("bind", *options)
    return mount(destination, "bind", str(source), *words)


def without(spec: Spec, *namespaces: str) -> None:
    """*spec* does not ask for these namespaces."""
    linux = spec["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] not in namespaces]
    if "uts" in namespaces:
        spec.pop("hostname", None)


def replace_mount(spec: Spec, entry: Spec) -> None:
    """*entry* stands where the mount at its destination stood."""
    spec["mounts"] = [entry if old["destination"] == entry["destination"] else old for old in spec["mounts"]]


def root_capabilities(spec: Spec, *names: str) -> None:
    """The program has these capabilities, besides the base's, in all sets but ambient and inheritable."""
    for kept in spec["process"]["capabilities"].values():
        kept.extend(name for name in names if name not in kept)
