"""``scow images``, ``tag``, ``rmi`` and ``history``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.client import path_of
from scow.cli.failures import report
from scow.cli.grammar import command, flag, many, objects, text
from scow.cli.session import Session, write
from scow.errors import InvalidArgument, ScowError, Unavailable

COLUMNS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
HISTORY = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
NONE = "<none>"
CREATED_BY_WIDTH = 45


@command("images")
@flag("-a", "--all", help="Show all images (default hides intermediate images)")
@flag("--digests", help="Show digests")
@many("-f", "--filter", help="Filter output based on conditions provided", metavar="filter")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("--no-trunc", help="Don't truncate output")
@flag("-q", "--quiet", help="Only show image IDs")
@click.argument("repository", metavar="[REPOSITORY[:TAG]]", required=False)
@click.pass_obj
def images(
    context: Session, /, repository: str | None, filter: tuple[str, ...], format: str | None, **flags: Any
) -> None:
    """List images."""
    wanted = fmt.filters(filter)
    if repository:
        wanted.setdefault("reference", []).append(repository)
    found = context.client.get("/images/json", all=flags["all"], filters=wanted)
    digests = flags["digests"] or bool(format and ".Digest" in format)
    found.sort(key=lambda image: image.get("Created") or 0, reverse=True)
    rows = [row for image in found for row in image_rows(image, trunc=not flags["no_trunc"], digests=digests)]
    default = (
        "Repository Tag Digest ID CreatedSince Size" if flags["digests"] else "Repository Tag ID CreatedSince Size"
    )
    quiet = (lambda row: row["ID"]) if flags["quiet"] else None
    fmt.emit(fmt.show(rows, COLUMNS, default=default, template=format, quiet=quiet))


def image_rows(image: Mapping[str, Any], *, trunc: bool, digests: bool) -> Iterator[dict[str, Any]]:
    """One row for each name of *image*, ``<none>`` for one without."""
    by_repository: dict[str, list[str]] = {}
    for reference in image.get("RepoTags") or ():
        name, _, tag = reference.rpartition(":")
        if name != NONE:
            by_repository.setdefault(name, []).append(tag)
    known = dict(reference.partition("@")[::2] for reference in image.get("RepoDigests") or ())
    for name in known:
        if name != NONE:
            by_repository.setdefault(name, [])
    if not by_repository:
        yield _image_row(image, NONE, NONE, NONE, trunc=trunc)
    for name, tags in by_repository.items():
        if not tags and not digests and len(by_repository) > 1:
            continue
        for tag in tags or [NONE]:
            yield _image_row(image, name, tag, known.get(name, NONE), trunc=trunc)


def _image_row(image: Mapping[str, Any], name: str, tag: str, digest: str, *, trunc: bool) -> dict[str, Any]:
    def amount(key: str) -> str:
        value = image.get(key, -1)
        return "N/A" if value is None or value < 0 else fmt.human_size(value, 3)

    size = fmt.human_size(image.get("Size") or 0, 3)
    containers = image.get("Containers", -1)
    return {
        "ID": fmt.short_id(image["Id"]) if trunc else image["Id"],
        "Repository": name,
        "Tag": tag,
        "Digest": digest,
        "CreatedSince": fmt.ago(image["Created"]) if (image.get("Created") or 0) > 0 else "N/A",
        "CreatedAt": lambda: fmt.local_time(image.get("Created") or 0),
        "Size": size,
        "VirtualSize": size,
        "Containers": "N/A" if containers < 0 else str(containers),
        "SharedSize": lambda: amount("SharedSize"),
        "UniqueSize": "N/A",
    }


@command("history")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("-H", "--human", help="Print sizes and dates in human readable format", default=True)
@flag("--no-trunc", help="Don't truncate output")
@text("--platform", help="Show history for the given platform")
@flag("-q", "--quiet", help="Only show image IDs")
@click.argument("image")
@click.pass_obj
def history(
    context: Session,
    /,
    image: str,
    format: str | None,
    human: bool,
    no_trunc: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Show the history of an image."""
    found = context.client.get(f"/images/{path_of(image)}/history", platform=platform)
    rows = [_history_row(entry, human=human, trunc=not no_trunc) for entry in found]
    default = "ID CreatedSince CreatedBy Size Comment"
    fmt.emit(fmt.show(rows, HISTORY, default=default, template=format, quiet=(lambda r: r["ID"]) if quiet else None))


def _history_row(entry: Mapping[str, Any], *, human: bool, trunc: bool) -> dict[str, Any]:
    created, size = entry.get("Created") or 0, entry.get("Size") or 0
    by = " ".join(str(entry.get("CreatedBy") or "").split())
    at = fmt.local_time(created) if created > 0 else "N/A"
    since = fmt.ago(created) if created > 0 else "N/A"
    identity = entry.get("Id") or "<missing>"
    return {
        "ID": fmt.short_id(identity) if trunc and identity != "<missing>" else identity,
        "CreatedAt": at,
        "CreatedSince": since if human else at,
        "CreatedBy": fmt.ellipsis(by, CREATED_BY_WIDTH) if trunc else by,
        "Size": fmt.human_size(size, 3) if human else str(size),
        "Comment": entry.get("Comment") or "",
    }


@command("tag")
@click.argument("source", metavar="SOURCE_IMAGE[:TAG]")
@click.argument("target", metavar="TARGET_IMAGE[:TAG]")
@click.pass_obj
def tag(context: Session, /, source: str, target: str) -> None:
    """Create a tag that refers to an image."""
    from scow.reference import Reference

    reference = Reference.parse(target)
    if reference.digest:
        raise InvalidArgument(f"refusing to create a tag with a digest reference: {target}")
    context.client.post(f"/images/{path_of(source)}/tag", repo=reference.familiar_name, tag=reference.tag)


@command("rmi")
@flag("-f", "--force", help="Force removal of the image")
@flag("--no-prune", help="Do not delete untagged parents")
@many("--platform", help="Remove only the given platform variant")
@objects("image")
@click.pass_obj
def rmi(context: Session, /, image: tuple[str, ...], force: bool, no_prune: bool, platform: tuple[str, ...]) -> int:
    """Remove one or more images."""
    failed = 0
    for name in image:
        try:
            path = f"/images/{path_of(name)}"
            removed = context.client.delete(path, force=force, noprune=no_prune, platforms=list(platform))
        except Unavailable:
            raise
        except ScowError as error:
            report(error)
            failed = 1
            continue
        for step in removed or ():
            for verb, what in step.items():
                write(f"{verb}: {what}")
    return failed
