"""The images by what they share: a tree of layers, with the images at the nodes where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scow.engine.image_layers import ImageLayers
    from scow.engine.model import Image


class Node(msgspec.Struct, rename="pascal"):
    """A layer on its parent: *size_bytes* without what lies below; *created_by* is the step that made it. *images* end
    here (ids), *layers* stand on it."""

    chain_id: str
    size_bytes: int = msgspec.field(name="Size")
    created_by: str
    images: list[str] = []
    layers: list[Node] = []


def tree(images: Iterable[Image], layers: ImageLayers) -> list[Node]:
    """The lowest layers of *images*, largest part of the whole first. An image without layers is in no tree."""
    nodes: dict[str, Node] = {}
    roots: list[Node] = []
    for image in images:
        above = roots
        for (chain, size), step in zip(layers.of(image.id), steps(image), strict=False):
            node = nodes.get(chain)
            if node is None:
                node = nodes[chain] = Node(chain, size, step)
                above.append(node)
            above = node.layers
        if layers.of(image.id):
            nodes[layers.of(image.id)[-1].chain_id].images.append(image.id)
    return _sorted(roots)


def steps(image: Image) -> list[str]:
    """For each layer of *image* the command that made it, ``""`` where its config does not tell."""
    told = [str(entry.get("created_by") or entry.get("comment") or "") for entry in _of_layers(image)]
    count = len(image.diff_ids)
    return [*told, *[""] * count][:count]


def _of_layers(image: Image) -> Iterator[dict[str, object]]:
    return (entry for entry in image.config.history if not entry.get("empty_layer"))


def _sorted(nodes: list[Node]) -> list[Node]:
    for node in nodes:
        node.layers = _sorted(node.layers)
    return sorted(nodes, key=_total, reverse=True)


def _total(node: Node) -> int:
    return node.size_bytes + sum(map(_total, node.layers))
