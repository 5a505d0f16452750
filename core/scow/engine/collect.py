"""Removes blobs and snapshots that no image needs any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from scow.errors import Conflict, NotFound, ScowError
from scow.oci import chain_ids
from scow.ports import STORAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from scow.content import ContentStore
    from scow.engine.compressed_layers import CompressedLayers
    from scow.engine.drivers import Drivers
    from scow.engine.image_blobs import ImageBlobs
    from scow.engine.image_store import ImageStore
    from scow.engine.leases import Leases
    from scow.engine.model import Image
    from scow.ports.storage import Snapshot, StorageDriver

log = logging.getLogger(__name__)

ORPHAN_AGE_S = 86400.0


class Collector:
    """Knows which image needs what. The images' manifests in the content store say which blobs they have."""

    def __init__(
        self,
        drivers: Drivers,
        content: ContentStore,
        store: ImageStore,
        leases: Leases,
        blobs: ImageBlobs,
        compressed: CompressedLayers,
    ) -> None:
        self._drivers, self._content, self._store, self._leases = drivers, content, store, leases
        self._blobs, self._compressed = blobs, compressed

    async def drop(self, image: Image) -> list[str]:
        """What only *image*, whose record is gone, had is gone: blobs, then snapshots from the top; answers the chain
        IDs of those. One that a container stands on stays until `sweep`."""
        async with self._leases.settling:
            others = self._store.all()
            chains = [chain for chain in chain_ids(list(image.diff_ids)) if chain not in self._store.layers]
            gone = await self.remove_snapshots(chains)
            needed = await asyncio.to_thread(self._blobs_of, others)
            if needed is not None:
                await self.remove_blobs((await asyncio.to_thread(self._blobs_of, [image]) or set()) - needed)
            await self._compressed.keep_only(diff_id for other in others for diff_id in other.diff_ids)
            return gone

    async def remove_snapshots(self, chains: Iterable[str]) -> list[str]:
        """*chains* (lowest first), which no image has, are gone from the top down, as far as nothing stands on them."""
        gone = []
        for chain in reversed([chain for chain in chains if chain not in self._leases]):
            if await self._remove_snapshot(chain):
                gone.append(chain)
            else:
                break
        return gone

    async def _remove_snapshot(self, chain: str) -> bool:
        def remove(storage: StorageDriver) -> bool:
            try:
                storage.stat(chain)
                storage.remove(chain)
            except (Conflict, NotFound):
                return False
            return True

        return await self._drivers.call(STORAGE, "", "remove", remove)

    async def remove_blobs(self, digests: Iterable[str]) -> None:
        """*digests* are gone but for those that a transfer needs."""
        free = [digest for digest in digests if digest not in self._leases]

        def delete() -> None:
            for digest in free:
                self._content.delete(digest)

        if free:
            await asyncio.to_thread(delete)

    async def remove_unneeded(self, digests: Iterable[str]) -> None:
        """Those of the blobs *digests* that no image has and no transfer needs are gone, and what was received of them.
        For a transfer that failed, once it has given back its leases."""
        async with self._leases.settling:
            needed = await asyncio.to_thread(self._blobs_of, self._store.all())
            if needed is not None:
                for digest in set(digests) - needed - self._leases.held():
                    await asyncio.to_thread(self._content.delete, digest)
                    await asyncio.to_thread(self._content.forget, digest)

    async def sweep(self, age_s: float = ORPHAN_AGE_S, only: Set[str] | None = None) -> dict[str, int]:
        """What no image needs and is older than *age_s* is gone: left by a crash, or by an image that was removed under
        a container; with *only*, of those digests and keys. Answers what went, and its bytes."""
        async with self._leases.settling:
            images = self._store.all()
            used = self._store.layers
            snapshots = await self._drivers.call(STORAGE, "", "list", _sizes)
            gone: dict[str, int] = {}
            for snapshot, size in reversed(snapshots):
                orphan = snapshot.committed and snapshot.key.startswith("sha256:") and snapshot.key not in used
                if not orphan or snapshot.key in self._leases or (only is not None and snapshot.key not in only):
                    continue
                if await self._remove_snapshot(snapshot.key):
                    gone[snapshot.key] = size
            needed = await asyncio.to_thread(self._blobs_of, images)
            if needed is not None:
                kept = needed | self._leases.held()
                gone |= await asyncio.to_thread(self._content.collect, kept, age_s, only)
            await self._compressed.keep_only(diff_id for image in images for diff_id in image.diff_ids)
            return gone

    def _blobs_of(self, images: list[Image]) -> set[str] | None:
        """The digests of *images*' manifests, configs and layers; None where that cannot be told, so that nobody
        deletes on a guess."""
        digests: set[str] = set()
        for image in images:
            digests.add(image.id)
            try:
                digests.update(self._blobs.of(image))
            except (ScowError, OSError) as error:
                log.warning("image %s: %s", image.id, error)
                return None
        return digests


def _sizes(storage: StorageDriver) -> list[tuple[Snapshot, int]]:
    """The committed snapshots with their bytes."""
    found = []
    for snapshot in storage.list():
        if snapshot.committed:
            with contextlib.suppress(NotFound):  # it was removed meanwhile
                found.append((snapshot, storage.usage(snapshot.key).size_bytes))
    return found
