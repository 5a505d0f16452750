"""What lies on the disk and belongs to no image or container: left by a crash, or still on its way."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from scow.errors import NotFound
from scow.ports import STORAGE

if TYPE_CHECKING:
    from collections.abc import Set

    from scow.content import ContentStore
    from scow.engine.drivers import Drivers
    from scow.engine.image_layers import ImageLayers
    from scow.engine.leases import Leases
    from scow.ports.storage import StorageDriver


class Orphan(NamedTuple):
    """A blob, a snapshot, or a download: what was received of a blob. *id* is its digest or key; *held* says that a
    transfer works on it."""

    kind: Literal["blob", "snapshot", "download"]
    id: str
    size_bytes: int
    held: bool = False


class Orphans:
    """Looks for them. *leases* are what transfers hold at the moment."""

    def __init__(self, drivers: Drivers, content: ContentStore, layers: ImageLayers, leases: Leases) -> None:
        self._drivers, self._content, self._layers, self._leases = drivers, content, layers, leases

    async def find(self, needed: Set[str], containers: Set[str]) -> tuple[list[Orphan], list[Orphan]]:
        """What nothing needs, and what is on its way: downloads, and what a transfer holds that no image has yet.
        *needed* are the digests of the images' blobs, *containers* the ids of all containers."""
        blobs, downloads = await asyncio.to_thread(self._content_of, needed)
        snapshots = await self._drivers.call(STORAGE, "", "list", lambda storage: self._snapshots(storage, containers))
        found = [orphan._replace(held=self._held(orphan.id)) for orphan in (*blobs, *snapshots, *downloads)]
        partial = [orphan for orphan in found if orphan.held or orphan.kind == "download"]
        return [orphan for orphan in found if orphan not in partial], partial

    def _held(self, id: str) -> bool:
        """A transfer works on it, or this process receives it to learn its digest."""
        return id in self._leases or id.startswith(f"new:{os.getpid()}-")

    def _content_of(self, needed: Set[str]) -> tuple[list[Orphan], list[Orphan]]:
        blobs = []
        for digest in set(self._content.list()) - needed:
            try:
                blobs.append(Orphan("blob", digest, self._content.size(digest)))
            except NotFound:  # it went meanwhile
                continue
        return sorted(blobs), sorted(self._downloads())

    def _downloads(self) -> list[Orphan]:
        """By digest: a download may have several files (`ContentStore.ingest`)."""
        found: dict[str, int] = {}
        with os.scandir(self._content.root / "ingest") as entries:
            for entry in entries:
                digest = entry.name.partition(".")[0].replace("-", ":", 1)
                with contextlib.suppress(FileNotFoundError):  # it became a blob meanwhile
                    found[digest] = found.get(digest, 0) + entry.stat().st_size
        return [Orphan("download", digest, size) for digest, size in found.items()]

    def _snapshots(self, storage: StorageDriver, containers: Set[str]) -> list[Orphan]:
        found = []
        for snapshot in storage.list():
            layer = snapshot.committed and snapshot.key in self._layers
            if layer or snapshot.key.removesuffix("-init") in containers:
                continue
            try:
                found.append(Orphan("snapshot", snapshot.key, storage.usage(snapshot.key).size_bytes))
            except NotFound:  # it was removed meanwhile
                continue
        return found
