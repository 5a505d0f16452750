"""A bundle's ``config.json``: read, and checked as far as the rest relies on it (config.md of runtime-spec 1.2)."""

from __future__ import annotations

import os
from typing import Any

from scow.errors import InvalidArgument, NotFound
from scow.plain_json import decode_json

_MAJOR = "1"
_OBJECTS = ("process", "root", "linux", "hooks", "annotations")
_LARGEST_CONFIG_BYTES = 64 << 20

_NO_DEVICE = {"allow": False, "access": "rwm"}

# What every container may use whatever the configuration says of devices, as with runc and crun: the nodes of
# config-linux.md "Default Devices" and its terminals; and nodes of all kinds may be made.
_DEVICE_RULES = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    *(("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    ("c", 5, 0, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, None, "rwm"),
)


def load(bundle: str) -> tuple[dict[str, Any], bytes]:
    """The configuration of the bundle folder *bundle*, and its text. Raises `NotFound` and `InvalidArgument`."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"JSON specification file config.json not found in {bundle}",
            hint="name the bundle with --bundle, or make a configuration with scow-runtime spec",
        ) from None
    if len(text) > _LARGEST_CONFIG_BYTES:
        raise InvalidArgument(f"{path} is larger than {_LARGEST_CONFIG_BYTES} bytes")
    spec = parse(text, path)
    check(spec, path)
    return completed(spec, bundle), text


def completed(spec: dict[str, Any], bundle: str) -> dict[str, Any]:
    """*spec* with what runc does by itself: the bundle's folder stands before the sources of bind mounts that are
    relative, and what no rule allows is no device but the default ones. The process is `for_linux`."""
    linux = spec.get("linux") or {}
    resources = linux.get("resources") or {}
    rules = [_NO_DEVICE, *(resources.get("devices") or ()), *default_device_rules()]
    return {
        **spec,
        "process": for_linux(spec.get("process") or {}),
        "mounts": [_absolute(mount, bundle) for mount in spec.get("mounts") or ()],
        "linux": {**linux, "resources": {**resources, "devices": rules}},
    }


def for_linux(process: dict[str, Any]) -> dict[str, Any]:
    """*process* with a user by numbers: names are for Windows (config.md, "Process")."""
    user = process.get("user") or {}
    return {**process, "user": {key: user[key] for key in user.keys() - {"username", "groups"}}}


def default_device_rules() -> list[dict[str, Any]]:
    """The OCI device rules of what every container may use."""
    return [
        {"allow": True, "type": kind, "access": access}
        | {key: value for key, value in (("major", major), ("minor", minor)) if value is not None}
        for kind, major, minor, access in _DEVICE_RULES
    ]


def _absolute(mount: dict[str, Any], bundle: str) -> dict[str, Any]:
    source, options = str(mount.get("source") or ""), mount.get("options") or ()
    bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
    if not bind or not source or source.startswith("/"):
        return mount
    return {**mount, "source": os.path.normpath(os.path.join(bundle, source))}


def parse(text: bytes, name: str) -> dict[str, Any]:
    """The JSON object in *text*. Raises `InvalidArgument` with *name*."""
    try:
        value = decode_json(text.decode())
    except ValueError:
        raise InvalidArgument(f"{name} is not JSON: {_fault(text)}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{name} holds no JSON object")
    return value


def _fault(text: bytes) -> str:
    import json  # here: it knows where the fault is, and takes as long as all the rest

    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return "it has another encoding than UTF-8"


def check(spec: dict[str, Any], name: str) -> None:
    """Raises `InvalidArgument` for a configuration of another major version, or without what every one has."""
    version = spec.get("ociVersion")
    if not isinstance(version, str) or not version:
        raise InvalidArgument(f"{name} has no ociVersion")
    if version.split(".")[0] != _MAJOR:
        raise InvalidArgument(
            f"{name} is of the runtime-spec version {version}", hint=f"scow-runtime knows version {_MAJOR} of it"
        )
    for key in _OBJECTS:
        if spec.get(key) is not None and not isinstance(spec[key], dict):
            raise InvalidArgument(f"{name}: {key} is not an object")
    if not spec.get("process"):
        raise InvalidArgument(f"{name} has no process")
    if not spec["process"].get("cwd"):
        raise InvalidArgument(f"{name} has no process.cwd")
    if not isinstance(spec.get("root"), dict) or not isinstance(spec["root"].get("path"), str):
        raise InvalidArgument(f"{name} has no root.path")
    for foreign in ("windows", "vm", "solaris", "zos"):
        if spec.get(foreign):
            raise InvalidArgument(f"{name} is for another platform: it has {foreign!r}")


def rootfs(spec: dict[str, Any], bundle: str) -> str:
    """The absolute path of the root filesystem. Raises `NotFound`."""
    path = os.path.normpath(os.path.join(bundle, spec["root"]["path"]))
    if not os.path.isdir(path):
        raise NotFound(f"the root filesystem {path} does not exist, or is no directory")
    return path
