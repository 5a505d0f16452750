"""A bundle's ``config.json``: read, and checked as far as the rest relies on it (config.md of runtime-spec 1.2)."""

from __future__ import annotations

import json
import os
from typing import Any

from scow.errors import InvalidArgument, NotFound

_MAJOR = "1"
_OBJECTS = ("process", "root", "linux", "hooks", "annotations")
_LARGEST_CONFIG_BYTES = 64 << 20


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
    return spec, text


def parse(text: bytes, name: str) -> dict[str, Any]:
    """The JSON object in *text*. Raises `InvalidArgument` with *name*."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"{name} holds no JSON object")
    return value


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
