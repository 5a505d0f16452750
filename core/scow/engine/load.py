"""Loads the images of one archive: ``docker load``. All of them, or nothing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from scow.engine import manifests
from scow.engine.archive_layout import ArchivedImage, read_images
from scow.engine.archive_members import Members
from scow.engine.model import Image
from scow.engine.pipes import read_on_thread
from scow.engine.progress import LayerProgress
from scow.engine.unpack_stored import StoredLayers
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scow.engine.pull_layers import Parts
    from scow.oci import Platform

    ProgressSink = Callable[[dict[str, Any]], None]


class Load:
    """One load into *parts*; *progress* is told how far each layer is."""

    def __init__(self, parts: Parts, platform: Platform | None, progress: ProgressSink) -> None:
        self._parts, self._platform, self._progress = parts, platform, progress
        self._layers = StoredLayers(parts)
        self._stored: list[str] = []  # blobs that were not there before

    async def run(self, stream: AsyncIterator[bytes]) -> list[tuple[Image, list[str]]]:
        """The images of the tar in *stream* are stored; answers each with the names that it was given.

        Raises `InvalidArgument`, `Corrupt`, `NotFound` (no image for the platform), `Unavailable`; nothing is changed
        then.
        """
        async with Members(self._parts.content, self._parts.layer_limit_bytes) as members:
            await read_on_thread(stream, members.receive, "scow-load")
            images = await asyncio.to_thread(read_images, members, self._platform)
            try:
                with self._parts.leases.hold([key for image in images for key in _keys(image)]):
                    await self._parts.leases.settled()
                    return await self._store(images)
            except BaseException:
                await self._layers.undo()
                await self._parts.collector.remove_unneeded(self._stored)
                raise

    async def _store(self, images: list[ArchivedImage]) -> list[tuple[Image, list[str]]]:
        store = self._parts.store
        brought = {}
        for archived in images:
            if store.by_id(archived.config_blob.digest) is None:  # one that is here gets names, and nothing else
                brought[archived.config_blob.digest] = await self._bring(archived)
        loaded = []
        async with self._parts.leases.settling:
            for archived in images:
                id, names = archived.config_blob.digest, archived.names
                before = {name: store.by_name(name) for name in names}
                stored = await store.put(brought.get(id), id=id, tags=names)
                self._tell_of_robbed(stored, before)
                loaded.append((stored, names))
        return loaded

    async def _bring(self, archived: ArchivedImage) -> Image:
        """Blobs and snapshots of *archived* are there; its record as it will be."""
        await asyncio.to_thread(self._publish, archived)
        lines = [LayerProgress(self._told, diff_id) for diff_id in archived.diff_ids]
        sizes = await self._layers.unpack(archived.layers, archived.diff_ids, None, lines)
        chains = archived.chains
        return Image(
            id=archived.config_blob.digest,
            manifest_digest=archived.manifest_digest,
            created_ns=manifests.created_ns(archived.config),
            pulled_ns=time.time_ns(),
            config=archived.config,
            diff_ids=tuple(archived.diff_ids),
            chain_id=chains[-1] if chains else None,
            size_bytes=sum(sizes),
            layer_sizes=tuple(sizes),
        )

    def _publish(self, archived: ArchivedImage) -> None:
        content = self._parts.content
        for staged in archived.files:
            if not content.exists(staged.digest):
                self._stored.append(staged.digest)
                staged.publish()
        for data in (archived.raw_config, archived.manifest):
            self._stored.append(content.put(data))

    def _told(self, message: dict[str, Any]) -> None:
        self._progress({**message, "status": "Loading layer"})

    def _tell_of_robbed(self, image: Image, before: dict[str, Image | None]) -> None:
        for name, old in before.items():
            if old is not None and old.id != image.id:
                familiar = Reference.parse(name).familiar
                told = f"The image {familiar} already exists, renaming the old one with ID {old.id} to empty string\n"
                self._progress({"stream": told})


def _keys(image: ArchivedImage) -> list[str]:
    """What nobody may collect meanwhile."""
    layers = [layer.digest for layer in image.layers]
    return [image.config_blob.digest, image.manifest_digest, *layers, *image.chains]
