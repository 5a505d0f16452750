"""The instructions of ``docker import --change`` and ``docker commit --change`` (Dockerfile reference)."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import msgspec

from scow.engine.times import parse_duration_ns
from scow.errors import InvalidArgument
from scow.types import ContainerConfig, HealthConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_VARIABLE = re.compile(r"'[^']*'|\\(\$)|\$(\w+)|\$\{(\w+)(?::([-+])([^}]*))?\}")
KNOWN = (
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)
_EXPANDED = frozenset({"ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"})


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """*config* after *changes*, one instruction each. Raises `InvalidArgument` for what is none.

    As in a Dockerfile, ``$NAME`` stands for a variable of the environment so far, and an ENTRYPOINT drops a command
    that was not given here.
    """
    config = msgspec.convert(msgspec.to_builtins(config), ContainerConfig)
    lines = [line.strip() for change in changes for line in change.splitlines()]
    has_command = False
    for line in lines:
        if not line or line.startswith("#"):
            continue
        word, rest = _parsed(config, line)
        if word == "ENTRYPOINT" and not has_command:
            config.cmd = None
        has_command = has_command or word == "CMD"
        _apply(config, word, rest)
    return config


def _parsed(config: ContainerConfig, line: str) -> tuple[str, str]:
    word, _, rest = line.partition(" ")
    word, rest = word.upper(), rest.strip()
    if word not in KNOWN:
        raise InvalidArgument(f"{word} is not a valid change command", hint=f"known: {', '.join(KNOWN)}")
    if not rest:
        raise InvalidArgument(f"{word} requires at least one argument")
    return word, _expanded(config, rest) if word in _EXPANDED else rest


def _expanded(config: ContainerConfig, text: str) -> str:
    values = dict(entry.partition("=")[::2] for entry in config.env)

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if not name:
            return match[0]  # quoted
        found = values.get(name, "")
        if match[4] == "-":
            return found or match[5]
        return (match[5] if found else "") if match[4] == "+" else found

    return _VARIABLE.sub(value, text)


def _apply(config: ContainerConfig, word: str, rest: str) -> None:
    if word == "CMD":
        config.cmd = _command(rest)
    elif word == "ENTRYPOINT":
        config.entrypoint = _command(rest)
    elif word == "ENV":
        _set_env(config, rest)
    elif word == "EXPOSE":
        for port in rest.split():
            config.exposed_ports = {**config.exposed_ports, **_ports(port)}
    elif word == "HEALTHCHECK":
        config.healthcheck = _healthcheck(rest)
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
    words = _list(rest)
    return ["/bin/sh", "-c", rest] if words is None else words


def _healthcheck(rest: str) -> HealthConfig:
    """``NONE``, or options and ``CMD`` with a command (Dockerfile reference, HEALTHCHECK)."""
    if rest.upper() == "NONE":
        return HealthConfig(test=["NONE"])
    found = HealthConfig()
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        name, _, value = option[2:].partition("=")
        if name == "retries" and value.isdigit():
            found.retries = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            setattr(found, name.replace("-", "_"), parse_duration_ns(value))
        else:
            raise InvalidArgument(f"HEALTHCHECK: unknown option {option}")
        rest = rest.strip()
    word, _, command = rest.partition(" ")
    if word.upper() != "CMD" or not command.strip():
        raise InvalidArgument(f"HEALTHCHECK {rest!r}: expected NONE or CMD and a command")
    words = _list(command.strip())
    found.test = ["CMD-SHELL", command.strip()] if words is None else ["CMD", *words]
    return found


def _list(rest: str) -> list[str] | None:
    """A JSON list of strings, or None for anything else."""
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
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


def image_config(config: ContainerConfig) -> dict[str, Any]:
    """The members of *config* that an image config has (image-spec config.md; the last three are Docker's) and that
    say something, in the order of the specification."""
    found = {
        "User": config.user,
        "ExposedPorts": dict(sorted(config.exposed_ports.items())),
        "Env": config.env,
        "Entrypoint": config.entrypoint,
        "Cmd": config.cmd,
        "Volumes": dict(sorted(config.volumes.items())),
        "WorkingDir": config.working_dir,
        "Labels": dict(sorted(config.labels.items())),
        "StopSignal": config.stop_signal,
        "Healthcheck": _said(config.healthcheck),
        "OnBuild": config.on_build,
        "Shell": config.shell,
    }
    return {name: value for name, value in found.items() if value}


def _said(healthcheck: HealthConfig | None) -> dict[str, Any] | None:
    """What *healthcheck* says beyond the defaults, as JSON."""
    if healthcheck is None:
        return None
    return {name: value for name, value in msgspec.to_builtins(healthcheck).items() if value}
