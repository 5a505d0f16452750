"""Images: pull, push, import, tag, remove, and look-ups. The API's and the other parts' way to them."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from scow.engine.collect import ORPHAN_AGE_S, Collector
from scow.engine.compressed_layers import CompressedLayers
from scow.engine.history import history
from scow.engine.image_blobs import ImageBlobs
from scow.engine.image_diff import ImageDiff, compare
from scow.engine.image_filters import filter_images, matches
from scow.engine.image_import import import_tar
from scow.engine.image_remove import Removal
from scow.engine.image_store import ImageStore, shown
from scow.engine.image_tree import Node, tree
from scow.engine.kept_blobs import KeptBlobs
from scow.engine.leases import Leases
from scow.engine.orphans import Orphans
from scow.engine.platforms import check_fits
from scow.engine.progress import Broadcast
from scow.engine.pull import Pull
from scow.engine.pull_layers import PARALLEL, Parts
from scow.engine.push import Push
from scow.engine.registries import Registries
from scow.errors import InvalidArgument, NotFound, ScowError
from scow.oci import Platform
from scow.ports import REGISTRY, STORAGE
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence, Set

    from scow.config import Config
    from scow.content import ContentStore
    from scow.engine.drivers import Drivers
    from scow.engine.model import Container, Image
    from scow.events import Events
    from scow.host import PluginHost
    from scow.ports.registry import Credentials
    from scow.ports.storage import StorageDriver
    from scow.state import State

    ProgressSink = Callable[[dict[str, Any]], None]

log = logging.getLogger(__name__)

SWEEP_S = 6 * 3600.0


class Images:
    """The images of one engine. *in_use* answers the containers that were made from an image id; *layers*,
    *blobs* and *content* tell what the images consist of, *orphans* what else there is."""

    def __init__(
        self,
        host: PluginHost,
        drivers: Drivers,
        state: State,
        events: Events,
        content: ContentStore,
        config: Config,
        in_use: Callable[[str], Sequence[Container]],
    ) -> None:
        self._drivers, self._events, self._config = drivers, events, config
        self.registries = Registries(host, drivers, config.drivers["registry"])
        self._store = ImageStore(state)
        self.content, self.layers = content, self._store.layers
        leases = Leases()
        self._compressed = CompressedLayers(state, content, self._store, leases)
        self.blobs = ImageBlobs(content, self._compressed)
        self.orphans = Orphans(drivers, content, self.layers, leases)
        self._collector = Collector(drivers, content, self._store, leases, self.blobs, self._compressed)
        downloads = asyncio.Semaphore(PARALLEL)
        self._parts = Parts(
            drivers,
            content,
            self._store,
            leases,
            self._collector,
            downloads,
            unpacking=WeakValueDictionary(),
            compressed=self._compressed,
            kept=KeptBlobs(
                drivers, content, self._store, leases, self.registries, always=config.keep_blobs == "always"
            ),
            layer_limit_bytes=config.layer_limit,
        )
        self._removal = Removal(self._store, self._collector, self.blobs, in_use, self._emit)
        self._pulls: dict[tuple[Any, ...], _SharedPull] = {}

    @property
    def parts(self) -> Parts:
        """What transfers share, for `scow.engine.archives`."""
        return self._parts

    def load(self) -> None:
        """What the state has. Blocks: for the start."""
        self._store.load()
        self._compressed.load()
        self._parts.content.forget_staged()

    async def sweep(self, age_s: float = ORPHAN_AGE_S, only: Set[str] | None = None) -> Mapping[str, int]:
        """Blobs, downloads and snapshots that no image needs and that are older than *age_s* are gone (with *only*, of
        those digests and keys); answers which, and their bytes. For after a start, and for prune."""
        await self._parts.kept.let_go(self._store.all())
        return await self._collector.sweep(age_s, only)

    async def keep_swept(self) -> None:
        """As `sweep`, now and every `SWEEP_S`, until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except (ScowError, OSError) as error:
                log.warning("left-overs of images are not removed: %s", error)
            await asyncio.sleep(SWEEP_S)

    # Look-ups

    def get(self, ref: str, platform: str = "") -> Image:
        """By id, unique id prefix, familiar or full reference, or ``repo@digest``. Raises `NotFound`, also where the
        image is not for *platform* (as `Platform.decode` takes it)."""
        image = self._store.get(ref)
        if platform:
            check_fits(image.config, Platform.decode(platform), shown(ref))
        return image

    def matching(self, ref: str) -> list[Image]:
        """The image that `get` would answer, or those with a name like the pattern *ref*."""
        found = self._store.find(ref)
        return [found] if found is not None else [image for image in self._store.all() if matches(image, ref)]

    def history(self, ref: str, platform: str = "") -> list[dict[str, Any]]:
        """Docker's HistoryResponseItem objects, newest first. Raises `NotFound`."""
        return history(self.get(ref, platform))

    def tree(self, refs: Collection[str] = ()) -> Sequence[Node]:
        """The layers of *refs* (of all images where there are none) by what stands on what. Raises `NotFound`."""
        return tree([self.get(ref) for ref in refs] or self._store.all(), self.layers)

    async def diff(self, ref: str, *, with_changes: bool = False) -> ImageDiff:
        """What each layer of *ref* adds, changes and deletes; *with_changes* path by path. Raises `NotFound`."""
        image = self.get(ref)
        manifest = await asyncio.to_thread(self.blobs.manifest, image)
        chains = [layer.chain_id for layer in self.layers.of(image.id)]

        def read(storage: StorageDriver) -> ImageDiff:
            return compare(image, chains, manifest.layers, self.content, storage, with_changes)

        with self._parts.leases.hold([*chains, *(layer.digest for layer in manifest.layers)]):
            return await self._drivers.call(STORAGE, "", "diff", read, deadline_s=None)

    # Transfers

    async def pull(
        self,
        ref: Reference,
        *,
        platform: str = "",
        credentials: Credentials | None = None,
        progress: ProgressSink,
        all_tags: bool = False,
    ) -> Image:
        """The image of *ref* for *platform* (this machine's), unpacked and stored. Who asks for what is being pulled
        shares that transfer. Raises `NotFound`, `Unauthorized`, `Unavailable`, `Corrupt`, `InvalidArgument`."""
        wanted = Platform.parse(platform) if platform else None
        backend = await self.registries.backend(ref.host)
        credentials = await self.registries.credentials(ref.host, credentials)
        if not all_tags:
            if not (ref.tag or ref.digest):
                ref = ref.with_tag("latest")
            return await self._pull_one(ref, wanted, backend, credentials, progress)
        tags = await self._drivers.call(REGISTRY, backend, "tags", lambda driver: driver.tags(ref, credentials))
        if not tags:
            raise NotFound(f"repository {ref.familiar_name} has no tags")
        for tag in tags:
            image = await self._pull_one(ref.with_tag(tag), wanted, backend, credentials, progress)
        return image

    async def _pull_one(
        self,
        ref: Reference,
        platform: Platform | None,
        backend: str,
        credentials: Credentials | None,
        progress: ProgressSink,
    ) -> Image:
        key = (ref, platform, backend, credentials)
        shared = self._pulls.get(key)
        if shared is None:
            broadcast = Broadcast()
            pull = Pull(self._parts, ref, platform, backend, credentials, broadcast)
            task = asyncio.create_task(self._pull_and_tell(pull, ref))
            task.add_done_callback(partial(self._pull_ended, key))
            shared = self._pulls[key] = _SharedPull(task, broadcast)
        try:
            return await shared.wait(progress)
        finally:
            if shared.abandoned and self._pulls.get(key) is shared:
                del self._pulls[key]  # it is ending: the next one starts anew

    def _pull_ended(self, key: tuple[Any, ...], task: asyncio.Task[Image]) -> None:
        shared = self._pulls.get(key)
        if shared is not None and shared.task is task:
            del self._pulls[key]
        if not task.cancelled():
            task.exception()  # whoever waits is told; with nobody left it is no news

    async def _pull_and_tell(self, pull: Pull, ref: Reference) -> Image:
        image = await pull.run()
        await self._parts.kept.let_go([image])
        attributes = {**image.config.config.labels, "name": ref.familiar_name}
        await self._events.emit("image", "pull", ref.familiar, attributes)
        return image

    async def push(
        self,
        ref: Reference,
        *,
        credentials: Credentials | None = None,
        progress: ProgressSink,
        all_tags: bool = False,
        platform: str = "",
    ) -> None:
        """The registry has *ref*, or with *all_tags* every tag of its repository. Raises `NotFound` where there is no
        such tag here or it is not for *platform*, and what the registry says."""
        wanted = Platform.decode(platform) if platform else None
        backend = await self.registries.backend(ref.host)
        credentials = await self.registries.credentials(ref.host, credentials)
        refs = self._tags_of(ref) if all_tags else [ref if ref.tag else ref.with_tag("latest")]
        progress({"status": f"The push refers to repository [{ref.name}]"})
        for one in refs:
            image = self._store.by_name(str(one))
            if image is None:
                raise NotFound(f"An image does not exist locally with the tag: {one.familiar_name}")
            if wanted is not None:
                check_fits(image.config, wanted, one.familiar)
            push = Push(self._parts, image, one, backend, credentials, self._config.push_compression, progress)
            try:
                digest = await push.run()
            finally:
                await self._parts.kept.let_go([image])
            await self._store.name(image.id, digests=[str(one.with_digest(digest))])
            attributes = {**image.config.config.labels, "name": one.familiar_name}
            await self._events.emit("image", "push", one.familiar, attributes)

    def _tags_of(self, ref: Reference) -> list[Reference]:
        tags = [Reference.parse(tag) for image in self._store.all() for tag in image.tags]
        found = sorted((tag for tag in tags if tag.name == ref.name), key=str)
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {ref.familiar_name}")
        return found

    async def import_tar(
        self,
        stream: AsyncIterator[bytes],
        target: Reference | None,
        *,
        changes: list[str],
        message: str,
        platform: str,
        progress: ProgressSink,
    ) -> Image:
        """An image of one layer, the tar in *stream* (plain, gzip or zstd), is stored as *target*. Raises
        `InvalidArgument` for a bad *changes* or tar."""
        wanted = Platform.parse(platform) if platform else Platform.host()
        tags = [str(target)] if target is not None else []
        image = await import_tar(self._parts, stream, tags, changes, message, wanted, progress)
        await self._events.emit("image", "import", image.id, {"name": target.familiar if target else image.id})
        return image

    # Names

    async def tag(self, ref: str, target: Reference) -> None:
        """*target* (with a tag) names the image *ref*, whatever it named before."""
        image = self._store.get(ref)
        if target.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        target = target if target.tag else target.with_tag("latest")
        image = await self._store.name(image.id, tags=[str(target)])
        await self._emit("tag", image, target.familiar)

    async def remove(
        self, ref: str, *, force: bool = False, prune: bool = True, platform: str = ""
    ) -> list[dict[str, str]]:
        """The name *ref* is gone, and with its last name the image; by id the image with its names. With *prune* so are
        the images below it that have no name, no other child and no container. Answers ``{"Untagged": …}`` and
        ``{"Deleted": …}``. Raises `NotFound` (also where the image is not for *platform*), `Conflict` by Docker's
        rules."""
        return await self._removal.remove(ref, force, prune, lambda: self.get(ref, platform))

    async def discard(self, id: str, names: Collection[str]) -> list[dict[str, str]]:
        """The image *id*, which nobody uses and which has no name but *names*, is gone; answers as `remove`. Raises
        `Conflict` where that is not so (any more), `NotFound`."""
        return await self._removal.discard(id, names)

    async def _emit(self, action: str, image: Image, name: str) -> None:
        await self._events.emit("image", action, image.id, {**image.config.config.labels, "name": name})

    def children(self, id: str) -> Sequence[Image]:
        """The images that were built on this one."""
        return self._store.children(id)

    def list(self, *, all: bool = False, filters: Mapping[str, Sequence[str]] | None = None) -> list[Image]:
        """Newest first. With *all* also those without a name that others were built on. Raises `InvalidArgument`."""
        return filter_images(self._store, filters or {}, all)


class _SharedPull:
    """One transfer and those who wait for it; with the last of them gone it is cancelled."""

    def __init__(self, task: asyncio.Task[Image], broadcast: Broadcast) -> None:
        self.task, self.abandoned = task, False
        self._broadcast, self._waiting = broadcast, 0

    async def wait(self, progress: ProgressSink) -> Image:
        self._broadcast.join(progress)
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._broadcast.leave(progress)
            self._waiting -= 1
            if not self._waiting and not self.task.done():
                self.abandoned = True
                self.task.cancel()
