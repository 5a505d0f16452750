"""Pushes one image: the blobs that the registry lacks, then the manifest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, BinaryIO

from scow.engine.manifests import ImageManifest, manifest_in_store
from scow.engine.progress import LayerProgress
from scow.oci import Descriptor
from scow.ports import REGISTRY
from scow.ports.registry import Manifest
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.engine.model import Image
    from scow.engine.pull_layers import Parts
    from scow.ports.registry import Credentials, RegistryBackend

    ProgressSink = Callable[[dict[str, Any]], None]

PARALLEL = 5


class Push:
    """One push of *image* as *ref*, which has a tag."""

    def __init__(
        self,
        parts: Parts,
        image: Image,
        ref: Reference,
        backend: str,
        credentials: Credentials | None,
        progress: ProgressSink,
    ) -> None:
        self._parts, self._image, self._ref, self._backend = parts, image, ref, backend
        self._credentials, self._progress = credentials, progress
        self._at_once = asyncio.Semaphore(PARALLEL)

    async def run(self) -> str:
        """The registry has the image under the reference's tag; answers its manifest's digest there.

        The bytes are those that were pulled or imported: nothing is compressed again.
        """
        content = self._parts.content
        data = await asyncio.to_thread(content.read, self._image.manifest_digest)
        manifest = manifest_in_store(data, self._image.manifest_digest)
        with self._parts.leases.hold([manifest.digest, manifest.config.digest, *_digests(manifest)]):
            lines = [LayerProgress(self._progress, layer.digest) for layer in manifest.layers]
            for line in lines:
                line.status("Preparing")
            await self._blobs(manifest, lines)
            named = Manifest(Descriptor(manifest.media_type, manifest.digest, len(data)), data)
            await self._call(
                "push_manifest", lambda backend: backend.push_manifest(self._ref, named, self._credentials)
            )
        self._progress({"status": f"{self._ref.tag}: digest: {manifest.digest} size: {len(data)}"})
        aux = {"Tag": self._ref.tag, "Digest": manifest.digest, "Size": len(data)}
        self._progress({"progressDetail": {}, "aux": aux})
        return manifest.digest

    async def _blobs(self, manifest: ImageManifest, lines: list[LayerProgress]) -> None:
        """Every layer once, in parallel, then the config."""
        unique = dict(zip(_digests(manifest), zip(manifest.layers, lines, strict=True), strict=True))
        tasks = [asyncio.create_task(self._layer(layer, line)) for layer, line in unique.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._blob(manifest.config, lambda sent: None)

    async def _layer(self, layer: Descriptor, line: LayerProgress) -> None:
        async with self._at_once:
            total = 0

            def sent(count: int) -> None:
                nonlocal total
                total += count
                line.count("Pushing", total, layer.size_bytes)

            new = await self._blob(layer, sent)
        line.status("Pushed" if new else "Layer already exists")

    async def _blob(self, blob: Descriptor, sent: Callable[[int], None]) -> bool:
        content = self._parts.content
        repositories = [Reference.parse(name) for name in self._image.digests]
        elsewhere = sorted({ref.repository for ref in repositories if ref.host == self._ref.host})

        def open_blob() -> BinaryIO:
            return content.open(blob.digest)

        def push(backend: RegistryBackend) -> bool:
            sources = [repository for repository in elsewhere if repository != self._ref.repository]
            return backend.push_blob(self._ref, blob, open_blob, self._credentials, sent, sources)

        pushed: bool = await self._call("push_blob", push)
        return pushed

    async def _call(self, method: str, fn: Callable[[RegistryBackend], Any]) -> Any:  # what *fn* answers
        return await self._parts.drivers.call(REGISTRY, self._backend, method, fn, deadline_s=None)


def _digests(manifest: ImageManifest) -> list[str]:
    return [layer.digest for layer in manifest.layers]
