"""Images and containers as tar archives: load, save, export; and commit, which makes an image of a container."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from scow.engine import save
from scow.engine.commit import Commit, Wish
from scow.engine.export import root_tar
from scow.engine.load import Load
from scow.engine.pipes import Outflow, nothing
from scow.engine.platforms import check_fits
from scow.errors import Conflict
from scow.ports import STORAGE
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from scow.engine.containers import Containers
    from scow.engine.model import Image
    from scow.engine.pull_layers import Parts
    from scow.events import Events
    from scow.oci import Platform

    ProgressSink = Callable[[dict[str, Any]], None]


class Archives:
    """Of one engine; *scratch* is a folder for short mounts."""

    def __init__(self, parts: Parts, containers: Containers, events: Events, scratch: Path) -> None:
        self._parts, self._containers, self._events, self._scratch = parts, containers, events, scratch
        self._committing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self, stream: AsyncIterator[bytes], platform: Platform | None, progress: ProgressSink) -> None:
        """The images of the archive in *stream* (of docker, podman, skopeo, buildkit …; plain or compressed) are
        stored, with *platform* only those for it; *progress* is told their names, as Docker tells them.

        Raises `InvalidArgument`, `Corrupt`, `NotFound`, `Unavailable`; nothing is changed then.
        """
        for image, names in await Load(self._parts, platform, progress).run(stream):
            for name in names:
                progress({"stream": f"Loaded image: {Reference.parse(name).familiar}\n"})
            if not names:
                progress({"stream": f"Loaded image ID: {image.id}\n"})
            shown = Reference.parse(names[0]).familiar if names else image.id
            await self._events.emit("image", "load", image.id, {**image.config.config.labels, "name": shown})

    async def save(self, names: Sequence[str], platform: Platform | None) -> Outflow:
        """One archive of the images *names*, to be iterated and closed. Layers that were not kept are fetched again.
        Raises `NotFound`, also for an image that is not for *platform* or whose layers no registry has any more."""
        parts = self._parts
        chosen = save.select(parts.store, names)
        for image, _ in chosen:
            if platform is not None:
                check_fits(image.config, platform, image.id)
        with contextlib.ExitStack() as held:
            held.enter_context(parts.leases.hold(image.manifest_digest for image, _ in chosen))
            selected = [await asyncio.to_thread(save.read_manifest, parts.content, *each) for each in chosen]
            held.enter_context(parts.leases.hold(digest for each in selected for digest in each.blobs))
            await parts.leases.settled()
            for image, _ in chosen:
                parts.store.get(image.id)  # or it was removed meanwhile
                await parts.kept.ensure(image)
            kept = held.pop_all()

        async def closing() -> None:
            kept.close()
            await parts.kept.let_go(image for image, _ in chosen)

        flow = await Outflow(lambda: save.archive(parts.content, selected), "scow-save", closing).begun()
        try:
            for image, _ in chosen:
                await self._events.emit("image", "save", image.id, {**image.config.config.labels, "name": image.id})
        except BaseException:
            await flow.aclose()
            raise
        return flow

    async def export(self, ref: str) -> Outflow:
        """The tar of the container's root without what is mounted in it, to be iterated and closed."""
        live = self._containers.live(ref)
        record = live.record
        if record.state.status in ("removing", "dead"):
            raise Conflict(f"You cannot export container {record.id} which is being removed")
        view = await self._parts.drivers.call(
            STORAGE, record.storage_driver, "view", lambda storage: storage.view(record.id)
        )
        flow = await Outflow(lambda: root_tar(view, self._scratch), "scow-export", nothing).begun()
        self._containers.tell(live, "export")
        return flow

    async def commit(self, ref: str, wish: Wish) -> Image:
        """The container's changes are an image. Raises `NotFound`, `Conflict`, `InvalidArgument`."""
        live = self._containers.live(ref)
        # one at a time: the first to end would let the container go on under the others
        async with self._committing.setdefault(live.record.id, asyncio.Lock()):
            image = await Commit(self._parts, self._containers, live, wish).run()
        shown = Reference.parse(wish.tags[0]).familiar if wish.tags else ""
        self._containers.tell(live, "commit", {"comment": wish.message, "imageID": image.id, "imageRef": shown})
        if wish.tags:
            await self._events.emit("image", "tag", image.id, {**image.config.config.labels, "name": shown})
        return image
