"""What each layer of an image adds, changes and deletes, and the bytes that the layers above it make useless.

The layers are read as the tars that they came as, from the lowest up; names of the merged tree are kept, no content.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import msgspec

from scow.engine.image_tree import steps
from scow.layer_directories import clean_name
from scow.layers import decompress
from scow.tar_reader import DIRECTORY, REGULAR, TarReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scow.content import ContentStore
    from scow.engine.model import Image
    from scow.oci import Descriptor
    from scow.ports.storage import StorageDriver
    from scow.tar_reader import Member

Kind = Literal["A", "C", "D"]  # added, changed, deleted, as in ``docker diff``

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
WORST = 20


class Change(msgspec.Struct, frozen=True, rename="pascal"):
    """One path of a layer. *size_bytes* is what the layer holds for it; of a deletion, what it hides."""

    kind: Kind
    path: str
    size_bytes: int = msgspec.field(name="Size")


class LayerDiff(msgspec.Struct, rename="pascal"):
    """A layer: how many paths it adds, changes and deletes, the bytes that it holds, and of those the ones that layers
    above it replace or delete. *changes* are filled on request."""

    diff_id: str
    chain_id: str
    created_by: str
    added: int = 0
    changed: int = 0
    deleted: int = 0
    size_bytes: int = msgspec.field(default=0, name="Size")
    wasted_bytes: int = msgspec.field(default=0, name="Wasted")
    changes: list[Change] = []


class Waste(msgspec.Struct, frozen=True, rename="pascal"):
    """A path that is in several layers or was deleted: *size_bytes* nobody sees, in *times* layers."""

    path: str
    size_bytes: int = msgspec.field(name="Size")
    times: int


class ImageDiff(msgspec.Struct, rename="pascal"):
    """All layers, lowest first, and the *worst* paths by the bytes that they waste."""

    layers: list[LayerDiff]
    size_bytes: int = msgspec.field(name="Size")
    wasted_bytes: int = msgspec.field(name="Wasted")
    worst: list[Waste]


def compare(
    image: Image,
    chains: Sequence[str],
    blobs: Sequence[Descriptor],
    content: ContentStore,
    storage: StorageDriver,
    with_changes: bool,
) -> ImageDiff:
    """What the layers of *image* do; each is read from its blob, or where that is not kept from its snapshot. Blocks.
    Raises `NotFound`, `Corrupt`, `InvalidArgument`."""
    comparison = Comparison(with_changes)
    for diff_id, chain, blob, step in zip(image.diff_ids, chains, blobs, steps(image), strict=True):
        layer = LayerDiff(diff_id, chain, step)
        if content.exists(blob.digest):
            with content.open(blob.digest) as compressed:
                comparison.add(layer, decompress(compressed))
        else:
            comparison.add(layer, cast("BinaryIO", ChunkReader(storage.diff(chain))))
    return comparison.result()


class Comparison:
    """Takes the layers of one image in their order; `result` tells what they did."""

    def __init__(self, with_changes: bool) -> None:
        self._with_changes = with_changes
        self._layers: list[LayerDiff] = []
        self._root = _Node(-1, 0, folder=True)
        self._waste: dict[bytes, list[int]] = {}

    def add(self, layer: LayerDiff, tar: BinaryIO) -> None:
        """*layer*, whose stream is *tar*, lies above those before. Raises `InvalidArgument` for what is no tar."""
        self._layers.append(layer)
        reader = TarReader(tar)
        while (member := reader.next()) is not None:
            name = clean_name(member.name)
            if name:
                self._member(layer, name, member)

    def result(self) -> ImageDiff:
        """What is known so far."""
        worst = [
            Waste(_shown(path), sum(sizes), len(sizes))
            for path, sizes in sorted(self._waste.items(), key=lambda pair: sum(pair[1]), reverse=True)[:WORST]
        ]
        total = sum(layer.size_bytes for layer in self._layers)
        return ImageDiff(self._layers, total, sum(layer.wasted_bytes for layer in self._layers), worst)

    def _member(self, layer: LayerDiff, name: bytes, member: Member) -> None:
        number = len(self._layers) - 1
        above, _, base = name.rpartition(b"/")
        folder = self._folder(above, number)
        if base == _OPAQUE:
            for hidden in list(folder.children):
                self._delete(layer, folder, above, hidden, number)
            return
        if base.startswith(_WHITEOUT):
            self._delete(layer, folder, above, base[len(_WHITEOUT) :], number)
            return
        size = member.size_bytes if member.type == REGULAR else 0  # a hard link has no bytes of its own
        layer.size_bytes += size
        before = folder.children.get(base)
        if before is not None and before.folder and member.type == DIRECTORY:
            before.layer = number
            return
        if before is not None:
            self._lose(folder, name, base, number)
        folder.children[base] = _Node(number, size, folder=member.type == DIRECTORY)
        self._note(layer, "A" if before is None else "C", name, size)

    def _folder(self, path: bytes, number: int) -> _Node:
        """The folder *path*, which the tar may leave out."""
        node = self._root
        for part in path.split(b"/") if path else ():
            below = node.children.get(part)
            if below is None or not below.folder:
                below = node.children[part] = _Node(number, 0, folder=True)
            node = below
        return node

    def _delete(self, layer: LayerDiff, folder: _Node, above: bytes, base: bytes, number: int) -> None:
        name = above + b"/" + base if above else base
        if base in folder.children:
            hidden = self._lose(folder, name, base, number)
            if base not in folder.children or hidden:  # else this layer brought it itself
                self._note(layer, "D", name, hidden)

    def _lose(self, folder: _Node, name: bytes, base: bytes, number: int) -> int:
        """*base* in *folder* and all below it is gone but for what layer *number* brought; what the lower layers hold
        of it is wasted. Answers how many bytes."""
        found = [(folder, base, name)]
        for holder, part, path in found:  # it grows: parents before children
            found += [(holder.children[part], child, path + b"/" + child) for child in holder.children[part].children]
        total = 0
        for holder, part, path in reversed(found):
            node = holder.children[part]
            if node.layer == number or node.children:
                continue
            del holder.children[part]
            if node.size:
                self._layers[node.layer].wasted_bytes += node.size
                self._waste.setdefault(path, []).append(node.size)
                total += node.size
        return total

    def _note(self, layer: LayerDiff, kind: Kind, name: bytes, size: int) -> None:
        if kind == "A":
            layer.added += 1
        elif kind == "C":
            layer.changed += 1
        else:
            layer.deleted += 1
        if self._with_changes:
            layer.changes.append(Change(kind, _shown(name), size))


class _Node:
    """A name of the merged tree, and the layer that has it."""

    __slots__ = ("children", "folder", "layer", "size")

    def __init__(self, layer: int, size: int, *, folder: bool) -> None:
        self.layer, self.size, self.folder = layer, size, folder
        self.children: dict[bytes, _Node] = {}


class ChunkReader(io.RawIOBase):
    """The pieces of an iterable as a stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes, ``b""`` at the end."""
        if size < 0:
            data, self._rest = self._rest + b"".join(self._chunks), b""
            return data
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
