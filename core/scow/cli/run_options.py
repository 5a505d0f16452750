"""From the flags of ``run`` and ``create`` to the body of ``POST /containers/create``, by docker's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scow.cli import ports
from scow.cli.environment import env_of, labels_of
from scow.cli.host_options import host_config
from scow.cli.mounts import volume
from scow.cli.network_options import networks_of
from scow.cli.sizes import duration
from scow.errors import InvalidArgument

Flags = Mapping[str, Any]
_STREAMS = ("stdin", "stdout", "stderr")


def create_body(image: str, arguments: Sequence[str], flags: Flags, *, detach: bool = False) -> dict[str, Any]:
    """The request for *image* with the command *arguments*; raises `InvalidArgument` before anything is sent."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in dict.fromkeys(flags["volume"]):
        bind, path = volume(text)
        if bind:
            binds.append(bind)
        else:
            anonymous[path] = {}
    published = [port for text in flags["publish"] for port in ports.publish(text)]
    exposed = [port for text in flags["expose"] for port in ports.expose(text)]
    mode, endpoints = networks_of(flags)
    body: dict[str, Any] = {
        "Image": image,
        "Hostname": flags["hostname"] or "",
        "Domainname": flags["domainname"] or "",
        "User": flags["user"] or "",
        "WorkingDir": flags["workdir"] or "",
        **_streams(flags, detach=detach),
        "Env": env_of(flags["env_file"], flags["env"]),
        "Labels": labels_of(flags["label_file"], flags["label"]),
        "Cmd": list(arguments) or None,
        "Entrypoint": None if flags["entrypoint"] is None else [flags["entrypoint"]],
        "ExposedPorts": {port: {} for port in [*(item.port for item in published), *exposed]},
        "Volumes": anonymous,
        "StopSignal": flags["stop_signal"],
        "StopTimeout": flags["stop_timeout"],
        "Healthcheck": _health(flags),
        "HostConfig": {**host_config(flags, binds, ports.bindings(published)), "NetworkMode": mode},
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }
    return {key: value for key, value in body.items() if value is not None}


def _streams(flags: Flags, *, detach: bool) -> dict[str, bool]:
    """Which streams are attached: those of ``-a``, else output, and input with ``-i``; none when detached."""
    chosen = {name.lower() for name in flags["attach"]}
    if unknown := chosen - set(_STREAMS):
        raise InvalidArgument(f"invalid argument {unknown.pop()!r} for --attach", hint="use stdin, stdout or stderr")
    if detach and chosen:
        raise InvalidArgument("conflicting options: cannot specify both --attach and --detach")
    if detach:
        attached = dict.fromkeys(_STREAMS, False)
    elif chosen:
        attached = {name: name in chosen for name in _STREAMS}
    else:
        attached = {"stdin": flags["interactive"], "stdout": True, "stderr": True}
    return {
        "AttachStdin": attached["stdin"],
        "AttachStdout": attached["stdout"],
        "AttachStderr": attached["stderr"],
        "OpenStdin": flags["interactive"],
        "StdinOnce": flags["interactive"] and attached["stdin"],
        "Tty": flags["tty"],
    }


def _health(flags: Flags) -> dict[str, Any] | None:
    times = {
        "Interval": flags["health_interval"],
        "Timeout": flags["health_timeout"],
        "StartPeriod": flags["health_start_period"],
        "StartInterval": flags["health_start_interval"],
    }
    command, retries = flags["health_cmd"], flags["health_retries"]
    if flags["no_healthcheck"]:
        if command or retries or any(times.values()):
            raise InvalidArgument("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    health: dict[str, Any] = {name: duration(text) for name, text in times.items() if text}
    if negative := [name for name, value in health.items() if value < 0]:
        raise InvalidArgument(f"health check: {negative[0]} cannot be negative")
    if retries is not None and retries < 0:
        raise InvalidArgument(f"--health-retries cannot be negative: {retries}")
    if retries:
        health["Retries"] = retries
    if command:
        health["Test"] = ["CMD-SHELL", command]
    return health or None
