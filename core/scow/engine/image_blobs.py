"""Which blobs each image consists of. A manifest never changes, so each is read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.engine.manifests import manifest_in_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.content import ContentStore
    from scow.engine.compressed_layers import CompressedLayers
    from scow.engine.manifests import ImageManifest
    from scow.engine.model import Image


class ImageBlobs:
    """What the manifests in *content* say. Blocks at the first question about an image; safe to use from threads."""

    def __init__(self, content: ContentStore, compressed: CompressedLayers) -> None:
        self._content, self._compressed = content, compressed
        self._manifests: dict[str, tuple[ImageManifest, int]] = {}

    def manifest(self, image: Image) -> ImageManifest:
        """The manifest of *image*. Raises `Corrupt`, `NotFound`."""
        return self._read(image)[0]

    def of(self, image: Image) -> Mapping[str, int]:
        """Digest and bytes of its manifest, config and layers, and of what was compressed of those for a push, whether
        or not the content store still has them. Raises `Corrupt`, `NotFound`."""
        manifest, size = self._read(image)
        blobs = {manifest.digest: size, manifest.config.digest: manifest.config.size_bytes}
        blobs.update((layer.digest, layer.size_bytes) for layer in manifest.layers)
        return blobs | self._compressed.sizes_of(image.diff_ids)

    def forget(self, image: Image) -> None:
        """*image* is gone."""
        self._manifests.pop(image.manifest_digest, None)

    def _read(self, image: Image) -> tuple[ImageManifest, int]:
        found = self._manifests.get(image.manifest_digest)
        if found is None:
            data = self._content.read(image.manifest_digest)
            found = manifest_in_store(data, image.manifest_digest), len(data)
            self._manifests[image.manifest_digest] = found
        return found
