"""Compressed forms of layers that the content store keeps as plain tars, made once and kept for the next push."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from weakref import WeakValueDictionary

import msgspec

from scow.engine.arrival import Cancelled
from scow.engine.disk_errors import disk_error
from scow.engine.manifests import manifest_in_store
from scow.engine.transfer import LayerReader
from scow.errors import Corrupt, NotFound
from scow.layers import compress
from scow.oci import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from scow.state import Delete, Put

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import ExitStack

    from scow.content import ContentStore, Staged
    from scow.engine.image_store import ImageStore
    from scow.engine.leases import Leases
    from scow.engine.model import Image
    from scow.engine.progress import LayerProgress
    from scow.state import State

KIND = "compressed-layer"
MEDIA_TYPES = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_CHUNK_BYTES = 1 << 20


class _Record(msgspec.Struct, frozen=True):
    """What the state has of one: *diff_id* compressed as *format* is the blob *digest*."""

    diff_id: str
    format: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PlainLayer:
    """A layer that is kept as a tar: *blob*, whose digest is its diff ID, and what opens it on a thread. *line* is told
    how far its compression is, which *cancelled* ends."""

    blob: Descriptor
    open: Callable[[], BinaryIO]
    line: LayerProgress
    cancelled: threading.Event


class CompressedLayers:
    """Belongs to one event loop. As many layers are compressed at a time as there are processors."""

    def __init__(self, state: State, content: ContentStore, store: ImageStore, leases: Leases) -> None:
        self._state, self._content, self._store, self._leases = state, content, store, leases
        self._records: dict[tuple[str, str], _Record] = {}
        self._at_once = asyncio.Semaphore(os.cpu_count() or 1)
        self._making: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def load(self) -> None:
        """What the state has. Blocks: for the start."""
        for stored in self._state.load(KIND):
            record = msgspec.json.decode(stored.data, type=_Record)
            self._records[record.diff_id, record.format] = record

    def sizes_of(self, diff_ids: Iterable[str]) -> dict[str, int]:
        """Digest and bytes of the blobs that were made of *diff_ids*."""
        keys = [(diff_id, format) for diff_id in diff_ids for format in MEDIA_TYPES]
        found = [self._records[key] for key in keys if key in self._records]
        return {record.digest: record.size_bytes for record in found}

    async def keep_only(self, diff_ids: Iterable[str]) -> None:
        """No image has others than *diff_ids*: what was made of those is forgotten. Its blobs are for the collector."""
        kept = set(diff_ids) if self._records else set()
        gone = [key for key in self._records if key[0] not in kept]
        if gone:
            await self._state.commit(*(Delete(KIND, _id(*key)) for key in gone))
            for key in gone:
                self._records.pop(key, None)

    async def get(self, layer: PlainLayer, format: str, held: ExitStack) -> Descriptor:
        """*layer* as a compressed blob: the one by which an image here was received, in whatever format, else one that
        is made here, once, as *format*. It stays while *held* is open.

        Raises `Corrupt` where the stored tar is damaged, `Unavailable` for a full disk, `Cancelled`.
        """
        key = (layer.blob.digest, format)
        async with self._making.setdefault(key, asyncio.Lock()):
            there = await self._there(layer.blob.digest, format, held)
            if there is not None:
                return there
            async with self._at_once:
                making = asyncio.ensure_future(asyncio.to_thread(self._make, layer, format))
                try:
                    staged = await asyncio.shield(making)
                except asyncio.CancelledError:
                    making.add_done_callback(_discard)
                    raise
            try:
                return await self._keep(key, staged, held)
            finally:
                staged.discard()

    async def _keep(self, key: tuple[str, str], staged: Staged, held: ExitStack) -> Descriptor:
        held.enter_context(self._leases.hold([staged.digest]))
        await self._leases.settled()
        await asyncio.to_thread(staged.publish)
        record = _Record(*key, staged.digest, staged.size_bytes)
        await self._state.commit(Put(KIND, _id(*key), None, msgspec.json.encode(record)))
        self._records[key] = record
        return Descriptor(MEDIA_TYPES[record.format], record.digest, record.size_bytes)

    async def _there(self, diff_id: str, format: str, held: ExitStack) -> Descriptor | None:
        """The blob that need not be made."""
        found = await asyncio.to_thread(self._received, diff_id, self._store.all())
        record = self._records.get((diff_id, format))
        if record is not None:
            found.insert(0, Descriptor(MEDIA_TYPES[format], record.digest, record.size_bytes))
        held.enter_context(self._leases.hold([blob.digest for blob in found]))
        await self._leases.settled()
        for blob in found:
            if await asyncio.to_thread(self._content.exists, blob.digest):
                return blob
        return None

    def _received(self, diff_id: str, images: list[Image]) -> list[Descriptor]:
        """The compressed blobs by which those of *images* that have this layer were received."""
        found = []
        for image in [image for image in images if diff_id in image.diff_ids]:
            try:
                manifest = manifest_in_store(self._content.read(image.manifest_digest), image.manifest_digest)
            except NotFound:
                continue  # the image was removed meanwhile
            layer = manifest.layers[image.diff_ids.index(diff_id)]
            if layer.digest != diff_id:
                found.append(layer)
        return list({layer.digest: layer for layer in found}.values())

    def _make(self, layer: PlainLayer, format: str) -> Staged:
        diff_id = layer.blob.digest
        with layer.open() as file:

            def report() -> None:
                if layer.cancelled.is_set():
                    raise Cancelled(f"compression of {diff_id} was cancelled")
                layer.line.count("Compressing", file.tell(), layer.blob.size_bytes)

            with LayerReader(file, report) as plain:
                try:
                    return self._content.stage(_verified(compress(_chunks(plain), format), plain, diff_id))
                except OSError as error:
                    raise disk_error(error, f"compress layer {diff_id}") from error


def _discard(made: asyncio.Future[Staged]) -> None:
    """What comes of a compression that nobody waits for."""
    if not made.cancelled() and made.exception() is None:
        made.result().discard()


def _chunks(plain: LayerReader) -> Iterator[bytes]:
    while data := plain.read(_CHUNK_BYTES):
        yield data


def _verified(chunks: Iterator[bytes], plain: LayerReader, diff_id: str) -> Iterator[bytes]:
    """*chunks*; raises `Corrupt` at their end where what they were made of was not the layer."""
    yield from chunks
    if plain.digest() != diff_id:
        raise Corrupt(f"stored blob {diff_id} is damaged", hint="remove the image and load or build it again")


def _id(diff_id: str, format: str) -> str:
    return f"{diff_id}+{format}"
