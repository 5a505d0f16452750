"""Layers of pulled images as they came, which ``keep_blobs: until-unpacked`` lets go once there are snapshots of them.

Whoever needs one afterwards (push, save) gets it from where the image came from.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

from scow.engine.arrival import Arrival
from scow.engine.download import Download
from scow.engine.manifests import manifest_in_store
from scow.engine.progress import LayerProgress
from scow.errors import NotFound, ScowError
from scow.ports import REGISTRY
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO

    from scow.content import ContentStore
    from scow.engine.drivers import Drivers
    from scow.engine.image_store import ImageStore
    from scow.engine.leases import Leases
    from scow.engine.model import Image
    from scow.engine.registries import Registries
    from scow.oci import Descriptor

log = logging.getLogger(__name__)


class KeptBlobs:
    """Belongs to one event loop. *always*: none is let go."""

    def __init__(
        self,
        drivers: Drivers,
        content: ContentStore,
        store: ImageStore,
        leases: Leases,
        registries: Registries,
        *,
        always: bool,
    ) -> None:
        self._drivers, self._content, self._store, self._leases = drivers, content, store, leases
        self._registries = registries
        self.always = always

    async def let_go(self, images: Iterable[Image]) -> None:
        """Without *always*, the layers of *images* are gone but for those that a transfer needs, or an image that could
        not get them again."""
        if self.always:
            return
        async with self._leases.settling:
            mine = [image for image in images if self._store.by_id(image.id) is not None]
            await asyncio.to_thread(self._let_go, mine, self._store.all(), self._leases.held())

    def _let_go(self, images: list[Image], every: list[Image], held: frozenset[str]) -> None:
        try:
            kept = held.union(*(self._only_here(image) for image in every))
            for image in images:
                for digest in self._layers(image).keys() - kept:
                    self._content.delete(digest)
        except (ScowError, OSError) as error:
            log.warning("blobs are kept: %s", error)

    def _only_here(self, image: Image) -> set[str]:
        """The layers of *image* that no registry has, as far as is known: plain tars are what load, import and commit
        make, and travel compressed."""
        layers = self._layers(image)
        if not image.origins:
            return set(layers)
        if image.is_served:
            return set()  # it was served so, whatever its layers are
        return layers.keys() & set(image.diff_ids)

    def _layers(self, image: Image) -> dict[str, Descriptor]:
        manifest = manifest_in_store(self._content.read(image.manifest_digest), image.manifest_digest)
        return {layer.digest: layer for layer in manifest.layers}

    async def ensure(self, image: Image, digests: Iterable[str] | None = None) -> None:
        """The content store has those layers of *image* (None: all), fetched again where they were let go; the caller
        holds them. Raises `NotFound` where no registry has one any more."""
        layers = await asyncio.to_thread(self._layers, image)
        for digest in list(layers) if digests is None else digests:
            if digest in layers and not await asyncio.to_thread(self._content.exists, digest):
                await self._fetch(image, layers[digest])

    def opener(self, image: Image, digest: str) -> Callable[[], BinaryIO]:
        """What opens that layer of *image* on a thread, as `ensure` and `ContentStore.open` would."""
        loop = asyncio.get_running_loop()

        def open_blob() -> BinaryIO:
            if not self._content.exists(digest):
                asyncio.run_coroutine_threadsafe(self.ensure(image, [digest]), loop).result()
            return self._content.open(digest)

        return open_blob

    async def _fetch(self, image: Image, blob: Descriptor) -> None:
        failures = []
        for ref in map(Reference.parse, dict.fromkeys([*image.origins, *image.digests])):
            try:
                await self._fetch_from(ref, blob)
            except ScowError as error:
                failures.append(f"{ref.name}: {error}")
            else:
                return
        raise NotFound(
            f"layer {blob.digest} of image {image.id} was not kept, and cannot be fetched again: "
            + ("; ".join(failures) or "it came from no registry"),
            hint="pull the image again, with keep_blobs: always in the config",
        )

    async def _fetch_from(self, ref: Reference, blob: Descriptor) -> None:
        backend = await self._registries.backend(ref.host)
        credentials = await self._registries.credentials(ref.host, None)
        driver: Any = await self._drivers.driver(REGISTRY, backend)
        cancelled = threading.Event()
        line = LayerProgress(lambda message: None, blob.digest)
        arrival = Arrival(blob.digest, cancelled)
        download = Download(driver, ref, blob, credentials, self._content, line, cancelled, arrival)
        try:
            await self._drivers.call(REGISTRY, backend, "fetch", lambda driver: download.run(), deadline_s=None)
        except asyncio.CancelledError:
            download.abandon()
            raise
        finally:
            arrival.close()
