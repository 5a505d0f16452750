"""A create request (or what is committed) and its image's configuration, made one (Docker's rules)."""

from __future__ import annotations

from scow.errors import InvalidArgument
from scow.types import ContainerConfig


def merge(request: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """What the container runs with: the request's values, the image's where the request is silent.

    An entrypoint in the request drops the image's command too; ``[""]`` clears the entrypoint. Environment and labels
    are joined by key (the request's variables first; a bare ``KEY`` keeps the image's out), volumes and exposed ports
    by union.
    """
    fields = {name: getattr(request, name) for name in ContainerConfig.__struct_fields__}
    if request.entrypoint is None:
        fields["entrypoint"] = image.entrypoint
        fields["cmd"] = request.cmd or image.cmd
    elif request.entrypoint == [""]:
        fields["entrypoint"] = None
    given = {line.partition("=")[0] for line in request.env}
    fields["env"] = [*request.env, *(line for line in image.env if line.partition("=")[0] not in given)]
    fields["labels"] = {**image.labels, **request.labels}
    fields["volumes"] = {**image.volumes, **request.volumes}
    fields["exposed_ports"] = {**image.exposed_ports, **request.exposed_ports}
    for name in ("user", "working_dir", "stop_signal"):
        fields[name] = getattr(request, name) or getattr(image, name)
    for name in ("stop_timeout", "healthcheck", "shell"):
        fields[name] = getattr(image, name) if getattr(request, name) is None else getattr(request, name)
    return ContainerConfig(**fields)


def command(config: ContainerConfig) -> tuple[str, tuple[str, ...]]:
    """The program and its arguments; raises `InvalidArgument` where there are none."""
    words = [*(config.entrypoint or []), *(config.cmd or [])]
    if not words or not words[0]:
        raise InvalidArgument("no command specified", hint="the image has none: name a command after the image")
    return words[0], tuple(words[1:])
