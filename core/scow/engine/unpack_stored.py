"""Turns layers that the content store holds into snapshots: for images that were loaded, imported or committed."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from scow.engine.arrival import Milestone
from scow.engine.disk_errors import disk_error
from scow.engine.pull_layers import UNPACKING
from scow.engine.transfer import LayerReader, Unpacking, unpack
from scow.errors import Corrupt, NotFound
from scow.oci import chain_id, chain_ids
from scow.ports import STORAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.engine.progress import LayerProgress
    from scow.engine.pull_layers import Parts
    from scow.oci import Descriptor
    from scow.ports.storage import StorageDriver


@dataclass(slots=True)
class StoredLayers:
    """Unpacks layers of *parts*' content store. *brought* are the snapshots that were not there before, lowest first;
    `undo` takes them away again."""

    parts: Parts
    brought: list[str] = field(default_factory=list)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    async def unpack(
        self, layers: Sequence[Descriptor], diff_ids: Sequence[str], parent: str | None, lines: Sequence[LayerProgress]
    ) -> list[int]:
        """Each of *layers*, from the lowest, is a snapshot on *parent* and on each other; answers their bytes. A few
        are unpacked side by side.

        Raises `Corrupt` where one is not its diff ID, `InvalidArgument` for a malformed or hostile one, `Unavailable`
        for a full disk. The caller holds leases on blobs and chain IDs.
        """
        limit, chain, ready = self.parts.layer_limit_bytes, parent, None
        at_once = asyncio.Semaphore(UNPACKING)  # taken in order: nobody waits for a place that one above it holds
        steps = []
        for layer, diff_id, line in zip(layers, diff_ids, lines, strict=True):
            below, chain = chain, chain_id(chain, diff_id)
            unpacking = Unpacking(layer, chain, below, diff_id, line, limit, None if ready is None else ready.wait)
            ready = Milestone(f"unpacking of {layer.digest}", self._cancelled)
            steps.append(asyncio.create_task(self._step(unpacking, ready, at_once)))
        try:
            sizes = await asyncio.gather(*steps)
        except BaseException:
            self._cancelled.set()
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)
            raise
        if self.brought:
            await asyncio.to_thread(self._sync)
        return sizes

    async def _step(self, unpacking: Unpacking, ready: Milestone, at_once: asyncio.Semaphore) -> int:
        async with at_once, self.parts.unpacking.setdefault(unpacking.chain, asyncio.Lock()):
            size = await self._to_its_end(unpacking)
        ready.reach()
        return size

    def _sync(self) -> None:
        try:
            self.parts.content.sync()
        except OSError as error:
            raise disk_error(error, "store the layers") from error

    async def _to_its_end(self, unpacking: Unpacking) -> int:
        """Where the caller is cancelled, the thread is told and waited for: what it makes must be known to `undo`."""

        def apply(storage: StorageDriver) -> int:
            try:
                size = storage.usage(unpacking.chain).size_bytes
            except NotFound:
                size = unpack(storage, self.parts.content, unpacking, None, self._cancelled)
                self.brought.append(unpacking.chain)
            else:
                check_diff_id(self.parts, unpacking.layer, unpacking.diff_id)
            return size

        call = asyncio.ensure_future(self.parts.drivers.call(STORAGE, "", "apply", apply, deadline_s=None))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._cancelled.set()
            await asyncio.gather(call, return_exceptions=True)
            raise

    async def undo(self) -> None:
        """What was brought is gone, unless an image needs it by now. For when the leases are given back."""
        async with self.parts.leases.settling:
            used = {chain for image in self.parts.store.all() for chain in chain_ids(list(image.diff_ids))}
            await self.parts.collector.remove_snapshots([chain for chain in self.brought if chain not in used])


def check_diff_id(parts: Parts, layer: Descriptor, diff_id: str) -> None:
    """Raises `Corrupt` where the stored blob *layer* does not inflate to *diff_id*. Blocks."""
    if layer.digest == diff_id:
        return  # it is not compressed, and was hashed as it came
    with parts.content.open(layer.digest) as blob:
        actual = diff_id_of(blob, parts.layer_limit_bytes)
    if actual != diff_id:
        raise Corrupt(f"layer {layer.digest} unpacks to {actual}, its config says {diff_id}")


def diff_id_of(layer: BinaryIO, limit_bytes: int) -> str:
    """The digest of *layer* without its compression. Blocks. Raises `Corrupt`, `InvalidArgument` for more than
    *limit_bytes*."""
    with LayerReader(layer, lambda: None, limit_bytes) as inflated:
        return inflated.digest()
