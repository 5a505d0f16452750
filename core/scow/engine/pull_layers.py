"""Layers of one pull: received in parallel, and unpacked in their order while they come.

An image may be half unpacked before its last byte is there; what was unpacked counts only when both the blob's digest
and the diff ID were right.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.engine.arrival import Arrival, StartedOver
from scow.engine.progress import LayerProgress
from scow.engine.transfer import Download, Unpacking, unpack
from scow.errors import Corrupt, InvalidArgument, NotFound
from scow.ports import REGISTRY, STORAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any
    from weakref import WeakValueDictionary

    from scow.content import ContentStore
    from scow.engine.collect import Collector
    from scow.engine.drivers import Drivers
    from scow.engine.image_store import ImageStore
    from scow.engine.leases import Leases
    from scow.oci import Descriptor
    from scow.ports.registry import Credentials, RegistryBackend
    from scow.ports.storage import StorageDriver
    from scow.reference import Reference

    ProgressSink = Callable[[dict[str, Any]], None]

PARALLEL = 3


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


class Layers:
    """*brought* are the snapshots and *received* the blobs that were not there before; *cancelled* ends all of it."""

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
        self._failure: Exception | None = None  # of the first download that failed
        self.brought: list[str] = []
        self.received: list[str] = []

    async def run(self, layers: Sequence[Descriptor], diff_ids: list[str], chains: list[str]) -> list[int]:
        """Every layer is a snapshot; answers their bytes."""
        lines = [LayerProgress(self._progress, layer.digest) for layer in layers]
        there = [await self._is_there(layer, chain) for layer, chain in zip(layers, chains, strict=True)]
        self._announce(lines, there)
        arrivals = [Arrival(layer.digest, self._cancelled) for layer in layers]
        receiving = [
            asyncio.create_task(_nothing() if has else self._receive(layer, line, arrival))
            for layer, line, arrival, has in zip(layers, lines, arrivals, there, strict=True)
        ]
        sizes = []
        try:
            for n, layer in enumerate(layers):
                parent = chains[n - 1] if n else None
                unpacking = Unpacking(layer, chains[n], parent, diff_ids[n], lines[n])
                sizes.append(await self._unpack(unpacking, None if there[n] else arrivals[n], receiving[n]))
                if not there[n]:
                    lines[n].status("Pull complete")
        except BaseException as error:
            self._cancelled.set()
            for task in receiving:
                task.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
            if self._failure is not None and isinstance(error, Exception):
                raise self._failure from None  # whatever else failed did so because of it
            raise
        finally:
            for arrival in arrivals:
                arrival.close()
        return sizes

    def _announce(self, lines: list[LayerProgress], there: list[bool]) -> None:
        missing = [line for line, has in zip(lines, there, strict=True) if not has]
        for line, has in zip(lines, there, strict=True):
            line.status("Already exists" if has else "Pulling fs layer")
        for line in missing[PARALLEL:]:
            line.status("Waiting")

    async def _is_there(self, layer: Descriptor, chain: str) -> bool:
        return self._parts.content.exists(layer.digest) and await self.has_snapshot(chain)

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
            self._failure = self._failure or error
            arrival.fail(error)
            self._cancelled.set()  # nothing can come of the others
            raise
        line.status("Download complete")

    async def download(self, blob: Descriptor, line: LayerProgress, arrival: Arrival | None = None) -> None:
        """The content store has *blob*; *arrival* is told what is there of it."""

        def fetch(backend: RegistryBackend) -> None:
            arguments = (self._ref, blob, self._credentials, self._parts.content, line, self._cancelled)
            Download(backend, *arguments, arrival or Arrival(blob.digest, self._cancelled)).run()

        if not self._parts.content.exists(blob.digest):
            self.received.append(blob.digest)
        await self._parts.drivers.call(REGISTRY, self._backend, "fetch", fetch, deadline_s=None)

    # Unpacking

    async def _unpack(self, unpacking: Unpacking, arrival: Arrival | None, receiving: asyncio.Task[None]) -> int:
        """The bytes of the layer, once it is unpacked and was received in whole."""
        async with self._parts.unpacking.setdefault(unpacking.chain, asyncio.Lock()):
            try:
                size = await self._apply(unpacking, arrival)
            except StartedOver:
                await receiving
                size = await self._apply(unpacking, None)
            except (Corrupt, InvalidArgument):
                await receiving  # the blob may not be what its digest says: then that is the news
                raise
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
        await asyncio.wait([task])
        raise
