"""``scow … prune``: shows what would be removed, asks, and removes that and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.disk_usage import size_text
from scow.cli.grammar import command, flag, many
from scow.cli.session import Session, note, write
from scow.reference import Reference

COLUMNS = {"Kind": "KIND", "ID": "ID", "Name": "NAME", "Size": "SIZE"}


@command("prune")
@flag("--dry-run", help="Show what would be removed, and remove nothing")
@many("--filter", help='Provide filter values (e.g. "until=24h")', metavar="filter")
@flag("-f", "--force", help="Do not prompt for confirmation")
@click.pass_obj
def containers(context: Session, /, filter: tuple[str, ...], dry_run: bool, force: bool) -> int:
    """Remove all stopped containers."""
    return _prune(context, ["container"], filter, dry_run, force)


@command("prune")
@flag("-a", "--all", help="Remove all unused images, not just dangling ones")
@flag("--dry-run", help="Show what would be removed, and remove nothing")
@many("--filter", help='Provide filter values (e.g. "until=24h")', metavar="filter")
@flag("-f", "--force", help="Do not prompt for confirmation")
@click.pass_obj
def images(context: Session, /, filter: tuple[str, ...], all: bool, dry_run: bool, force: bool) -> int:
    """Remove unused images."""
    return _prune(context, ["image"], filter, dry_run, force, images="all" if all else "")


@command("prune")
@flag("-a", "--all", help="Remove all unused volumes, not just anonymous ones")
@flag("--dry-run", help="Show what would be removed, and remove nothing")
@many("--filter", help='Provide filter values (e.g. "label=<label>")', metavar="filter")
@flag("-f", "--force", help="Do not prompt for confirmation")
@click.pass_obj
def volumes(context: Session, /, filter: tuple[str, ...], all: bool, dry_run: bool, force: bool) -> int:
    """Remove unused local volumes."""
    return _prune(context, ["volume"], filter, dry_run, force, volumes="all" if all else "")


@command("prune")
@flag("--dry-run", help="Show what would be removed, and remove nothing")
@many("--filter", help='Provide filter values (e.g. "until=24h")', metavar="filter")
@flag("-f", "--force", help="Do not prompt for confirmation")
@click.pass_obj
def networks(context: Session, /, filter: tuple[str, ...], dry_run: bool, force: bool) -> int:
    """Remove all unused networks."""
    return _prune(context, ["network"], filter, dry_run, force)


@command("prune")
@flag("-a", "--all", help="Remove all unused images, not just dangling ones")
@flag("--dry-run", help="Show what would be removed, and remove nothing")
@many("--filter", help='Provide filter values (e.g. "label=<key>=<value>")', metavar="filter")
@flag("-f", "--force", help="Do not prompt for confirmation")
@flag("--volumes", help="Prune anonymous volumes")
@click.pass_obj
def system(context: Session, /, filter: tuple[str, ...], all: bool, dry_run: bool, force: bool, volumes: bool) -> int:
    """Remove unused data: stopped containers, unused networks, dangling images and left-overs."""
    kinds = ["container", "network", *(["volume"] if volumes else []), "image", "orphan"]
    return _prune(context, kinds, filter, dry_run, force, images="all" if all else "")


def _prune(
    context: Session, kinds: Sequence[str], filter: tuple[str, ...], dry_run: bool, force: bool, **which: str
) -> int:
    wanted = fmt.filters(filter)
    plan = context.client.get("/scow/v1/prune", kind=list(kinds), filters=wanted, **which)
    items = plan["Items"]
    if items and (dry_run or not force):
        _show(items)
    total = size_text(plan["Reclaimable"])
    if dry_run:
        write(f"Would reclaim: {total}" if items else "Nothing to remove")
        return 0
    if items and not force:
        note(f"WARNING! This will remove these {len(items)} objects and give back {total}.")
        if not _confirmed():
            return 1
    done = context.client.post("/scow/v1/prune", {"Items": items}) if items else {}
    _report(done)
    return int(bool(done.get("Kept")))


def _confirmed() -> bool:
    sys.stderr.write("Are you sure you want to continue? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show(items: Sequence[dict[str, Any]]) -> None:
    rows = [
        {
            "Kind": item["Kind"],
            "ID": fmt.short_id(item["Id"]) if item["Kind"] in ("container", "network", "image") else item["Id"],
            "Name": _name(item),
            "Size": size_text(item["Size"]),
        }
        for item in items
    ]
    fmt.emit(fmt.show(rows, COLUMNS, default=" ".join(COLUMNS), template=None) + "\n")


def _name(item: dict[str, Any]) -> str:
    if item["Kind"] == "image":
        return ", ".join(Reference.parse(name).familiar for name in item["Names"]) or "<none>"
    return ", ".join(item["Names"])


def _report(done: dict[str, Any]) -> None:
    """As docker says it: a list for each kind, then what was gained."""
    for kind, title in (("container", "Containers"), ("network", "Networks"), ("volume", "Volumes")):
        removed = [item for item in done.get("Removed") or () if item["Kind"] == kind]
        if removed:
            write(f"Deleted {title}:")
            write("\n".join(item["Names"][0] if kind == "network" else item["Id"] for item in removed) + "\n")
    if done.get("Images"):
        write("Deleted Images:")
        write("\n".join(f"{verb.lower()}: {what}" for step in done["Images"] for verb, what in step.items()) + "\n")
    orphans = [item["Id"] for item in done.get("Removed") or () if item["Kind"] == "orphan"]
    if orphans:
        write("Deleted Left-overs:")
        write("\n".join(orphans) + "\n")
    write(f"Total reclaimed space: {size_text(done.get('SpaceReclaimed', 0))}")
    sys.stdout.flush()
    for kept in done.get("Kept") or ():
        note(f"kept {kept['Kind']} {kept['Id'][:19]}: {kept['Reason']}")
