"""The ``linux.namespaces``, ``timeOffsets`` and ``sysctl`` of a spec: which are new, which are joined, what goes with
them. Runs in scowd, before the fork; what is wrong raises `InvalidArgument`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Mapping

CLONE = {
    "user": sys.CLONE_NEWUSER,
    "pid": sys.CLONE_NEWPID,
    "network": sys.CLONE_NEWNET,
    "mount": sys.CLONE_NEWNS,
    "uts": sys.CLONE_NEWUTS,
    "ipc": sys.CLONE_NEWIPC,
}
"""Those that clone(2) makes."""

JOIN = {**CLONE, "cgroup": sys.CLONE_NEWCGROUP, "time": sys.CLONE_NEWTIME}
_FILES = {"network": "net", "mount": "mnt"}  # below /proc/<pid>/ns
_CLOCKS = ("monotonic", "boottime")
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_NANOSECONDS = 1_000_000_000


def read(linux: Mapping[str, Any]) -> dict[str, str]:
    """Kind → path of the namespace that is joined, ``""`` for a new one; kinds that are not there are the caller's."""
    found: dict[str, str] = {}
    for entry in linux.get("namespaces") or ():
        kind, path = str(entry.get("type")), str(entry.get("path") or "")
        if kind not in JOIN:
            raise InvalidArgument(f"unknown namespace type {kind!r}", hint=f"known: {', '.join(sorted(JOIN))}")
        if kind in found:
            raise InvalidArgument(f"the namespace type {kind!r} is there twice")
        if path and not path.startswith("/"):
            raise InvalidArgument(f"{kind} namespace: the path {path!r} is not absolute")
        found[kind] = path
    _check_mount(found)
    if "user" in found and found["mount"]:
        raise InvalidArgument(
            "a user namespace of the container's own has no rights over a mount namespace that is joined"
        )
    return found


def _check_mount(namespaces: Mapping[str, str]) -> None:
    """Without a mount namespace the container's mounts would be the host's, and its root a chroot to be left again."""
    insecure = "the container's mounts would be made on the host, and only chroot(2) would keep it in its root"
    if "mount" not in namespaces:
        raise InvalidArgument(f"the spec has no mount namespace: {insecure}", hint='add {"type": "mount"}')
    if namespaces["mount"] and is_own("mount", namespaces["mount"]):
        raise InvalidArgument(f"{namespaces['mount']} is the runtime's own mount namespace: {insecure}")


def is_own(kind: str, path: str) -> bool:
    """Whether *path* is the namespace of *kind* that this process is in itself. False for a path that is not there."""
    try:
        return os.path.samefile(path, f"/proc/self/ns/{_FILES.get(kind, kind)}")
    except OSError:
        return False


def time_offsets(linux: Mapping[str, Any], namespaces: Mapping[str, str]) -> str:
    """What goes into /proc/<pid>/timens_offsets (time_namespaces(7)), a line a clock."""
    offsets = linux.get("timeOffsets") or {}
    if offsets and "time" not in namespaces:
        raise InvalidArgument("timeOffsets without a time namespace", hint='add {"type": "time"} to the namespaces')
    if offsets and namespaces["time"]:
        raise InvalidArgument("timeOffsets with a time namespace that is joined: its offsets are fixed")
    if "time" in namespaces and not os.path.exists("/proc/self/timens_offsets"):
        raise InvalidArgument("this kernel has no time namespaces (CONFIG_TIME_NS)")
    lines = []
    for clock, offset in offsets.items():
        if clock not in _CLOCKS:
            raise InvalidArgument(f"timeOffsets: unknown clock {clock!r}", hint=f"known: {', '.join(_CLOCKS)}")
        nanoseconds = int(offset.get("nanosecs") or 0)
        if not 0 <= nanoseconds < _NANOSECONDS:
            raise InvalidArgument(f"timeOffsets: {nanoseconds} nanosecs of {clock} are not in 0-{_NANOSECONDS - 1}")
        lines.append(f"{clock} {int(offset.get('secs') or 0)} {nanoseconds}\n")
    return "".join(lines)


def sysctls(linux: Mapping[str, Any], namespaces: Mapping[str, str]) -> list[list[str]]:
    """Path below the host's /proc and value of each sysctl: only what belongs to a namespace that is the container's
    own, or another container's (runc's rules)."""
    return [[_sysctl(str(name), namespaces), str(value)] for name, value in (linux.get("sysctl") or {}).items()]


def _sysctl(given: str, namespaces: Mapping[str, str]) -> str:
    """The file of *given*: ``a.b/c.d`` or, where the first separator is a slash, ``a/b.c/d`` (sysctl.d(5))."""
    separators = [char for char in given if char in "./"]
    slashed = given if separators[:1] == ["/"] else given.translate({ord("."): "/", ord("/"): "."})
    name = slashed.translate({ord("."): "/", ord("/"): "."})
    if not all(part not in ("", ".", "..") for part in slashed.split("/")):
        raise InvalidArgument(f"{given!r} is no sysctl")
    why = _refused(name, namespaces)
    if why:
        raise InvalidArgument(f"sysctl {name} is not allowed: {why}")
    return "/proc/sys/" + slashed


def _refused(name: str, namespaces: Mapping[str, str]) -> str:
    def shared(kind: str) -> bool:
        return kind not in namespaces or bool(namespaces[kind] and is_own(kind, namespaces[kind]))

    if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        return "the container has the host's IPC namespace" if shared("ipc") else ""
    if name.startswith("net."):
        return "the container has the host's network namespace" if shared("network") else ""
    if name == "kernel.domainname":
        return "the container has the host's UTS namespace" if shared("uts") else ""
    if name == "kernel.hostname":
        return "the spec's hostname says it"
    if name.startswith("user."):
        return "" if "user" in namespaces else "it needs a user namespace of the container's own"
    return "it is the whole host's, no namespace has one of its own"


def elsewhere(source: str) -> tuple[str, str]:
    """The process in whose mount namespace *source* lies (``/proc/<pid>/root/…``), ``""`` for ours; its path there."""
    parts = source.split("/", 4)
    if len(parts) == 5 and parts[:2] == ["", "proc"] and parts[2].isdecimal() and parts[3] == "root":
        return parts[2], "/" + parts[4]
    return "", source
