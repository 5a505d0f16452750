"""Networks, volumes and plugins: the listings and the small commands."""

from __future__ import annotations

import sys
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.client import path_of
from scow.cli.grammar import command, flag, many, objects, text
from scow.cli.lifecycle import each
from scow.cli.session import Session, write
from scow.cli.sizes import pairs

NETWORK = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}
VOLUME = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Mountpoint": "MOUNTPOINT",
    "Scope": "SCOPE",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Status": "STATUS",
}
PLUGIN = {
    "Kind": "KIND",
    "Name": "NAME",
    "Distribution": "DISTRIBUTION",
    "Version": "VERSION",
    "State": "STATE",
    "Reason": "REASON",
}


@command("ls")
@many("-f", "--filter", help='Provide filter values (e.g. "driver=bridge")', metavar="filter")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("--no-trunc", help="Do not truncate the output")
@flag("-q", "--quiet", help="Only display network IDs")
@click.pass_obj
def networks(context: Session, /, filter: tuple[str, ...], format: str | None, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    found = context.client.get("/networks", filters=fmt.filters(filter))
    rows = [_network_row(entry, trunc=not no_trunc) for entry in sorted(found, key=lambda n: str(n["Name"]))]
    template, default = format, "ID Name Driver Scope"
    fmt.emit(fmt.show(rows, NETWORK, default=default, template=template, quiet=(lambda r: r["ID"]) if quiet else None))


def _network_row(entry: dict[str, Any], *, trunc: bool) -> dict[str, Any]:
    labels = entry.get("Labels") or {}
    return {
        "ID": fmt.short_id(entry["Id"]) if trunc else entry["Id"],
        "Name": entry["Name"],
        "Driver": entry.get("Driver", ""),
        "Scope": entry.get("Scope", ""),
        "IPv4": "true" if entry.get("EnableIPv4", True) else "false",
        "IPv6": "true" if entry.get("EnableIPv6") else "false",
        "Internal": "true" if entry.get("Internal") else "false",
        "Labels": fmt.labels_text(labels),
        "Label": lambda name="": labels.get(name, ""),
        "CreatedAt": lambda: entry.get("Created", ""),
    }


@command("ls")
@many("-f", "--filter", help='Provide filter values (e.g. "dangling=true")', metavar="filter")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("-q", "--quiet", help="Only display volume names")
@click.pass_obj
def volumes(context: Session, /, filter: tuple[str, ...], format: str | None, quiet: bool) -> None:
    """List volumes."""
    found = (context.client.get("/volumes", filters=fmt.filters(filter)) or {}).get("Volumes") or []
    rows = [_volume_row(entry) for entry in sorted(found, key=lambda v: str(v["Name"]))]
    quietly = (lambda row: row["Name"]) if quiet else None
    fmt.emit(fmt.show(rows, VOLUME, default="Driver Name", template=format, quiet=quietly))


def _volume_row(entry: dict[str, Any]) -> dict[str, Any]:
    labels, usage = entry.get("Labels") or {}, entry.get("UsageData") or {}
    size = usage.get("Size", -1)
    return {
        "Driver": entry.get("Driver", ""),
        "Name": entry["Name"],
        "Mountpoint": entry.get("Mountpoint", ""),
        "Scope": entry.get("Scope", ""),
        "Labels": fmt.labels_text(labels),
        "Label": lambda name="": labels.get(name, ""),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": fmt.human_size(size, 3) if size >= 0 else "N/A",
        "Status": "N/A",
    }


@command("create")
@text("-d", "--driver", help="Specify volume driver name", default="local")
@many("--label", help="Set metadata for a volume")
@many("-o", "--opt", help="Set driver specific options", metavar="map")
@click.argument("volume", required=False)
@click.pass_obj
def create_volume(
    context: Session, /, volume: str | None, driver: str, label: tuple[str, ...], opt: tuple[str, ...]
) -> None:
    """Create a volume."""
    body = {"Name": volume or "", "Driver": driver, "DriverOpts": pairs(opt), "Labels": pairs(label)}
    write(context.client.post("/volumes/create", body)["Name"])


@command("rm")
@flag("-f", "--force", help="Force the removal of one or more volumes")
@objects("volume")
@click.pass_obj
def remove_volumes(context: Session, /, volume: tuple[str, ...], force: bool) -> int:
    """Remove one or more volumes."""
    return each(volume, lambda name: context.client.delete(f"/volumes/{path_of(name)}", force=force))


@command("ls")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("-q", "--quiet", help="Only display names")
@click.pass_obj
def plugins(context: Session, /, format: str | None, quiet: bool) -> None:
    """List drivers and plugins, and their state."""
    rows = [
        {heading: str(entry.get(heading.lower()) or "") for heading in PLUGIN}
        for entry in context.client.get("/scow/v1/plugins")
    ]
    default = "Kind Name Distribution Version State Reason"
    sys.stdout.write(
        fmt.show(rows, PLUGIN, default=default, template=format, quiet=(lambda r: r["Name"]) if quiet else None)
    )
