"""OCI runtime specs into plans: everything that can be computed before the fork is computed here, once.

A plan is a JSON value. `container_plan` makes that of a container's init, `process_plan` that of any process.
"""

from __future__ import annotations

import binascii
import functools
import os
import resource
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from scow.errors import InvalidArgument
from scow.linux import capabilities
from scow.linux import syscalls as sys
from scow.linux.mount_options import Options, attribute_changes, attributes, parse_options
from scow_runtime_native import labels, namespaces, plan_userns, scheduling_plan
from scow_runtime_native import seccomp as profiles
from scow_runtime_native.plan_hooks import hook_plan, state_base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scow.ports import Mount

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


class Recipe(NamedTuple):
    """`scow.ports.Mount`, without the import of all ports."""

    type: str
    source: str
    target: str
    options: tuple[str, ...]


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
    if linux.get("intelRdt"):
        raise InvalidArgument(
            "the native runtime has no linux.intelRdt", hint="runc and crun have it, by the runtime oci"
        )
    kinds = namespaces.read(linux)
    own_users = "user" in kinds
    hooks, state = hook_plan(spec), state_base(id, spec, bundle)
    private_cgroup = "cgroup" in kinds and not kinds["cgroup"]
    root_propagation = _root_propagation(linux.get("rootfsPropagation") or "")
    label = labels.mount_label(linux)
    plans = [mount_plan(mount, cgroup, private_cgroup, own_users, label) for mount in spec.get("mounts") or ()]
    for plan in plans:
        if not root_propagation & sys.MS_SLAVE:  # what is bound is private anyhow
            _drop_private(plan)
        if plan["kind"] == "proc":
            plan["pid_namespace"] = kinds.get("pid", "")
    rootfs = str((spec.get("root") or {}).get("path", "rootfs"))
    if not rootfs.startswith("/"):
        rootfs = str(bundle / rootfs)
    if not any(not mount.target for mount in root) and not kinds["mount"]:
        root = [cast("Mount", Recipe("bind", rootfs, "", ("rbind",))), *root]
    joined = {kind: path for kind, path in kinds.items() if path and kind not in ("pid", "mount")}
    return {
        "id": id,
        "clone": sum(namespaces.CLONE[kind] for kind, path in kinds.items() if kind in namespaces.CLONE and not path),
        "userns": plan_userns.namespace_plan(linux, kinds, namespaces.JOIN, root),
        "join": [[path, namespaces.JOIN[kind]] for kind, path in joined.items() if not own_users],
        "join_pid": kinds.get("pid") or None,
        "join_mount": kinds["mount"],
        "time": namespaces.time_offsets(linux, kinds) if "time" in kinds and not kinds["time"] else None,
        "cgroup": cgroup,
        "cgroupns": private_cgroup,
        "hostname": _own_name(spec, "hostname", kinds),
        "domainname": _own_name(spec, "domainname", kinds),
        "loopback": "network" in kinds and not kinds["network"],
        "sysctls": namespaces.sysctls(linux, kinds),
        "rootfs": rootfs,
        "root": [[m.type, m.source, m.target, plan_userns.without_mapping_words(m.options)] for m in root],
        "root_propagation": root_propagation,
        "mounts": plans,
        "setup_dev": not any(plan["destination"].rstrip("/") == "/dev" and plan["kind"] == "bind" for plan in plans),
        "devices": device_plan(linux.get("devices") or ()),
        "masked": list(linux.get("maskedPaths") or ()),
        "readonly_paths": list(linux.get("readonlyPaths") or ()),
        "late_readonly": [plan["destination"] for plan in plans if plan.get("late_readonly")],
        "readonly": bool((spec.get("root") or {}).get("readonly")),
        "init": bool((spec.get("annotations") or {}).get("scow.init")),
        "hooks": hooks,
        "state": state if hooks else {},
        "process": process_plan(spec["process"], seccomp, linux, state, own_users),
    }


def process_plan(
    process: Mapping[str, Any],
    seccomp: bytes,
    linux: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    user_namespace: bool = False,
) -> dict[str, Any]:
    """The plan of one process. ``user.username`` (``name[:group]``) and ``user.groups`` (names or numbers) are looked
    up in the container; without them ``uid``, ``gid`` and ``additionalGids`` hold. *linux* is that of the container's
    spec; *state*, what its states say (`state_base`), is for a seccomp agent. In a *user_namespace* there are all
    rights to be had, over what it owns, also those that the engine lacks."""
    linux = linux or {}
    rights = (2 << _last_capability()) - 1 if user_namespace else _own_rights()
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
        "named_user": bool(user.get("username")),
        "groups": [*user.get("groups", ()), *map(str, user.get("additionalGids") or ())],
        "umask": user.get("umask", 0o022),
        # the monitor takes the terminal's master out of a process that it must be allowed to trace, pidfd_getfd(2)
        "own_terminal": bool(_own_rights() >> capabilities.NUMBERS["CAP_SYS_PTRACE"] & 1),
        "rlimits": _rlimits(process.get("rlimits") or ()),
        "oom_score_adj": oom,
        "oom_score_asked": bool(oom),
        "capabilities": {
            "effective": _mask(caps.get("effective"), rights),
            "permitted": _mask(caps.get("permitted"), rights),
            "inheritable": _mask(caps.get("inheritable"), rights),
            "ambient": _ambient(caps, rights),
        },
        "bounding_drop": _dropped(_mask(caps.get("bounding"), rights), rights),
        "no_new_privs": bool(process.get("noNewPrivileges")),
        "seccomp": binascii.b2a_base64(seccomp, newline=False).decode(),
        "seccomp_flags": profiles.flags(linux.get("seccomp")),
        "seccomp_listener": profiles.listener(linux.get("seccomp"), state or {}),
        "labels": labels.process_labels(process),
        "scheduling": scheduling_plan.read(process, linux),
        "console_size": _console_size(process),
        "warnings": capability_warnings(caps, rights),
    }


def _console_size(process: Mapping[str, Any]) -> list[int]:
    """Rows and columns; empty where the spec does not say or there is no terminal."""
    size = process.get("consoleSize") or {}
    return [int(size["height"]), int(size["width"])] if process.get("terminal") and size else []


def _mask(names: Sequence[str] | None, rights: int) -> int:
    """The bits of *names* that can be given."""
    return capabilities.mask(name for name in names or () if name in capabilities.NUMBERS) & rights


def capability_warnings(caps: Mapping[str, Any], rights: int) -> list[str]:
    """What the runtime must tell of capabilities that it cannot give (config.md, "Linux Process")."""
    asked = dict.fromkeys(name for names in caps.values() for name in names or ())
    unknown = [name for name in asked if name not in capabilities.NUMBERS]
    lacking = [name for name in asked if name not in unknown and not capabilities.mask([name]) & rights]
    return [f"unknown capability {name!r} is left out" for name in unknown] + [
        f"the capability {name} is left out: the runtime itself lacks it" for name in lacking
    ]


def _ambient(caps: Mapping[str, Any], rights: int) -> list[int]:
    """The kernel raises what is permitted and inheritable; what is not is left out, as runc and crun do."""
    wanted = _mask(caps.get("ambient"), rights)
    wanted &= _mask(caps.get("permitted"), rights) & _mask(caps.get("inheritable"), rights)
    return [capabilities.NUMBERS[name] for name in capabilities.names(wanted)]


@functools.cache
def _own_rights() -> int:
    return capabilities.bounding()


@functools.cache
def _last_capability() -> int:
    return capabilities.last()


def _dropped(bounding: int, rights: int) -> list[int]:
    """What is to be dropped from the bounding set, which is *rights* before."""
    gone = rights & ~bounding
    return [number for number in range(_last_capability() + 1) if gone >> number & 1]


def _rlimits(limits: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    kinds = [limit["type"] for limit in limits]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InvalidArgument(f"the resource limit {kind!r} is there twice")
    return [_rlimit(limit) for limit in limits]


def _rlimit(limit: Mapping[str, Any]) -> list[Any]:
    name = str(limit["type"])
    number = getattr(resource, name, None)
    if not isinstance(number, int):
        raise InvalidArgument(f"unknown resource limit {name!r}")
    return [name.removeprefix("RLIMIT_").lower(), number, _amount(limit["soft"]), _amount(limit["hard"])]


def _amount(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= (1 << 63) else value


def mount_plan(
    mount: Mapping[str, Any],
    cgroup: Mapping[str, Any],
    private_cgroup: bool,
    user_namespace: bool = False,
    label: str = "",
) -> dict[str, Any]:
    """One OCI mount with its options parsed; *kind* says how the child makes it. *label* is the SELinux context of the
    container's own filesystems."""
    destination, fstype = "/" + str(mount["destination"]).lstrip("/"), str(mount.get("type") or "")
    _check_destination(os.path.normpath(destination), fstype)
    words = list(mount.get("options") or ())
    options = parse_options(plan_userns.without_mapping_words(words))
    mapping = plan_userns.mount_mapping(mount, words, user_namespace)
    if options.flags & sys.MS_REMOUNT:
        return _remount_plan(destination, options)
    if fstype == "bind" or options.flags & sys.MS_BIND:
        return _bind_plan(destination, str(mount.get("source") or ""), options, mapping)
    if mapping:
        raise InvalidArgument(f"mount {destination}: only bind mounts can be idmapped")
    kind = fstype if fstype in ("proc", "sysfs", "tmpfs", "cgroup") else "filesystem"
    plan: dict[str, Any] = {
        "kind": kind,
        "destination": destination,
        "type": fstype,
        "source": str(mount.get("source") or fstype),
        "flags": options.flags,
        "data": ",".join((*options.data, *labels.mount_data(label, fstype))) or None,
        "propagation": list(options.propagation),
        "set_recursive": options.recursive,
        "clear_recursive": options.recursive_cleared,
    }
    if kind == "cgroup":
        return _cgroup_plan(plan, cgroup, options, private_cgroup)
    if kind == "tmpfs":
        if options.copy_up:
            plan.update(copy_up=True, attributes=attributes(options.flags & ~sys.MS_RDONLY))
        readonly = options.flags & sys.MS_RDONLY or options.recursive & sys.MOUNT_ATTR_RDONLY
        if readonly:  # mount points are made in it before
            plan.update(
                flags=options.flags & ~sys.MS_RDONLY,
                set_recursive=options.recursive & ~sys.MOUNT_ATTR_RDONLY,
                late_readonly=True,
            )
    return plan


def _remount_plan(destination: str, options: Options) -> dict[str, Any]:
    """``remount``: what is mounted at *destination* by then gets other flags; with ``bind``, only that mount of it."""
    wanted, unwanted = attribute_changes(options)
    return {
        "kind": "remount",
        "destination": destination,
        "flags": options.flags,
        "data": ",".join(options.data) or None,
        "bind": bool(options.flags & sys.MS_BIND),
        "set": wanted,
        "clear": unwanted,
        "set_recursive": options.recursive,
        "clear_recursive": options.recursive_cleared,
        "propagation": list(options.propagation),
    }


def _drop_private(plan: dict[str, Any]) -> None:
    """Nothing need be done for the propagation of a mount that is to be private, as it is from the start."""
    if not any(flags & ~(sys.MS_PRIVATE | sys.MS_REC) for flags in plan.get("propagation", ())):
        plan["propagation"] = []


def _check_destination(path: str, fstype: str) -> None:
    """The root and /proc are the runtime's: what lies over /proc could forge what programs read there (CVE-2019-16884).
    The files that lxcfs replaces are let through, as in runc."""
    if path == "/":
        raise InvalidArgument("invalid mount: the destination can't be '/'")
    if path == "/proc" and fstype != "proc":
        raise InvalidArgument("cannot mount over /proc")
    if path.startswith("/proc/") and path not in _PROC_FILES:
        raise InvalidArgument(f"{path!r} cannot be mounted because it is inside /proc")


def _bind_plan(
    destination: str, source: str, options: Options, mapping: dict[str, Any] | None = None
) -> dict[str, Any]:
    """*live*: the mount goes on exchanging mounts with the host, by its *propagation*."""
    if not source.startswith("/"):
        raise InvalidArgument(f"bind mount {destination}: the source {source!r} is not absolute")
    pid, inside = namespaces.elsewhere(source)
    live = 0
    for propagation in options.propagation:
        live = propagation if propagation & (sys.MS_SLAVE | sys.MS_SHARED) else 0
    wanted, unwanted = attribute_changes(options)
    return {
        "kind": "bind",
        "destination": destination,
        "source": inside,
        "namespace": f"/proc/{pid}/ns/mnt" if pid else "",
        "recursive": bool(options.flags & sys.MS_REC),
        "set": wanted & ~options.recursive,
        "clear": unwanted,
        "set_recursive": options.recursive,
        "clear_recursive": options.recursive_cleared,
        "idmap": mapping,
        "live": bool(live),
        "propagation": list(options.propagation),
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
        "attributes": attributes(options.flags) & ~sys.MOUNT_ATTR__ATIME,
    }


def _own_name(spec: Mapping[str, Any], field: str, kinds: Mapping[str, str]) -> str:
    """The host or domain name that the UTS namespace gets. Raises `InvalidArgument` where that would be the host's."""
    name = str(spec.get(field) or "")
    if name and ("uts" not in kinds or (kinds["uts"] and namespaces.is_own("uts", kinds["uts"]))):
        raise InvalidArgument(f"{field} {name!r}: the container has the host's UTS namespace")
    return name


def _root_propagation(word: str) -> int:
    if not word:
        return 0
    flag = _PROPAGATION.get(word.removeprefix("r"))
    if flag is None:
        raise InvalidArgument(f"unknown rootfs propagation {word!r}")
    return flag | (sys.MS_REC if word.startswith("r") else 0)


def device_plan(extra: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The default nodes and those of the spec; *own* says that the spec asked for it, so that another file in its place
    is an error."""
    nodes = {path: {"path": path, "type": "c", "major": major, "minor": minor} for path, major, minor in _DEFAULT_NODES}
    for device in extra:
        path, kind = str(device.get("path") or ""), device.get("type")
        if not path.startswith("/") or os.path.normpath(path) == "/":
            raise InvalidArgument(f"device {path!r}: the path is not absolute, or the root")
        if kind not in ("c", "b", "u", "p"):
            raise InvalidArgument(f"device {path}: unknown type {kind!r}", hint="known: b, c, p, u")
        if kind != "p" and ("major" not in device or "minor" not in device):
            raise InvalidArgument(f"device {path}: a node of type {kind!r} needs major and minor numbers")
        nodes[path] = {**device, "own": path not in nodes}
    return list(nodes.values())
