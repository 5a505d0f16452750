"""Layers of one pull: received side by side, and unpacked side by side while they come.

An image may be half unpacked before its last byte is there; what was unpacked counts only when both the blob's digest
and the diff ID were right, and those of the layers below.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.engine.arrival import Arrival, Cancelled, Milestone, StartedOver
from scow.engine.download import Download
from scow.engine.progress import LayerProgress
from scow.engine.transfer import Unpacking, unpack
from scow.errors import Corrupt, InvalidArgument, NotFound
from scow.ports import REGISTRY, STORAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any
    from weakref import WeakValueDictionary

    from scow.content import ContentStore
    from scow.engine.collect import Collector
    from scow.engine.compressed_layers import CompressedLayers
    from scow.engine.drivers import Drivers
    from scow.engine.image_store import ImageStore
    from scow.engine.kept_blobs import KeptBlobs
    from scow.engine.leases import Leases
    from scow.oci import Descriptor
    from scow.ports.registry import Credentials
    from scow.ports.storage import StorageDriver
    from scow.reference import Reference

    ProgressSink = Callable[[dict[str, Any]], None]

PARALLEL = 3
UNPACKING = 3  # layers of one pull


@dataclass(frozen=True, slots=True)
class Parts:
    """What pulls of one engine share."""

    drivers: Drivers
    content: ContentStore
    store: ImageStore
    leases: Leases
    collector: Collector
    downloads: asyncio.Semaphore
    unpacking: WeakValueDictionary[str, asyncio.Lock]  # by chain ID; gone when nobody waits
    compressed: CompressedLayers
    kept: KeptBlobs
    layer_limit_bytes: int


class Layers:
    """*brought* are the snapshots that were not there before; *cancelled* ends all of it."""

    def __init__(
        self,
        parts: Parts,
        ref: Reference,
        backend: str,
        credentials: Credentials | None,
        progress: ProgressSink,
        cancelled: threading.Event,
    ) -> None:
        self._parts, self._ref, self._backend, self._credentials = parts, ref, backend, credentials
        self._progress, self._cancelled = progress, cancelled
        self._failure: Exception | None = None  # the first, of which others come
        self._unpacking = asyncio.Semaphore(UNPACKING)
        self.brought: list[str] = []

    async def run(self, layers: Sequence[Descriptor], diff_ids: list[str], chains: list[str]) -> list[int]:
        """Every layer is a snapshot; answers their bytes."""
        lines = [LayerProgress(self._progress, layer.digest) for layer in layers]
        there = [await self._is_there(layer, chain) for layer, chain in zip(layers, chains, strict=True)]
        self._announce(lines, there)
        arrivals = [Arrival(layer.digest, self._cancelled) for layer in layers]
        ready = [Milestone(f"unpacking of {layer.digest}", self._cancelled) for layer in layers]
        receiving = [
            asyncio.create_task(_nothing() if has else self._receive(layer, line, arrival))
            for layer, line, arrival, has in zip(layers, lines, arrivals, there, strict=True)
        ]
        unpacking = []
        for n, layer in enumerate(layers):
            parent, parent_ready = (chains[n - 1], ready[n - 1].wait) if n else (None, None)
            limit = self._parts.layer_limit_bytes
            step = Unpacking(layer, chains[n], parent, diff_ids[n], lines[n], limit, parent_ready)
            source = None if there[n] else arrivals[n]
            unpacking.append(asyncio.create_task(self._finish(step, source, receiving[n], ready[n])))
        try:
            return await asyncio.gather(*unpacking)
        except BaseException as error:
            self._cancelled.set()
            for task in (*receiving, *unpacking):
                task.cancel()
            await asyncio.gather(*receiving, *unpacking, return_exceptions=True)
            if self._failure is not None and isinstance(error, Exception):
                raise self._failure from None  # whatever else failed did so because of it
            raise
        finally:
            for arrival in arrivals:
                arrival.close()

    def _announce(self, lines: list[LayerProgress], there: list[bool]) -> None:
        missing = [line for line, has in zip(lines, there, strict=True) if not has]
        for line, has in zip(lines, there, strict=True):
            line.status("Already exists" if has else "Pulling fs layer")
        for line in missing[PARALLEL:]:
            line.status("Waiting")

    async def _is_there(self, layer: Descriptor, chain: str) -> bool:
        if self._parts.kept.always and not await asyncio.to_thread(self._parts.content.exists, layer.digest):
            return False
        return await self.has_snapshot(chain)

    async def has_snapshot(self, chain: str) -> bool:
        """Whether the committed snapshot *chain* exists."""

        def stat(storage: StorageDriver) -> bool:
            try:
                return storage.stat(chain).committed
            except NotFound:
                return False

        return await self._parts.drivers.call(STORAGE, "", "stat", stat)

    # Receiving

    async def _receive(self, layer: Descriptor, line: LayerProgress, arrival: Arrival) -> None:
        try:
            async with self._parts.downloads:
                await self.download(layer, line, arrival)
        except Exception as error:
            arrival.fail(error)
            self._failed(error)
            raise
        line.status("Download complete")

    async def download(self, blob: Descriptor, line: LayerProgress, arrival: Arrival | None = None) -> None:
        """The content store has *blob*; *arrival* is told what is there of it."""
        backend = await self._parts.drivers.driver(REGISTRY, self._backend)
        arguments = (self._ref, blob, self._credentials, self._parts.content, line, self._cancelled)
        follower = arrival or Arrival(blob.digest, self._cancelled)
        download = Download(backend, *arguments, follower)
        try:
            await self._parts.drivers.call(
                REGISTRY, self._backend, "fetch", lambda backend: download.run(), deadline_s=None
            )
        except asyncio.CancelledError:
            download.abandon()
            raise
        finally:
            if arrival is None:
                follower.close()

    def _failed(self, error: Exception) -> None:
        """Nothing can come of the other layers."""
        if not isinstance(error, Cancelled):
            self._failure = self._failure or error
        self._cancelled.set()

    # Unpacking

    async def _finish(
        self, unpacking: Unpacking, arrival: Arrival | None, receiving: asyncio.Task[None], ready: Milestone
    ) -> int:
        """As `_unpack`, a few layers at a time. Those below come first: they never wait for a place that one above
        them holds."""
        try:
            async with self._unpacking:
                size = await self._unpack(unpacking, arrival, receiving, ready)
        except Exception as error:
            self._failed(error)
            raise
        if arrival is not None:
            unpacking.line.status("Pull complete")
        return size

    async def _unpack(
        self, unpacking: Unpacking, arrival: Arrival | None, receiving: asyncio.Task[None], ready: Milestone
    ) -> int:
        """The bytes of the layer, once it is unpacked and was received in whole."""
        async with self._parts.unpacking.setdefault(unpacking.chain, asyncio.Lock()):
            try:
                size = await self._apply(unpacking, arrival)
            except (StartedOver, Corrupt, InvalidArgument):
                await receiving  # the blob may not be what its digest says: then that is the news
                if arrival is None or not arrival.started_over:
                    raise
                size = await self._apply(unpacking, None)
        ready.reach()
        await receiving
        return size

    async def _apply(self, unpacking: Unpacking, arrival: Arrival | None) -> int:
        content, cancelled = self._parts.content, self._cancelled

        def apply(storage: StorageDriver) -> int:
            try:
                return storage.usage(unpacking.chain).size_bytes
            except NotFound:
                size = unpack(storage, content, unpacking, arrival, cancelled)
                self.brought.append(unpacking.chain)
                return size

        return await _to_its_end(self._parts.drivers.call(STORAGE, "", "apply", apply, deadline_s=None), cancelled)


async def _nothing() -> None:
    """In the place of a download that is not needed."""


async def _to_its_end(call: Coroutine[Any, Any, int], cancelled: threading.Event) -> int:
    """What *call* answers. Where the caller is cancelled, the thread is told and waited for: the snapshot that it is
    making must be known before anything is undone."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.gather(task, return_exceptions=True)
        raise
