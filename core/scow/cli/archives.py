"""``scow save``, ``load``, ``export``, ``import`` and ``commit``: images and containers as tar archives."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import click

from scow.cli.client import Response, path_of
from scow.cli.grammar import command, flag, many, objects, text
from scow.cli.progress import show_progress
from scow.cli.session import Session, note, write
from scow.cli.streams import write_all
from scow.cli.transfer import checked
from scow.errors import InvalidArgument, ScowError
from scow.oci import Platform

BLOCK = 1024 * 1024


@command("save")
@text("-o", "--output", help="Write to a file, instead of STDOUT")
@text("--platform", help="Save only the given platform ('linux/amd64')")
@objects("image")
@click.pass_obj
def save(context: Session, /, image: tuple[str, ...], output: str | None, platform: str | None) -> None:
    """Save one or more images to a tar archive (streamed to STDOUT by default)."""
    _refuse_terminal("save", output)
    query = {"names": list(image), "platform": _platform(platform)}
    _receive(context.client.open("GET", "/images/get", query), output)


@command("export")
@text("-o", "--output", help="Write to a file, instead of STDOUT")
@click.argument("container")
@click.pass_obj
def export(context: Session, /, container: str, output: str | None) -> None:
    """Export a container's filesystem as a tar archive."""
    _refuse_terminal("export", output)
    _receive(context.client.open("GET", f"/containers/{path_of(container)}/export"), output)


@command("load")
@text("-i", "--input", help="Read from tar archive file, instead of STDIN")
@text("--platform", help="Load only the given platform ('linux/amd64')")
@flag("-q", "--quiet", help="Suppress the load output")
@click.pass_obj
def load(context: Session, /, input: str | None, platform: str | None, quiet: bool) -> None:
    """Load images from a tar archive or STDIN."""
    if input is None and os.isatty(0):
        raise InvalidArgument("requested load from stdin, but stdin is empty", hint="name a file with --input")
    quiet = quiet or not sys.stdout.isatty()
    query = {"quiet": quiet, "platform": _platform(platform)}
    response = context.client.open("POST", "/images/load", query, upload=_blocks(input))
    show_progress(checked(response), sys.stdout)


@command("import")
@many("-c", "--change", help="Apply Dockerfile instruction to the created image")
@text("-m", "--message", help="Set commit message for imported image")
@text("--platform", help="Set platform if server is multi-platform capable")
@click.argument("source", metavar="file|URL|-")
@click.argument("target", metavar="[REPOSITORY[:TAG]]", required=False)
@click.pass_obj
def import_(
    context: Session,
    /,
    source: str,
    target: str | None,
    change: tuple[str, ...],
    message: str | None,
    platform: str | None,
) -> None:
    """Import the contents from a tarball to create a filesystem image."""
    query: dict[str, object] = {"message": message, "platform": platform, "repo": target, "changes": list(change)}
    path = "/images/create"
    if source.startswith(("http://", "https://")):
        response = context.client.open("POST", path, {**query, "fromSrc": source})
    else:
        upload = _blocks(None if source == "-" else source)
        response = context.client.open("POST", path, {**query, "fromSrc": "-"}, upload=upload)
    show_progress(checked(response), sys.stdout)
    if not target:
        note("the image has no name: use 'scow tag' to give it one")


@command("commit")
@text("-a", "--author", help='Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")')
@many("-c", "--change", help="Apply Dockerfile instruction to the created image")
@text("-m", "--message", help="Commit message")
@flag("-p", "--pause", default=True, help="Pause container during commit")
@click.argument("container")
@click.argument("target", metavar="[REPOSITORY[:TAG]]", required=False)
@click.pass_obj
def commit(
    context: Session,
    /,
    container: str,
    target: str | None,
    author: str | None,
    change: tuple[str, ...],
    message: str | None,
    pause: bool,
) -> None:
    """Create a new image from a container's changes."""
    query: dict[str, Any] = {
        "container": container,
        "repo": target,
        "author": author,
        "comment": message,
        "changes": list(change),
        "pause": "1" if pause else "0",
    }
    write(context.client.request("POST", "/commit", query)["Id"])


def _platform(text: str | None) -> dict[str, str] | None:
    """As the API wants it."""
    if not text:
        return None
    wanted = Platform.parse(text)
    found = {"os": wanted.os, "architecture": wanted.architecture, "variant": wanted.variant}
    return {name: value for name, value in found.items() if value}


def _refuse_terminal(what: str, output: str | None) -> None:
    if output is None and os.isatty(1):
        raise InvalidArgument(
            f"cowardly refusing to {what} to a terminal", hint="use the -o flag or redirect standard output"
        )


def _receive(response: Response, output: str | None) -> None:
    """The answer is on standard output, or in the file *output*, which appears only when it is complete."""
    if output is None:
        for data in response.chunks():
            write_all(1, data)
        return
    if os.path.exists(output) and not os.path.isfile(output):  # /dev/null, a pipe
        with open(output, "wb", buffering=0) as file:
            for data in response.chunks():
                write_all(file.fileno(), data)
        return
    folder = os.path.dirname(output) or "."
    try:
        descriptor, path = tempfile.mkstemp(dir=folder, prefix=".scow-")
    except OSError as error:
        raise ScowError(f"cannot write {output}: {(error.strerror or str(error)).lower()}") from error
    try:
        for data in response.chunks():
            write_all(descriptor, data)
        os.fsync(descriptor)
        os.replace(path, output)
    except OSError as error:
        raise ScowError(f"cannot write {output}: {(error.strerror or str(error)).lower()}") from error
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _blocks(path: str | None) -> Iterator[bytes]:
    """The bytes of the file *path*, or of standard input. Raises `ScowError` before anything is sent."""
    try:
        descriptor = 0 if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ScowError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    return _read(descriptor)


def _read(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, BLOCK):
        yield data
