"""``scow inspect`` for every kind of object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from scow.cli.client import Client, path_of
from scow.cli.failures import report
from scow.cli.grammar import command, flag, objects, text
from scow.cli.session import Session
from scow.errors import InvalidArgument, NotFound, ScowError, Unavailable

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}
Find = Callable[[str], Any]


def _finder(client: Client, kinds: Sequence[str], *, size: bool = False, platform: str | None = None) -> Find:
    """A function that looks a name up as each of *kinds* in turn."""

    def find(name: str) -> Any:
        missing: NotFound | None = None
        for kind in kinds:
            try:
                path = _PATHS[kind].format(path_of(name))
                return client.get(path, size=size and kind == "container", platform=platform)
            except NotFound as error:
                missing = error
        if missing is not None and len(kinds) == 1:
            raise missing
        raise NotFound(f"no such object: {name}")

    return find


def _inspect(names: Iterable[str], find: Find, template: str | None) -> int:
    found: list[Any] = []
    errors: list[ScowError] = []
    for name in names:
        try:
            found.append(find(name))
        except Unavailable:
            raise
        except ScowError as error:
            errors.append(error)
    sys.stdout.write(_text(found, template))
    sys.stdout.flush()
    for failed in errors:
        report(failed)
    return int(bool(errors))


def _text(found: list[Any], template: str | None) -> str:
    if not template:
        return json.dumps(found, indent=4, ensure_ascii=False) + "\n"
    from scow.cli.gotemplate import Template, to_json

    if template == "json":
        return to_json(found) + "\n"
    compiled = Template(template)
    return "".join(compiled.render(value) + "\n" for value in found)


@command("inspect")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@flag("-s", "--size", help="Display total file sizes if the type is container")
@text("--type", help="Only inspect objects of the given type")
@objects("name")
@click.pass_obj
def inspect(context: Session, /, name: tuple[str, ...], format: str | None, size: bool, type: str | None) -> int:
    """Return low-level information on objects."""
    if type and type not in _PATHS:
        raise InvalidArgument(f"unknown type: {type!r}", hint=f"use one of {', '.join(_PATHS)}")
    kinds = [type] if type else list(_PATHS)
    return _inspect(name, _finder(context.client, kinds, size=size), format)


@command("inspect")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@flag("-s", "--size", help="Display total file sizes")
@objects("container")
@click.pass_obj
def inspect_containers(context: Session, /, container: tuple[str, ...], format: str | None, size: bool) -> int:
    """Display detailed information on one or more containers."""
    return _inspect(container, _finder(context.client, ["container"], size=size), format)


@command("inspect")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@text("--platform", help="Inspect a specific platform of the image")
@objects("image")
@click.pass_obj
def inspect_images(context: Session, /, image: tuple[str, ...], format: str | None, platform: str | None) -> int:
    """Display detailed information on one or more images."""
    return _inspect(image, _finder(context.client, ["image"], platform=platform), format)


@command("inspect")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@flag("-v", "--verbose", help="Verbose output for diagnostics")
@objects("network")
@click.pass_obj
def inspect_networks(context: Session, /, network: tuple[str, ...], format: str | None, verbose: bool) -> int:
    """Display detailed information on one or more networks."""
    return _inspect(network, _finder(context.client, ["network"]), format)


@command("inspect")
@text("-f", "--format", help="Format output using 'json' or a Go template")
@objects("volume")
@click.pass_obj
def inspect_volumes(context: Session, /, volume: tuple[str, ...], format: str | None) -> int:
    """Display detailed information on one or more volumes."""
    return _inspect(volume, _finder(context.client, ["volume"]), format)
