"""OCI runtime specs into plans: everything that can be computed before the fork is computed here, once.

A plan is a JSON value. `container_plan` makes that of a container's init, `process_plan` that of any process.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import resource
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument
from scow.linux import capabilities
from scow.linux import syscalls as sys
from scow.linux.mount_options import Options, attributes, parse_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scow.ports import Mount

_CLONE = {
    "pid": sys.CLONE_NEWPID,
    "network": sys.CLONE_NEWNET,
    "mount": sys.CLONE_NEWNS,
    "uts": sys.CLONE_NEWUTS,
    "ipc": sys.CLONE_NEWIPC,
}
_JOIN = {**_CLONE, "cgroup": sys.CLONE_NEWCGROUP, "time": sys.CLONE_NEWTIME}
_PROPAGATION = {
    "private": sys.MS_PRIVATE,
    "slave": sys.MS_SLAVE,
    "shared": sys.MS_SHARED,
    "unbindable": sys.MS_UNBINDABLE,
}
_DEFAULT_NODES: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
)
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime", "net/dev")
)
_IN_NAMESPACE = re.compile(r"/proc/(\d+)/root(/.*)")  # a path of another process's mount namespace
_SECCOMP_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # one thread only
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}


def container_plan(
    id: str,
    spec: Mapping[str, Any],
    root: Sequence[Mount],
    bundle: Path,
    cgroup: dict[str, Any],
    seccomp: bytes,
) -> dict[str, Any]:
    """The plan of the init of container *id*; *cgroup* is its manager's join record, *seccomp* the compiled filter.

    Raises `InvalidArgument` for what the runtime does not offer.
    """
    linux: Mapping[str, Any] = spec.get("linux", {})
    if any((spec.get("hooks") or {}).values()):
        raise InvalidArgument("the native runtime runs no OCI hooks", hint="use a runtime such as crun")
    namespaces = {entry["type"]: entry.get("path", "") for entry in linux.get("namespaces", ())}
    if "user" in namespaces:
        raise InvalidArgument("the native runtime has no user namespaces", hint="use a runtime such as crun")
    if "mount" not in namespaces or namespaces["mount"]:
        raise InvalidArgument("the native runtime needs a mount namespace of the container's own")
    for kind in namespaces:
        if kind not in _JOIN:
            raise InvalidArgument(f"unknown namespace type {kind!r}")
    new_network = "network" in namespaces and not namespaces["network"]
    private_cgroup = "cgroup" in namespaces and not namespaces["cgroup"]
    plans = [mount_plan(mount, cgroup, private_cgroup) for mount in spec.get("mounts", ())]
    for entry in plans:
        if entry["kind"] == "proc":
            entry["pid_namespace"] = namespaces.get("pid", "")
    return {
        "id": id,
        "clone": sum(_CLONE[kind] for kind, path in namespaces.items() if kind in _CLONE and not path),
        "join": [[path, _JOIN[kind]] for kind, path in namespaces.items() if path and kind != "pid"],
        "join_pid": namespaces.get("pid") or None,
        "cgroup": cgroup,
        "cgroupns": private_cgroup,
        "hostname": spec.get("hostname", "") if "uts" in namespaces and not namespaces["uts"] else "",
        "domainname": spec.get("domainname", "") if "uts" in namespaces and not namespaces["uts"] else "",
        "loopback": new_network,
        "sysctls": [["/proc/sys/" + name.replace(".", "/"), value] for name, value in linux.get("sysctl", {}).items()],
        "rootfs": str(bundle / "rootfs"),
        "root": [[mount.type, mount.source, mount.target, list(mount.options)] for mount in root],
        "root_propagation": _root_propagation(linux.get("rootfsPropagation", "")),
        "mounts": plans,
        "setup_dev": not any(plan["destination"].rstrip("/") == "/dev" and plan["kind"] == "bind" for plan in plans),
        "devices": _devices(linux.get("devices", ())),
        "masked": list(linux.get("maskedPaths") or ()),
        "readonly_paths": list(linux.get("readonlyPaths") or ()),
        "late_readonly": [plan["destination"] for plan in plans if plan.get("late_readonly")],
        "readonly": bool(spec.get("root", {}).get("readonly")),
        "init": bool(spec.get("annotations", {}).get("scow.init")),
        "process": process_plan(spec["process"], seccomp, linux.get("seccomp")),
    }


def process_plan(
    process: Mapping[str, Any], seccomp: bytes, seccomp_spec: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The plan of one process. ``user.username`` (``name[:group]``) and ``user.groups`` (names or numbers) are looked
    up in the container; without them ``uid``, ``gid`` and ``additionalGids`` hold."""
    args = list(process.get("args") or ())
    if not args or not args[0]:
        raise InvalidArgument("no command specified")
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise InvalidArgument(f"the working directory {cwd!r} is invalid, it needs to be an absolute path")
    user = process.get("user", {})
    caps = process.get("capabilities") or {}
    oom = process.get("oomScoreAdj")
    return {
        "args": args,
        "env": list(process.get("env") or ()),
        "cwd": cwd,
        "user": user.get("username") or f"{user.get('uid', 0)}:{user.get('gid', 0)}",
        "groups": [*user.get("groups", ()), *map(str, user.get("additionalGids", ()))],
        "umask": user.get("umask", 0o022),
        # the monitor takes the terminal's master out of a process that it must be allowed to trace, pidfd_getfd(2)
        "own_terminal": bool(_own_rights() >> capabilities.NUMBERS["CAP_SYS_PTRACE"] & 1),
        "rlimits": [_rlimit(limit) for limit in process.get("rlimits") or ()],
        "oom_score_adj": oom,
        "oom_score_asked": bool(oom),
        "capabilities": {
            "effective": _mask(caps.get("effective")),
            "permitted": _mask(caps.get("permitted")),
            "inheritable": _mask(caps.get("inheritable")),
            "ambient": [capabilities.NUMBERS[name] for name in caps.get("ambient") or ()],
        },
        "bounding_drop": _dropped(_mask(caps.get("bounding"))),
        "no_new_privs": bool(process.get("noNewPrivileges")),
        "seccomp": base64.b64encode(seccomp).decode(),
        "seccomp_flags": _seccomp_flags(seccomp_spec),
        "apparmor": process.get("apparmorProfile", "") if os.path.isdir("/sys/module/apparmor") else "",
    }


def _mask(names: Sequence[str] | None) -> int:
    try:
        wanted = capabilities.mask(names or ())
    except KeyError as error:
        raise InvalidArgument(f"unknown capability {error.args[0]!r}") from error
    missing = capabilities.names(wanted & ~_own_rights())
    if missing:
        raise InvalidArgument(
            f"cannot give {', '.join(missing)} to a container: the engine itself lacks it",
            hint="start scowd with that capability, or do not add it",
        )
    return wanted


@functools.cache
def _own_rights() -> int:
    return capabilities.bounding()


@functools.cache
def _last_capability() -> int:
    return capabilities.last()


def _dropped(bounding: int) -> list[int]:
    """What is to be dropped from the bounding set; what the engine itself lacks is not there anyhow."""
    gone = _own_rights() & ~bounding
    return [number for number in range(_last_capability() + 1) if gone >> number & 1]


def _rlimit(limit: Mapping[str, Any]) -> list[Any]:
    name = str(limit["type"])
    number = getattr(resource, name, None)
    if not isinstance(number, int):
        raise InvalidArgument(f"unknown resource limit {name!r}")
    return [name.removeprefix("RLIMIT_").lower(), number, _amount(limit["soft"]), _amount(limit["hard"])]


def _amount(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= (1 << 63) else value


def _seccomp_flags(spec: Mapping[str, Any] | None) -> int:
    """Without flags in the spec SPEC_ALLOW, as runc: no speculation barrier that slows every process down."""
    if not spec:
        return 0
    flags = spec.get("flags")
    if flags is None:
        return _SECCOMP_FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    unknown = [flag for flag in flags if flag not in _SECCOMP_FLAGS]
    if unknown:
        raise InvalidArgument(f"unknown seccomp flag {unknown[0]!r}")
    return sum(_SECCOMP_FLAGS[flag] for flag in set(flags))


def mount_plan(mount: Mapping[str, Any], cgroup: Mapping[str, Any], private_cgroup: bool) -> dict[str, Any]:
    """One OCI mount with its options parsed; *kind* says how the child makes it."""
    destination, fstype = str(mount["destination"]), str(mount.get("type") or "")
    if not destination.startswith("/"):
        raise InvalidArgument(f"mount destination {destination!r} is not absolute")
    _check_destination(os.path.normpath(destination), fstype)
    options = parse_options(mount.get("options") or ())
    if fstype == "bind" or options.flags & sys.MS_BIND:
        return _bind_plan(destination, str(mount.get("source") or ""), options)
    kind = fstype if fstype in ("proc", "sysfs", "tmpfs", "cgroup") else "filesystem"
    plan: dict[str, Any] = {
        "kind": kind,
        "destination": destination,
        "type": fstype,
        "source": str(mount.get("source") or fstype),
        "flags": options.flags,
        "data": ",".join(options.data) or None,
    }
    if kind == "cgroup":
        return _cgroup_plan(plan, cgroup, options, private_cgroup)
    if kind == "tmpfs" and options.flags & sys.MS_RDONLY:  # mount points are made in it before
        plan.update(flags=options.flags & ~sys.MS_RDONLY, late_readonly=True)
    return plan


def _check_destination(path: str, fstype: str) -> None:
    """The root and /proc are the runtime's: what lies over /proc could forge what programs read there (CVE-2019-16884).
    The files that lxcfs replaces are let through, as in runc."""
    if path == "/":
        raise InvalidArgument("invalid mount: the destination can't be '/'")
    if path == "/proc" and fstype != "proc":
        raise InvalidArgument("cannot mount over /proc")
    if path.startswith("/proc/") and path not in _PROC_FILES:
        raise InvalidArgument(f"{path!r} cannot be mounted because it is inside /proc")


def _bind_plan(destination: str, source: str, options: Options) -> dict[str, Any]:
    """*live* is the propagation of a mount that goes on exchanging mounts with the host, 0 for a private one."""
    if not source.startswith("/"):
        raise InvalidArgument(f"bind mount {destination}: the source {source!r} is not absolute")
    elsewhere = _IN_NAMESPACE.fullmatch(source)
    live = 0
    for propagation in options.propagation:
        live = propagation if propagation & (sys.MS_SLAVE | sys.MS_SHARED) else 0
    wanted = attributes(options.flags)
    return {
        "kind": "bind",
        "destination": destination,
        "source": elsewhere[2] if elsewhere else source,
        "namespace": f"/proc/{elsewhere[1]}/ns/mnt" if elsewhere else "",
        "recursive": bool(options.flags & sys.MS_REC),
        "set": wanted & ~options.recursive,
        "clear": attributes(options.cleared) & ~wanted,
        "set_recursive": options.recursive,
        "live": live & ~sys.MS_REC,
        "live_recursive": bool(live & sys.MS_REC),
    }


def _cgroup_plan(plan: dict[str, Any], cgroup: Mapping[str, Any], options: Options, private: bool) -> dict[str, Any]:
    """``cgroup``: a tmpfs with the hierarchies (version 1), or the unified one: the namespace's view of it, else the
    container's own folder."""
    if cgroup.get("version") == 2:
        if private:
            return {**plan, "kind": "filesystem", "type": "cgroup2", "source": "cgroup", "data": None}
        return _bind_plan(plan["destination"], cgroup["directory"], options)
    return {
        **plan,
        "type": "tmpfs",
        "source": "tmpfs",
        "data": "mode=755",
        "flags": options.flags & ~sys.MS_RDONLY,
        "hierarchies": cgroup.get("hierarchies", []),
        "links": cgroup.get("links", []),
        "attributes": attributes(options.flags),
    }


def _root_propagation(word: str) -> int:
    if not word:
        return 0
    flag = _PROPAGATION.get(word.removeprefix("r"))
    if flag is None:
        raise InvalidArgument(f"unknown rootfs propagation {word!r}")
    return flag | (sys.MS_REC if word.startswith("r") else 0)


def _devices(extra: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    nodes = {path: {"path": path, "type": "c", "major": major, "minor": minor} for path, major, minor in _DEFAULT_NODES}
    for device in extra:
        if device.get("type") not in ("c", "b", "u", "p"):
            raise InvalidArgument(f"device {device.get('path')}: unknown type {device.get('type')!r}")
        nodes[device["path"]] = dict(device)
    return list(nodes.values())
