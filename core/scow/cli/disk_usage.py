"""``scow system df``: who has the bytes below the data root."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.grammar import command, flag, text
from scow.cli.session import Session, write

Row = Mapping[str, Any]

SUMMARY = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
TYPES = {
    "layers": "Images",
    "blobs": "Image Blobs",
    "partial": "Partial Downloads",
    "orphans": "Orphans",
    "containers": "Containers",
    "container files": "Container Files",
    "volumes": "Local Volumes",
    "drivers": "Drivers",
    "engine": "Engine",
}
IMAGES = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "BlobsSize": "BLOBS",
    "Containers": "CONTAINERS",
}
CONTAINERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
    "Files": "FILES",
    "CreatedSince": "CREATED",
    "Status": "STATUS",
    "Names": "NAMES",
}
VOLUMES = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
LEFT = {"Kind": "KIND", "ID": "ID", "Size": "SIZE"}
NONE = "<none>"
COMMAND_WIDTH = 20


@command("df")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("-v", "--verbose", help="Show detailed information on space usage")
@click.pass_obj
def df(context: Session, /, format: str | None, verbose: bool) -> None:
    """Show disk usage: every byte below the data root, by who has it."""
    found = context.client.get("/scow/v1/disk-usage")
    if not verbose:
        rows = [_summary_row(entry) for entry in found["Summary"]]
        fmt.emit(fmt.show(rows, SUMMARY, default=" ".join(SUMMARY), template=format))
        return
    if format:
        from scow.cli.gotemplate import Template, to_json

        write(to_json(found) if format == "json" else Template(format).render(found))
        return
    images = [row for entry in found["Images"] for row in _image_rows(entry)]
    _section("Images space usage:", images, IMAGES)
    _section("Containers space usage:", [_container_row(entry) for entry in found["Containers"]], CONTAINERS)
    _section("Local Volumes space usage:", [_volume_row(entry) for entry in found["Volumes"]], VOLUMES)
    _section("Partial downloads:", [_left_row(entry) for entry in found["Partial"]], LEFT)
    _section("Orphans (scow system prune removes them):", [_left_row(entry) for entry in found["Orphans"]], LEFT)


def _section(title: str, rows: list[Row], columns: Mapping[str, str]) -> None:
    write(f"{title}\n")
    fmt.emit(fmt.show(rows, columns, default=" ".join(columns), template=None) + "\n")


def size_text(size: int) -> str:
    """*size* for people, N/A where nobody measured it."""
    return "N/A" if size < 0 else fmt.human_size(size, 3)


def _summary_row(entry: Row) -> Row:
    share = f" ({100 * entry['Reclaimable'] // entry['Size']}%)" if entry["Size"] else ""
    return {
        "Type": TYPES.get(entry["Type"], entry["Type"]),
        "TotalCount": str(entry["Count"]),
        "Active": str(entry["Active"]),
        "Size": size_text(entry["Size"]),
        "Reclaimable": size_text(entry["Reclaimable"]) + share,
    }


def _image_rows(entry: Row) -> Iterator[Row]:
    names = [name.rpartition(":")[::2] for name in entry["RepoTags"]]
    names = names or [(name.partition("@")[0], NONE) for name in entry["RepoDigests"]] or [(NONE, NONE)]
    for repository, tag in names:
        yield {
            "Repository": repository,
            "Tag": tag,
            "ID": fmt.short_id(entry["Id"]),
            "CreatedSince": fmt.ago(entry["Created"]) if entry["Created"] > 0 else "N/A",
            "Size": size_text(entry["Size"]),
            "SharedSize": size_text(entry["SharedSize"]),
            "UniqueSize": size_text(entry["UniqueSize"]),
            "BlobsSize": size_text(entry["BlobsSize"]),
            "Containers": str(entry["Containers"]),
        }


def _container_row(entry: Row) -> Row:
    return {
        "ID": fmt.short_id(entry["Id"]),
        "Image": entry["Image"],
        "Command": f'"{fmt.ellipsis(entry["Command"], COMMAND_WIDTH)}"',
        "LocalVolumes": str(entry["Mounts"]),
        "Size": size_text(entry["SizeRw"]),
        "Files": size_text(entry["Files"]),
        "CreatedSince": fmt.ago(entry["Created"]),
        "Status": entry["State"],
        "Names": entry["Name"],
    }


def _volume_row(entry: Row) -> Row:
    return {"Name": entry["Name"], "Links": str(entry["Containers"]), "Size": size_text(entry["Size"])}


def _left_row(entry: Row) -> Row:
    return {"Kind": entry["Kind"], "ID": entry["Id"], "Size": size_text(entry["Size"])}
