"""Pulls one reference: manifest, config and layers into the content store, layers into snapshots, a record at the end.

Layers are received in parallel and unpacked in their order, each as soon as it and those below it are there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from scow.engine import manifests
from scow.engine.disk_errors import NoSpace, disk_error
from scow.engine.model import Image
from scow.engine.platforms import acceptable, choose, normal
from scow.engine.progress import LayerProgress
from scow.engine.pull_layers import Layers
from scow.errors import Corrupt, NotFound
from scow.oci import Descriptor, Platform, chain_ids
from scow.ports import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from scow.engine.pull_layers import Parts
    from scow.ports.registry import Credentials, Manifest, RegistryBackend
    from scow.reference import Reference
    from scow.types import ImageConfig

    ProgressSink = Callable[[dict[str, Any]], None]

log = logging.getLogger(__name__)

PARALLEL = 3


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
        self._announced = False
        self._cancelled = threading.Event()
        self._layers = Layers(parts, ref, backend, credentials, progress, self._cancelled)

    async def run(self) -> Image:
        """The image, stored under the reference's name. After a failure no snapshot is left that was not there
        before; what came of the blobs is, for the next attempt: only the whole ones where the disk is full."""
        try:
            served = await self._call(
                "resolve", lambda backend: backend.resolve(self._ref, self._credentials, self._line)
            )
            self._announce()
            document = manifests.check_bytes(served, self._ref.digest)
            top = self._ref.digest or served.descriptor.digest
            known = await self._up_to_date(top)
            if known is not None:
                return self._said(known, top, "Image is up to date for")
            served, document = await self._one_manifest(served, document)
            manifest = manifests.parse_manifest(document, served.descriptor.digest, served.descriptor.media_type)
            with self._parts.leases.hold([manifest.digest, manifest.config.digest, *_digests(manifest)]):
                await self._parts.leases.settled()
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
                await self._parts.leases.settled()
                sizes = await self._layers.run(manifest.layers, diff_ids, chains)
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
                    origins=(str(self._ref.with_digest(top)),),
                )
                return await self._done(image, top)
        except BaseException as error:
            await self._undo(chains, _digests(manifest), error)
            raise

    def _keep(self, manifest: manifests.ImageManifest, served: Manifest, config: bytes) -> None:
        try:
            self._parts.content.put(config, manifest.config.digest)
            self._parts.content.put(served.data, manifest.digest)
            if self._layers.brought:
                self._parts.content.sync()
        except OSError as error:
            raise disk_error(error, f"store image {manifest.config.digest}") from error

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
            if image.chain_id is not None and not await self._layers.has_snapshot(image.chain_id):
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
        await self._layers.download(blob, LayerProgress(lambda message: None, blob.digest))
        raw = await asyncio.to_thread(self._parts.content.read, blob.digest)
        config = manifests.parse_config(raw, manifest.layers)
        if self._platform is not None and not self._fits(config):
            raise NotFound(
                f"image with reference {self._ref.familiar} was found but does not match the specified platform: "
                f"wanted {self._platform}, actual: {Platform(config.os, config.architecture, config.variant)}"
            )
        return config, raw

    def _forget(self, blobs: Sequence[str]) -> None:
        for digest in blobs:
            self._parts.content.forget(digest)

    async def _undo(self, chains: list[str], blobs: Sequence[str], error: BaseException) -> None:
        """Snapshots that this pull brought are gone, unless another one needs them by now. Where the disk is full, so
        is what came of blobs that are not whole: the engine itself needs room."""
        self._cancelled.set()
        async with self._parts.leases.settling:
            used = {chain for image in self._parts.store.all() for chain in chain_ids(list(image.diff_ids))}
            mine = [chain for chain in chains if chain in self._layers.brought and chain not in used]
            await self._parts.collector.remove_snapshots(mine)
        if isinstance(error, NoSpace):
            await asyncio.to_thread(self._forget, blobs)

    async def _call(self, method: str, fn: Callable[[RegistryBackend], Any]) -> Any:  # what *fn* answers
        """No deadline: an image that a registry builds on demand takes its time."""
        try:
            return await self._parts.drivers.call(REGISTRY, self._backend, method, fn, deadline_s=None)
        except NotFound as error:
            if method != "resolve" or error.message.startswith("manifest for"):
                raise
            message = f"manifest for {self._ref.familiar} not found: {error.message}"
            raise NotFound(message, hint=error.hint) from error

    def _line(self, text: str) -> None:
        self._announce()
        self._progress({"status": text})

    def _announce(self) -> None:
        """The first line, once there is something to tell: an error before it has a status of its own."""
        if not self._announced:
            self._announced = True
            self._progress({"status": f"Pulling from {self._ref.repository}", "id": self._ref.tag or self._ref.digest})


def _digests(manifest: manifests.ImageManifest) -> list[str]:
    return [layer.digest for layer in manifest.layers]
