"""``scow image tree`` and ``scow image diff``: what images share, and what each layer does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.client import path_of
from scow.cli.disk_usage import size_text
from scow.cli.grammar import command, flag, objects, text
from scow.cli.session import Session, write

STEP_WIDTH = 60
DIFF = {
    "Layer": "LAYER",
    "Size": "SIZE",
    "Added": "ADDED",
    "Changed": "CHANGED",
    "Deleted": "DELETED",
    "Wasted": "WASTED",
    "CreatedBy": "CREATED BY",
}
WORST = {"Size": "WASTED", "Times": "TIMES", "Path": "PATH"}
Node = Mapping[str, Any]


@command("tree")
@text("--format", help="Format output using 'json' or a Go template")
@flag("--no-trunc", help="Don't truncate output")
@objects("image", required=False)
@click.pass_obj
def tree(context: Session, /, image: tuple[str, ...], format: str | None, no_trunc: bool) -> None:
    """Show which layers images share."""
    found = context.client.get("/scow/v1/images/tree", name=list(image))
    if format:
        from scow.cli.gotemplate import Template, to_json

        write(to_json(found) if format == "json" else Template(format).render(found))
        return
    for node in found["Layers"]:
        for line in _lines(node, found["Images"], "", "", trunc=not no_trunc):
            write(line)


def _lines(node: Node, names: Mapping[str, Sequence[str]], first: str, rest: str, *, trunc: bool) -> Iterator[str]:
    """*node* with those that stand on it. Layers that stand on each other with nothing beside them are one line."""
    run = [node]
    while not node["Images"] and len(node["Layers"]) == 1:
        node = node["Layers"][0]
        run.append(node)
    count = f"{len(run)} layers" if len(run) > 1 else "1 layer"
    top = node["ChainId"]
    titles = [name for id in node["Images"] for name in names.get(id) or [fmt.short_id(id)]]
    what = ", ".join(titles) if titles else _step(node["CreatedBy"], trunc=trunc)
    label = fmt.short_id(top) if trunc else top
    yield f"{first}{label} {count} {size_text(sum(n['Size'] for n in run))}  {what}".rstrip()
    above = node["Layers"]
    for index, child in enumerate(above):
        last = index == len(above) - 1
        yield from _lines(
            child, names, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), trunc=trunc
        )


@command("diff")
@flag("--changes", help="List every path that each layer adds (A), changes (C) or deletes (D)")
@text("--format", help="Format output using 'json' or a Go template")
@flag("--no-trunc", help="Don't truncate output")
@click.argument("image")
@click.pass_obj
def diff(context: Session, /, image: str, changes: bool, format: str | None, no_trunc: bool) -> None:
    """Show what each layer of an image adds, and the bytes that layers above it waste."""
    found = context.client.get(f"/scow/v1/images/{path_of(image)}/diff", changes=changes)
    if format:
        from scow.cli.gotemplate import Template, to_json

        write(to_json(found) if format == "json" else Template(format).render(found))
        return
    rows = [_diff_row(layer, trunc=not no_trunc) for layer in found["Layers"]]
    fmt.emit(fmt.show(rows, DIFF, default=" ".join(DIFF), template=None))
    size, wasted = found["Size"], found["Wasted"]
    share = f" ({100 * wasted / size:.1f}%)" if size else ""
    write(f"\nTotal: {size_text(size)}, wasted: {size_text(wasted)}{share}")
    if found["Worst"]:
        worst = [{"Size": size_text(w["Size"]), "Times": str(w["Times"]), "Path": w["Path"]} for w in found["Worst"]]
        fmt.emit("\n" + fmt.show(worst, WORST, default=" ".join(WORST), template=None))
    for layer in found["Layers"] if changes else ():
        write(f"\n{layer['ChainId']}")
        for change in layer["Changes"]:
            write(f"{change['Kind']} {change['Path']} ({size_text(change['Size'])})")


def _diff_row(layer: Node, *, trunc: bool) -> dict[str, Any]:
    return {
        "Layer": fmt.short_id(layer["ChainId"]) if trunc else layer["ChainId"],
        "Size": size_text(layer["Size"]),
        "Added": str(layer["Added"]),
        "Changed": str(layer["Changed"]),
        "Deleted": str(layer["Deleted"]),
        "Wasted": size_text(layer["Wasted"]),
        "CreatedBy": _step(layer["CreatedBy"], trunc=trunc),
    }


def _step(text: str, *, trunc: bool) -> str:
    step = " ".join(text.split())
    return fmt.ellipsis(step, STEP_WIDTH) if trunc else step
