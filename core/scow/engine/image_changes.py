"""The instructions of ``docker import --change`` and ``docker commit --change`` (Dockerfile reference)."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import msgspec

from scow.errors import InvalidArgument
from scow.types import ContainerConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
KNOWN = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """*config* after *changes*, one instruction each. Raises `InvalidArgument` for what is none."""
    config = msgspec.convert(msgspec.to_builtins(config), ContainerConfig)
    for change in changes:
        for line in change.splitlines():
            if line.strip():
                _apply(config, line.strip())
    return config


def _apply(config: ContainerConfig, line: str) -> None:
    word, _, rest = line.partition(" ")
    word, rest = word.upper(), rest.strip()
    if word not in KNOWN:
        raise InvalidArgument(f"{word} is not a valid change command", hint=f"known: {', '.join(KNOWN)}")
    if not rest:
        raise InvalidArgument(f"{word} requires at least one argument")
    if word == "CMD":
        config.cmd = _command(rest)
    elif word == "ENTRYPOINT":
        config.entrypoint = _command(rest)
    elif word == "ENV":
        _set_env(config, rest)
    elif word == "EXPOSE":
        for port in rest.split():
            config.exposed_ports = {**config.exposed_ports, **_ports(port)}
    elif word == "LABEL":
        config.labels = {**config.labels, **dict(_pairs(rest, word))}
    elif word == "ONBUILD":
        config.on_build = [*(config.on_build or []), rest]
    elif word == "VOLUME":
        config.volumes = {**config.volumes, **{path: {} for path in _list(rest) or rest.split()}}
    elif word == "STOPSIGNAL":
        config.stop_signal = rest
    elif word == "USER":
        config.user = rest
    else:
        config.working_dir = rest if rest.startswith("/") else f"{config.working_dir.rstrip('/')}/{rest}"


def _command(rest: str) -> list[str]:
    return _list(rest) or ["/bin/sh", "-c", rest]


def _list(rest: str) -> list[str] | None:
    """A JSON list of strings, or None for anything else."""
    try:
        value = json.loads(rest)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _pairs(rest: str, word: str) -> list[tuple[str, str]]:
    """``a=1 b="2 3"``, or the old form ``a 1``."""
    if "=" not in rest.split()[0]:
        key, _, value = rest.partition(" ")
        if not value:
            raise InvalidArgument(f"{word} must have two arguments")
        return [(key, value.strip())]
    try:
        parts = shlex.split(rest)
    except ValueError as error:
        raise InvalidArgument(f"{word} {rest!r}: {str(error).lower()}") from error
    pairs = [part.partition("=") for part in parts]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise InvalidArgument(f"{word} {rest!r}: expected key=value")
    return [(key, value) for key, _, value in pairs]


def _set_env(config: ContainerConfig, rest: str) -> None:
    for key, value in _pairs(rest, "ENV"):
        config.env = [*(entry for entry in config.env if entry.partition("=")[0] != key), f"{key}={value}"]


def _ports(text: str) -> dict[str, dict[str, str]]:
    match = _PORT.fullmatch(text)
    first = int(match[1]) if match else 0
    last = int(match[2]) if match and match[2] else first
    if match is None or not 0 < first <= last <= 65535:
        raise InvalidArgument(f"invalid containerPort: {text}")
    return {f"{port}/{(match[3] or 'tcp').lower()}": {} for port in range(first, last + 1)}
