"""The ``containerEdits`` of CDI devices, made in an OCI configuration as the reference library makes them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scow.engine.cdi import Registry

Json = dict[str, Any]
_SHOWN = 20


def check(registry: Registry, names: Iterable[str]) -> None:
    """Raises `InvalidArgument` in Docker's words, with the known devices as hint, where one of *names* is missing.
    (Not `NotFound`: a docker CLI that is told so when it creates a container pulls the image once more.)"""
    missing = [name for name in names if name not in registry.devices]
    if not missing:
        return
    known = sorted(registry.devices)
    hint = f"known: {', '.join(known[:_SHOWN])}" if known else "no spec file describes a device"
    if len(known) > _SHOWN:
        hint += f" and {len(known) - _SHOWN} more"
    raise InvalidArgument(
        f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}",
        hint="; ".join([hint, *registry.problems]),
    )


def inject(spec: Json, registry: Registry, names: Sequence[str]) -> None:
    """The container of *spec* has the devices *names* of *registry*. Raises `InvalidArgument` where one is missing, and
    that or `Unsupported` where its edits cannot be made; *spec* is of no use then."""
    check(registry, names)
    files: set[str] = set()
    for name in names:
        device = registry.devices[name]
        edits = [device.edits] if device.file in files else [device.common, device.edits]
        files.add(device.file)
        for part in edits:
            _apply(spec, part, name)


def _apply(spec: Json, edits: Mapping[str, Any], name: str) -> None:
    if edits.get("intelRdt"):
        raise Unsupported(f"CDI device {name} wants Intel RDT classes, which this version of scow does not set")
    process = spec["process"]
    for item in edits.get("env", ()):
        variable = item.partition("=")[0]
        process["env"] = [has for has in process["env"] if has.partition("=")[0] != variable] + [item]
    for node in edits.get("deviceNodes", ()):
        _add_device(spec, node, name)
    if edits.get("mounts"):
        _add_mounts(spec, edits["mounts"])
    for hook in edits.get("hooks", ()):
        made = {"path": hook["path"], **{key: hook[key] for key in ("args", "env", "timeout") if hook.get(key)}}
        spec.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(made)
    groups = process["user"].setdefault("additionalGids", [])
    groups += [gid for gid in edits.get("additionalGids", ()) if gid and gid not in groups]


def _add_device(spec: Json, node: Mapping[str, Any], name: str) -> None:
    made = _node(node, name)
    linux = spec["linux"]
    linux["devices"] = [has for has in linux.get("devices", ()) if has["path"] != made["path"]] + [made]
    access = {"": "rwm", "none": ""}.get(node.get("permissions", ""), node.get("permissions", ""))
    if made["type"] in ("b", "c") and access:
        rule = {"allow": True, "type": made["type"], "major": made["major"], "minor": made["minor"], "access": access}
        linux.setdefault("resources", {}).setdefault("devices", []).append(rule)


def _node(node: Mapping[str, Any], name: str) -> Json:
    """The OCI device; what the spec file leaves out is that of the host's node."""
    path, source = node["path"], node.get("hostPath") or node["path"]
    made: Json = {"path": path, "type": node.get("type", ""), "major": node.get("major", 0)}
    made["minor"] = node.get("minor", 0)
    described = bool(made["type"] and (made["major"] or made["type"] == "p"))
    mode = None
    try:
        has = os.lstat(source)
    except OSError as error:
        if not described:
            reason = os.strerror(error.errno or 0).lower()
            raise InvalidArgument(
                f"CDI device injection failed: failed to stat CDI host device {source!r} of {name}: {reason}"
            ) from error
    else:
        mode = stat.S_IMODE(has.st_mode)
        if not described:
            kind = "b" if stat.S_ISBLK(has.st_mode) else "c" if stat.S_ISCHR(has.st_mode) else ""
            kind = "p" if stat.S_ISFIFO(has.st_mode) else kind
            if not kind:
                raise InvalidArgument(f"CDI device injection failed: {source} of {name} is not a device node")
            if made["type"] not in ("", kind):
                raise InvalidArgument(
                    f"CDI device injection failed: CDI device ({path}, {source}), host type mismatch "
                    f"({made['type']}, {kind})"
                )
            made.update(type=kind)
            if kind != "p" and not made["major"]:
                made.update(major=os.major(has.st_rdev), minor=os.minor(has.st_rdev))
    for key, value in (("fileMode", node.get("fileMode", mode)), ("uid", node.get("uid")), ("gid", node.get("gid"))):
        if value is not None:
            made[key] = value
    return made


def _add_mounts(spec: Json, mounts: Iterable[Mapping[str, Any]]) -> None:
    """In place of those at the same paths, and all sorted so that a mount does not hide a deeper one."""
    for mount in mounts:
        target = mount["containerPath"]
        made = {"destination": target, "source": mount["hostPath"], "options": list(mount.get("options") or ())}
        if mount.get("type"):
            made["type"] = mount["type"]
        spec["mounts"] = [has for has in spec.get("mounts", ()) if has["destination"] != target] + [made]
    spec["mounts"].sort(key=lambda mount: os.path.normpath(mount["destination"]).rstrip("/").count("/"))
