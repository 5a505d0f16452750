"""Pulls one reference: manifest, config and layers into the content store, layers into snapshots, a record at the end.

Layers are received in parallel and unpacked in their order, each as soon as it and those below it are there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.engine import manifests
from scow.engine.model import Image
from scow.engine.platforms import acceptable, choose, normal
from scow.engine.progress import LayerProgress
from scow.engine.transfer import Download, unpack
from scow.errors import Corrupt, NotFound, Unavailable
from scow.oci import Descriptor, Platform, chain_ids
from scow.ports import REGISTRY, STORAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any
    from weakref import WeakValueDictionary

    from scow.content import ContentStore
    from scow.engine.collect import Collector
    from scow.engine.drivers import Drivers
    from scow.engine.image_store import ImageStore
    from scow.engine.leases import Leases
    from scow.ports.registry import Credentials, Manifest, RegistryBackend
    from scow.ports.storage import StorageDriver
    from scow.reference import Reference
    from scow.types import ImageConfig

    ProgressSink = Callable[[dict[str, Any]], None]

log = logging.getLogger(__name__)

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


class Pull:
    """One pull of *ref*, which has a tag or a digest."""

    def __init__(
        self,
        parts: Parts,
        ref: Reference,
        platform: Platform | None,
        backend: str,
        credentials: Credentials | None,
        progress: ProgressSink,
    ) -> None:
        self._parts, self._ref, self._platform, self._backend = parts, ref, platform, backend
        self._credentials, self._progress = credentials, progress
        self._cancelled = threading.Event()
        self._brought: list[str] = []  # snapshots and blobs that were not there before
        self._received: list[str] = []

    async def run(self) -> Image:
        """The image, stored under the reference's name. After a failure no snapshot is left that was not there
        before; blobs are, for the next attempt, unless the disk is full."""
        self._progress({"status": f"Pulling from {self._ref.repository}", "id": self._ref.tag or self._ref.digest})
        try:
            served = await self._call(
                "resolve", lambda backend: backend.resolve(self._ref, self._credentials, self._line)
            )
            document = manifests.check_bytes(served, self._ref.digest)
            top = self._ref.digest or served.descriptor.digest
            known = await self._up_to_date(top)
            if known is not None:
                return self._said(known, top, "Image is up to date for")
            served, document = await self._one_manifest(served, document)
            manifest = manifests.parse_manifest(document, served.descriptor.digest, served.descriptor.media_type)
            with self._parts.leases.hold([manifest.digest, manifest.config.digest, *_digests(manifest)]):
                return await self._fetch(manifest, served, top)
        except BaseException:
            self._cancelled.set()
            raise

    async def _fetch(self, manifest: manifests.ImageManifest, served: Manifest, top: str) -> Image:
        config, raw = await self._config(manifest)
        diff_ids = [str(diff_id) for diff_id in config.rootfs.get("diff_ids") or []]
        chains = chain_ids(diff_ids)
        try:
            with self._parts.leases.hold(chains):
                sizes = await self._layers(manifest, diff_ids, chains)
                await asyncio.to_thread(self._keep, manifest, served, raw)
                image = Image(
                    id=manifest.config.digest,
                    manifest_digest=manifest.digest,
                    created_ns=manifests.created_ns(config),
                    pulled_ns=time.time_ns(),
                    config=config,
                    diff_ids=tuple(diff_ids),
                    chain_id=chains[-1] if chains else None,
                    size_bytes=sum(sizes),
                    layer_sizes=tuple(sizes),
                )
                return await self._done(image, top)
        except BaseException as error:
            await self._undo(chains, error)
            raise

    def _keep(self, manifest: manifests.ImageManifest, served: Manifest, config: bytes) -> None:
        self._parts.content.put(config, manifest.config.digest)
        self._parts.content.put(served.data, manifest.digest)

    async def _done(self, image: Image, top: str) -> Image:
        before = self._parts.store.by_name(str(self._ref))
        news = before is None or before.id != image.id
        async with self._parts.leases.settling:
            image = await self._parts.store.put(image, tags=self._tags(), digests=[str(self._ref.with_digest(top))])
        return self._said(image, top, "Downloaded newer image for" if news else "Image is up to date for")

    def _tags(self) -> list[str]:
        return [str(self._ref)] if self._ref.tag and not self._ref.digest else []

    def _said(self, image: Image, top: str, status: str) -> Image:
        self._progress({"status": f"Digest: {top}"})
        self._progress({"status": f"Status: {status} {self._ref.familiar}"})
        return image

    async def _up_to_date(self, top: str) -> Image | None:
        """The image that this digest named before, with the reference's tag, if it is of the right platform and what
        it consists of is there. *settling* keeps it there until it has the tag."""
        async with self._parts.leases.settling:
            image = self._parts.store.by_name(str(self._ref.with_digest(top)))
            if image is None or not self._fits(image.config) or not self._parts.content.exists(image.manifest_digest):
                return None
            if image.chain_id is not None and not await self._has_snapshot(image.chain_id):
                return None
            return await self._parts.store.put(image, tags=self._tags())

    def _fits(self, config: ImageConfig) -> bool:
        has = normal(Platform(config.os or "linux", config.architecture, config.variant))
        return has in acceptable(self._platform or Platform.host())

    async def _one_manifest(self, served: Manifest, document: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
        """The manifest of one image: *served* itself, or the fitting member of that index (or of one in it)."""
        for _ in range(3):
            if not manifests.is_index(document, served.descriptor.media_type):
                return served, document
            member = choose(manifests.index_members(document), self._platform or Platform.host())
            served = await self._member(member)
            document = manifests.check_bytes(served, member.digest)
        raise Corrupt(f"the index of {self._ref.familiar} lists indexes of indexes")

    async def _member(self, member: Descriptor) -> Manifest:
        found: Manifest = await self._call(
            "manifest", lambda backend: backend.manifest(self._ref, member, self._credentials)
        )
        return found

    async def _config(self, manifest: manifests.ImageManifest) -> tuple[ImageConfig, bytes]:
        blob = manifest.config
        if blob.size_bytes > manifests.LIMIT_BYTES:
            raise Corrupt(f"image config {blob.digest} is larger than {manifests.LIMIT_BYTES} bytes")
        await self._download(blob, LayerProgress(lambda message: None, blob.digest))
        raw = await asyncio.to_thread(self._parts.content.read, blob.digest)
        config = manifests.parse_config(raw, manifest.layers)
        if self._platform is not None and not self._fits(config):
            raise NotFound(
                f"image with reference {self._ref.familiar} was found but does not match the specified platform: "
                f"wanted {self._platform}, actual: {Platform(config.os, config.architecture, config.variant)}"
            )
        return config, raw

    # Layers

    async def _layers(self, manifest: manifests.ImageManifest, diff_ids: list[str], chains: list[str]) -> list[int]:
        """Every layer is a snapshot; answers their bytes."""
        lines = [LayerProgress(self._progress, layer.digest) for layer in manifest.layers]
        there = [await self._is_there(layer, chain) for layer, chain in zip(manifest.layers, chains, strict=True)]
        for line, has in zip(lines, there, strict=True):
            line.status("Already exists" if has else "Pulling fs layer")
        if sum(not has for has in there) > PARALLEL:
            for line in [line for line, has in zip(lines, there, strict=True) if not has][PARALLEL:]:
                line.status("Waiting")
        received = [
            asyncio.create_task(_nothing() if has else self._receive(layer, line))
            for layer, line, has in zip(manifest.layers, lines, there, strict=True)
        ]
        sizes = []
        try:
            for n, layer in enumerate(manifest.layers):
                await _first_failure(received, n)
                parent = chains[n - 1] if n else None
                sizes.append(await self._unpack(layer, chains[n], parent, diff_ids[n], lines[n]))
                if not there[n]:
                    lines[n].status("Pull complete")
        except BaseException:
            self._cancelled.set()
            for task in received:
                task.cancel()
            await asyncio.gather(*received, return_exceptions=True)
            raise
        return sizes

    async def _is_there(self, layer: Descriptor, chain: str) -> bool:
        return self._parts.content.exists(layer.digest) and await self._has_snapshot(chain)

    async def _has_snapshot(self, chain: str) -> bool:
        def stat(storage: StorageDriver) -> bool:
            try:
                return storage.stat(chain).committed
            except NotFound:
                return False

        return await self._parts.drivers.call(STORAGE, "", "stat", stat)

    async def _receive(self, layer: Descriptor, line: LayerProgress) -> None:
        async with self._parts.downloads:
            await self._download(layer, line)
        line.status("Download complete")

    async def _download(self, blob: Descriptor, line: LayerProgress) -> None:
        def download(backend: RegistryBackend) -> bool:
            transfer = Download(backend, self._ref, blob, self._credentials, self._parts.content, line, self._cancelled)
            return transfer.run()

        if await self._call("fetch", download):
            self._received.append(blob.digest)

    async def _unpack(
        self, layer: Descriptor, chain: str, parent: str | None, diff_id: str, line: LayerProgress
    ) -> int:
        content, cancelled = self._parts.content, self._cancelled

        def apply(storage: StorageDriver) -> int:
            try:
                return storage.usage(chain).size_bytes
            except NotFound:
                size = unpack(storage, content, layer.digest, chain, parent, diff_id, line, cancelled)
                self._brought.append(chain)
                return size

        async with self._parts.unpacking.setdefault(chain, asyncio.Lock()):
            call = self._parts.drivers.call(STORAGE, "", "apply", apply, deadline_s=None)
            return await _to_its_end(call, cancelled)

    async def _undo(self, chains: list[str], error: BaseException) -> None:
        """Snapshots that this pull brought are gone, unless another one needs them by now."""
        self._cancelled.set()
        async with self._parts.leases.settling:
            used = {chain for image in self._parts.store.all() for chain in chain_ids(list(image.diff_ids))}
            mine = [chain for chain in chains if chain in self._brought and chain not in used]
            await self._parts.collector.remove_snapshots(mine)
        if isinstance(error, Unavailable) and "no space left" in error.message:
            await self._parts.collector.remove_unneeded(self._received)

    async def _call(self, method: str, fn: Callable[[RegistryBackend], Any]) -> Any:  # what *fn* answers
        """No deadline: an image that a registry builds on demand takes its time, and so does a large layer."""
        try:
            return await self._parts.drivers.call(REGISTRY, self._backend, method, fn, deadline_s=None)
        except NotFound as error:
            if method != "resolve" or error.message.startswith("manifest for"):
                raise
            message = f"manifest for {self._ref.familiar} not found: {error.message}"
            raise NotFound(message, hint=error.hint) from error

    def _line(self, text: str) -> None:
        self._progress({"status": text})


async def _nothing() -> None:
    """In the place of a download that is not needed."""


def _digests(manifest: manifests.ImageManifest) -> list[str]:
    return [layer.digest for layer in manifest.layers]


async def _first_failure(tasks: list[asyncio.Task[None]], n: int) -> None:
    """Task *n* is done; raises as soon as any has failed."""
    while not tasks[n].done():
        waiting = [task for task in tasks if not task.done()]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    tasks[n].result()


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
