"""``scow pull`` and ``push``: streams of progress messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click

from scow.cli.auth import auth_headers
from scow.cli.client import Client, Response, path_of
from scow.cli.grammar import command, flag, text
from scow.cli.progress import show_progress
from scow.cli.session import Session, write
from scow.errors import InvalidArgument, ScowError, Unavailable
from scow.reference import Reference


@command("pull")
@flag("-a", "--all-tags", help="Download all tagged images in the repository")
@flag("--disable-content-trust", default=True, hidden=True)
@text("--platform", help="Set platform if server is multi-platform capable")
@flag("-q", "--quiet", help="Suppress verbose output")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@click.pass_obj
def pull(context: Session, /, name: str, all_tags: bool, platform: str | None, quiet: bool, **_: Any) -> None:
    """Download an image from a registry."""
    reference = Reference.parse(name, default_tag="" if all_tags else "latest")
    if all_tags and (reference.tag or reference.digest):
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    if not all_tags and not quiet and ":" not in name.rpartition("/")[2] and "@" not in name:
        write("Using default tag: latest")
    pull_image(context.client, name, platform=platform, quiet=quiet, output=sys.stdout, all_tags=all_tags)
    write(str(reference.name if all_tags else reference))


def pull_image(
    client: Client,
    name: str,
    *,
    platform: str | None = None,
    quiet: bool = False,
    output: TextIO = sys.stdout,
    all_tags: bool = False,
) -> None:
    """The image *name* is in the engine afterwards; progress goes to *output*. Raises what the daemon reports."""
    reference = Reference.parse(name, default_tag="" if all_tags else "latest")
    query = {"fromImage": reference.familiar_name, "tag": reference.digest or reference.tag, "platform": platform}
    response = client.open("POST", "/images/create", query, headers=auth_headers(reference.host))
    show_progress(checked(response), output, quiet=quiet)


def checked(response: Response) -> Iterator[dict[str, Any]]:
    """The messages of a progress stream; an error in it is raised as `ScowError`."""
    for message in response.messages():
        if error := message.get("error"):
            detail = message.get("errorDetail") or {}
            words, _, hint = str(detail.get("message") or error).partition("\n")
            kind = Unavailable if detail.get("code") == Unavailable.http_status else ScowError
            raise kind(words, hint=hint or None)
        yield message


@command("push")
@flag("-a", "--all-tags", help="Push all tags of an image to the repository")
@flag("--disable-content-trust", default=True, hidden=True)
@text("--platform", help="Push a platform-specific manifest as a single-platform image")
@flag("-q", "--quiet", help="Suppress verbose output")
@click.argument("name", metavar="NAME[:TAG]")
@click.pass_obj
def push(context: Session, /, name: str, all_tags: bool, platform: str | None, quiet: bool, **_: Any) -> None:
    """Upload an image to a registry."""
    reference = Reference.parse(name, default_tag="" if all_tags else "latest")
    if all_tags and reference.tag:
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    headers = auth_headers(reference.host) or {"X-Registry-Auth": "e30="}  # docker always sends one: {}
    query = {"tag": reference.tag, "platform": platform}
    path = f"/images/{path_of(reference.familiar_name)}/push"
    show_progress(checked(context.client.open("POST", path, query, headers=headers)), sys.stdout, quiet=quiet)
    if quiet:
        write(str(reference))
