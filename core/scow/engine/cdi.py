"""The Container Device Interface (CDI 0.3 to 1.0): which devices the spec files of this host describe.

A spec file (JSON or YAML) holds the devices of one *kind* (``vendor.com/class``) and, for each, the edits of an OCI
configuration that give it to a container; see https://github.com/cncf-tags/container-device-interface. A file that is
wrong, and two files of one folder with the same device, take their devices away and are kept as `Registry.problems`;
the rest is served.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, ScowError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json = dict[str, Any]

VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")  # of a vendor and of a class
_DEVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_EDITS = {  # what containerEdits may hold: the type, and what an item of a list must hold
    "env": (list, ()),
    "deviceNodes": (list, ("path",)),
    "mounts": (list, ("hostPath", "containerPath")),
    "hooks": (list, ("hookName", "path")),
    "additionalGids": (list, ()),
    "intelRdt": (dict, ()),
}


@dataclass(frozen=True, slots=True)
class Device:
    """One device: its qualified name, where it is described, and the edits of its own and of all of its file."""

    name: str
    file: str
    edits: Mapping[str, Any]
    common: Mapping[str, Any]


@dataclass(slots=True)
class Registry:
    """The *devices* by qualified name, and what was wrong (*problems*), file by file."""

    devices: dict[str, Device] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def kinds(self) -> list[str]:
        """``vendor.com/class`` of each device, once, sorted."""
        return sorted({name.partition("=")[0] for name in self.devices})


def is_qualified(name: str) -> bool:
    """Whether *name* has the form ``vendor.com/class=device``."""
    kind, equals, device = name.partition("=")
    return bool(equals and _is_kind(kind) and _DEVICE.fullmatch(device))


def _is_kind(text: str) -> bool:
    vendor, slash, name = text.partition("/")
    return bool(slash and _NAME.fullmatch(vendor) and _NAME.fullmatch(name))


def load(directories: Sequence[str]) -> Registry:
    """What the spec files in *directories* describe; a later folder goes before an earlier one."""
    registry = Registry()
    for directory in directories:
        here: dict[str, Device] = {}
        clashing: set[str] = set()
        for path in _files(directory):
            try:
                found = _devices(path)
            except ScowError as error:
                registry.problems.append(f"{path}: {error.message}")
                continue
            for device in found:
                if device.name in here:
                    clashing.add(device.name)
                    registry.problems.append(f"conflicting device {device.name} (in {here[device.name].file}, {path})")
                here[device.name] = device
        registry.devices.update(here)
        for name in clashing:
            del registry.devices[name]
    return registry


def _files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:  # not there, as on most hosts
        return []
    return [f"{directory}/{name}" for name in names if name.endswith((".json", ".yaml"))]


def _devices(path: str) -> list[Device]:
    """The devices of one spec file. Raises `InvalidArgument` that says what is wrong with it."""
    content = _read(path)
    kind, version = content.get("kind"), str(content.get("cdiVersion", "")).removeprefix("v")
    if version not in VERSIONS:
        raise InvalidArgument(f"invalid cdiVersion {version!r}; known are {', '.join(VERSIONS)}")
    if not isinstance(kind, str) or not _is_kind(kind):
        raise InvalidArgument(f"invalid kind {kind!r}: it is not of the form vendor.com/class")
    common = _checked(content.get("containerEdits"), "containerEdits")
    described = content.get("devices")
    if not isinstance(described, list) or not described:
        raise InvalidArgument("no devices")
    devices: dict[str, Device] = {}
    for item in described:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not _DEVICE.fullmatch(name):
            raise InvalidArgument(f"invalid device name {name!r}")
        if name in devices:
            raise InvalidArgument(f"device {name!r} is there twice")
        edits = _checked(item.get("containerEdits"), f"device {name}")
        if not edits:
            raise InvalidArgument(f"device {name}: no containerEdits")
        devices[name] = Device(f"{kind}={name}", path, edits, common)
    for needed, what in _needs(content):
        if VERSIONS.index(version) < VERSIONS.index(needed):
            raise InvalidArgument(f"{what} needs cdiVersion {needed}, and the file has {version}")
    return list(devices.values())


def _read(path: str) -> Json:
    if path.endswith(".json"):
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"not readable as JSON: {error}") from error
    else:
        from scow.yamlfile import read  # 30 ms: only paid where there is such a file

        content = read(Path(path))
    if not isinstance(content, dict):
        raise InvalidArgument("not a mapping of keys")
    return content


def _checked(edits: Any, where: str) -> Json:
    """*edits* with the types and names that `scow.engine.cdi_edits` counts on."""
    if edits is None:
        return {}
    if not isinstance(edits, dict):
        raise InvalidArgument(f"{where}: containerEdits is not a mapping")
    edits = {"additionalGids" if key == "additionalGIDs" else key: value for key, value in edits.items()}
    for key, value in edits.items():
        if key not in _EDITS:
            raise InvalidArgument(f"{where}: unknown edit {key!r}")
        kind, needed = _EDITS[key]
        if not isinstance(value, kind):
            raise InvalidArgument(f"{where}: {key} has the wrong type")
        for item in value if needed else ():
            missing = [name for name in needed if not isinstance(item, dict) or not item.get(name)]
            if missing:
                raise InvalidArgument(f"{where}: an entry of {key} has no {missing[0]}")
    _check_values(edits, where)
    return {key: value for key, value in edits.items() if value}


def _check_values(edits: Json, where: str) -> None:
    for item in edits.get("env", ()):
        if not isinstance(item, str) or item.find("=") < 1:
            raise InvalidArgument(f"{where}: invalid environment variable {item!r}")
    for node in edits.get("deviceNodes", ()):
        if node.get("type", "") not in ("", "b", "c", "u", "p"):
            raise InvalidArgument(f"{where}: device {node['path']}: invalid type {node['type']!r}")
        permissions = node.get("permissions", "")
        if permissions != "none" and set(permissions) - set("rwm"):
            raise InvalidArgument(f"{where}: device {node['path']}: invalid permissions {permissions!r}")
    for hook in edits.get("hooks", ()):
        if hook["hookName"] not in HOOKS:
            raise InvalidArgument(f"{where}: invalid hook name {hook['hookName']!r}")
    for gid in edits.get("additionalGids", ()):
        if not isinstance(gid, int) or gid < 0:
            raise InvalidArgument(f"{where}: invalid additional group {gid!r}")


def _needs(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What *content* uses that came with a later version: the version, and what."""
    devices: list[Json] = content["devices"]
    every = [content.get("containerEdits") or {}, *(device.get("containerEdits") or {} for device in devices)]
    if content.get("annotations") or any(device.get("annotations") for device in devices):
        yield "0.6.0", "annotations"
    if "." in content["kind"].partition("/")[2]:
        yield "0.6.0", "a dot in the class"
    if any(device["name"][0].isdigit() for device in devices):
        yield "0.5.0", "a device name that begins with a digit"
    for edits in every:
        if any(node.get("hostPath") for node in edits.get("deviceNodes") or ()):
            yield "0.5.0", "hostPath of a device node"
        if any(mount.get("type") for mount in edits.get("mounts") or ()):
            yield "0.4.0", "type of a mount"
        for key in ("additionalGids", "additionalGIDs", "intelRdt"):
            if edits.get(key):
                yield "0.7.0", key
