"""``docker history``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.engine.times import parse_rfc3339_ns
from scow.errors import InvalidArgument
from scow.reference import Reference

if TYPE_CHECKING:
    from scow.engine.model import Image


def history(image: Image) -> list[dict[str, Any]]:
    """Docker's HistoryResponseItem objects, newest first. Layers that the config's history does not tell of come
    as lines without a command."""
    sizes = list(image.layer_sizes)
    lines: list[dict[str, Any]] = []
    for entry in image.config.history:
        holds_layer = not entry.get("empty_layer")
        size = sizes.pop(0) if holds_layer and sizes else 0
        lines.append(_line(entry, size))
    lines += [_line({}, size) for size in sizes]
    lines.reverse()
    if lines:
        lines[0]["Id"] = image.id
        lines[0]["Tags"] = [Reference.parse(tag).familiar for tag in image.tags] or None
    return lines


def _line(entry: dict[str, Any], size: int) -> dict[str, Any]:
    try:
        created = parse_rfc3339_ns(str(entry.get("created") or "")) // 1_000_000_000
    except InvalidArgument:
        created = 0
    return {
        "Id": "<missing>",
        "Created": created,
        "CreatedBy": str(entry.get("created_by") or ""),
        "Tags": None,
        "Size": size,
        "Comment": str(entry.get("comment") or ""),
    }
