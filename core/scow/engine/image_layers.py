"""Which images stand on which layers, and the bytes of each: kept with the records, asked without a disk."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from scow.oci import chain_ids

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from scow.engine.model import Image


class Layer(NamedTuple):
    """A layer by its chain ID. *size_bytes* is what it holds unpacked, without the layers below."""

    chain_id: str
    size_bytes: int


class ImageLayers:
    """Counts of one engine's images. Belongs to one event loop."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Layer, ...]] = {}  # by image id
        self._sizes: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self.total_bytes = 0  # every layer once

    def add(self, image: Image) -> None:
        """*image* is there; one of the same id was there already, or not."""
        self.discard(image.id)
        pairs = zip_longest(chain_ids(list(image.diff_ids)), image.layer_sizes[: len(image.diff_ids)], fillvalue=0)
        layers = self._of[image.id] = tuple(Layer(str(chain), int(size)) for chain, size in pairs)
        for chain, size in layers:
            self._users[chain] = self._users.get(chain, 0) + 1
            if self._users[chain] == 1:
                self._sizes[chain] = size
                self.total_bytes += size

    def discard(self, image_id: str) -> None:
        """The image of that id is not there."""
        for chain, _ in self._of.pop(image_id, ()):
            self._users[chain] -= 1
            if not self._users[chain]:
                del self._users[chain]
                self.total_bytes -= self._sizes.pop(chain)

    def of(self, image_id: str) -> tuple[Layer, ...]:
        """The layers of the image, lowest first; none where it is not there."""
        return self._of.get(image_id, ())

    def __contains__(self, chain_id: str) -> bool:
        return chain_id in self._users

    def shared_bytes(self, image_id: str) -> int:
        """Of the image's bytes those that another image has as well."""
        return sum(self._sizes[chain] for chain, _ in self.of(image_id) if self._users[chain] > 1)

    def freed_by(self, image_ids: Collection[str]) -> list[Layer]:
        """The layers that nobody has when all *image_ids* are gone, each once."""
        return [Layer(chain, self._sizes[chain]) for chain, left in self._left(image_ids).items() if not left]

    def _left(self, image_ids: Iterable[str]) -> dict[str, int]:
        left: dict[str, int] = {}
        for image_id in set(image_ids):
            for chain, _ in self.of(image_id):
                left[chain] = left.get(chain, self._users[chain]) - 1
        return left
