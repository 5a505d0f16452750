"""Pushes one image: the blobs that the registry lacks, then the manifest.

Layers that the content store has as plain tars (of images that were loaded, imported or committed) travel compressed:
several are compressed at a time, each is sent as soon as it is, and the manifest that is pushed names the compressed
blobs. Everything else is sent as it once came.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from scow.engine.arrival import Cancelled
from scow.engine.compressed_layers import PlainLayer
from scow.engine.manifests import manifest_in_store, with_layers
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


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the image; *plain* where it is stored as the tar that its diff ID names, and is to be compressed."""

    blob: Descriptor
    diff_id: str
    plain: bool
    line: LayerProgress


class Push:
    """One push of *image* as *ref*, which has a tag. *format* is how plain layers are compressed."""

    def __init__(
        self,
        parts: Parts,
        image: Image,
        ref: Reference,
        backend: str,
        credentials: Credentials | None,
        format: str,
        progress: ProgressSink,
    ) -> None:
        self._parts, self._image, self._ref, self._backend = parts, image, ref, backend
        self._credentials, self._format, self._progress = credentials, format, progress
        self._at_once = asyncio.Semaphore(PARALLEL)
        self._cancelled = threading.Event()

    async def run(self) -> str:
        """The registry has the image under the reference's tag; answers its manifest's digest there."""
        data = await asyncio.to_thread(self._parts.content.read, self._image.manifest_digest)
        manifest = manifest_in_store(data, self._image.manifest_digest)
        as_it_is = self._image.is_served
        layers = [
            _Layer(blob, diff_id, blob.digest == diff_id and not as_it_is, LayerProgress(self._progress, blob.digest))
            for blob, diff_id in zip(manifest.layers, self._image.diff_ids, strict=True)
        ]
        blobs = [layer.blob.digest for layer in layers]
        with ExitStack() as held:
            held.enter_context(self._parts.leases.hold([manifest.digest, manifest.config.digest, *blobs]))
            for layer in layers:
                layer.line.status("Preparing")
            # the config first: a registry that refuses us says so before anything is compressed
            await self._blob(manifest.config, [], lambda count: None)
            pushed = await self._layers(layers, held)
            named = Manifest(Descriptor(manifest.media_type, manifest.digest, len(data)), data)
            if pushed != list(manifest.layers):
                named = with_layers(data, pushed)
            await self._call(
                "push_manifest", lambda backend: backend.push_manifest(self._ref, named, self._credentials)
            )
        digest, size = named.descriptor.digest, named.descriptor.size_bytes
        self._progress({"status": f"{self._ref.tag}: digest: {digest} size: {size}"})
        self._progress({"progressDetail": {}, "aux": {"Tag": self._ref.tag, "Digest": digest, "Size": size}})
        return digest

    async def _layers(self, layers: list[_Layer], held: ExitStack) -> list[Descriptor]:
        """The registry has every layer; answers the blobs by which it has them. One that occurs twice is sent once."""
        unique = {layer.blob.digest: layer for layer in layers}
        tasks = [asyncio.create_task(self._layer(layer, held)) for layer in unique.values()]
        try:
            pushed = dict(zip(unique, await asyncio.gather(*tasks), strict=True))
        finally:
            self._cancelled.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [pushed[layer.blob.digest] for layer in layers]

    async def _layer(self, layer: _Layer, held: ExitStack) -> Descriptor:
        blob = layer.blob
        if layer.plain:
            open_plain = self._parts.kept.opener(self._image, blob.digest)
            plain = PlainLayer(blob, open_plain, layer.line, self._cancelled)
            blob = await self._parts.compressed.get(plain, self._format, held)
        async with self._at_once:
            total = 0

            def sent(count: int) -> None:
                nonlocal total
                self._check()
                total += count
                layer.line.count("Pushing", total, blob.size_bytes)

            new = await self._blob(blob, self._sources(layer.diff_id), sent)
        layer.line.status("Pushed" if new else "Layer already exists")
        return blob

    def _sources(self, diff_id: str) -> list[str]:
        """The other repositories of the same registry that may have the layer, those of this image first."""
        images = [self._image, *(image for image in self._parts.store.all() if diff_id in image.diff_ids)]
        names = [Reference.parse(name) for image in images for name in image.digests]
        here = dict.fromkeys(name.repository for name in names if name.host == self._ref.host)
        return [repository for repository in here if repository != self._ref.repository]

    async def _blob(self, blob: Descriptor, sources: list[str], sent: Callable[[int], None]) -> bool:
        open_kept = self._parts.kept.opener(self._image, blob.digest)

        def open_blob() -> BinaryIO:
            self._check()
            return open_kept()

        def push(backend: RegistryBackend) -> bool:
            return backend.push_blob(self._ref, blob, open_blob, self._credentials, sent, sources)

        pushed: bool = await self._call("push_blob", push)
        return pushed

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"push of {self._ref.familiar} was cancelled")

    async def _call(self, method: str, fn: Callable[[RegistryBackend], Any]) -> Any:  # what *fn* answers
        return await self._parts.drivers.call(REGISTRY, self._backend, method, fn, deadline_s=None)
