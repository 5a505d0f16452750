"""Makes an image of one tar: ``docker import``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from scow.engine import manifests
from scow.engine.image_changes import apply_changes
from scow.engine.model import Image
from scow.engine.progress import LayerProgress
from scow.engine.times import rfc3339
from scow.engine.transfer import Unpacking, unpack
from scow.errors import NotFound, ScowError, Unavailable
from scow.layers import compress_gzip, decompress
from scow.oci import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Platform, digest_of
from scow.ports import STORAGE
from scow.types import ContainerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from scow.content import ContentStore
    from scow.engine.pull_layers import Parts
    from scow.ports.storage import StorageDriver

    ProgressSink = Callable[[dict[str, Any]], None]

_CHUNK_BYTES = 1 << 20
_WAITING = 16  # pieces of the request that wait for the compressor


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in the content store, gzipped."""

    blob: Descriptor
    diff_id: str


async def import_tar(
    parts: Parts,
    stream: AsyncIterator[bytes],
    tags: list[str],
    changes: list[str],
    message: str,
    platform: Platform,
    progress: ProgressSink,
) -> Image:
    """The image of the tar in *stream* (plain, gzip or zstd) is stored with *tags*."""
    config = apply_changes(ContainerConfig(), changes)
    progress({"status": "Importing"})
    layer = await _receive(parts.content, stream)
    with parts.leases.hold([layer.blob.digest, layer.diff_id]):
        size = await _unpack(parts, layer, progress)
        image = await asyncio.to_thread(_make_image, parts.content, layer, size, config, message, platform)
        async with parts.leases.settling:
            return await parts.store.put(image, tags=tags)


async def _receive(content: ContentStore, stream: AsyncIterator[bytes]) -> Layer:
    """Feeds *stream* to a thread that inflates, hashes, deflates and stores it."""
    pieces = _Pieces()
    storing = asyncio.ensure_future(asyncio.to_thread(_store, content, pieces))
    try:
        async for data in stream:
            while not pieces.offer(data) and not storing.done():
                await asyncio.sleep(0.005)
            if storing.done():
                break  # it failed: there is no end before `end`
    except BaseException as error:
        pieces.end(error)
        await asyncio.gather(storing, return_exceptions=True)
        raise
    pieces.end(None)
    return await storing


def _store(content: ContentStore, pieces: _Pieces) -> Layer:
    hasher = hashlib.sha256()

    def uncompressed() -> Iterator[bytes]:
        tar = decompress(cast("BinaryIO", pieces))
        while data := tar.read(_CHUNK_BYTES):
            hasher.update(data)
            yield data

    try:
        digest, size = content.put_stream(compress_gzip(uncompressed()))
    except OSError as error:
        if isinstance(error, ScowError):
            raise
        raise Unavailable(f"cannot store the imported layer: {error}") from error
    return Layer(Descriptor(OCI_LAYER_GZIP, digest, size), "sha256:" + hasher.hexdigest())


async def _unpack(parts: Parts, layer: Layer, progress: ProgressSink) -> int:
    line = LayerProgress(progress, layer.blob.digest)

    def apply(storage: StorageDriver) -> int:
        try:
            return storage.usage(layer.diff_id).size_bytes
        except NotFound:
            unpacking = Unpacking(layer.blob, layer.diff_id, None, layer.diff_id, line, parts.layer_limit_bytes)
            return unpack(storage, parts.content, unpacking, None, threading.Event())

    async with parts.unpacking.setdefault(layer.diff_id, asyncio.Lock()):
        try:
            return await parts.drivers.call(STORAGE, "", "apply", apply, deadline_s=None)
        except ScowError:
            await parts.collector.remove_unneeded([layer.blob.digest])
            raise


def _make_image(
    content: ContentStore, layer: Layer, size: int, config: ContainerConfig, message: str, platform: Platform
) -> Image:
    now = time.time_ns()
    document: dict[str, Any] = {
        "created": rfc3339(now),
        "architecture": platform.architecture,
        "os": platform.os,
        "config": image_config(config),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": rfc3339(now), "comment": message or "Imported from -"}],
    }
    if platform.variant:
        document["variant"] = platform.variant
    raw = json.dumps(document, separators=(",", ":")).encode()
    config_blob = Descriptor(OCI_CONFIG, digest_of(raw), len(raw))
    manifest = manifests.make_manifest(config_blob, [layer.blob])
    content.put(raw)
    return Image(
        id=config_blob.digest,
        manifest_digest=content.put(manifest),
        created_ns=now,
        pulled_ns=now,
        config=manifests.parse_config(raw, [layer.blob]),
        diff_ids=(layer.diff_id,),
        chain_id=layer.diff_id,
        size_bytes=size,
        layer_sizes=(size,),
    )


def image_config(config: ContainerConfig) -> dict[str, Any]:
    """The members of *config* that an image config has (image-spec config.md) and that say something."""
    found = {
        "User": config.user,
        "ExposedPorts": config.exposed_ports,
        "Env": config.env,
        "Entrypoint": config.entrypoint,
        "Cmd": config.cmd,
        "Volumes": config.volumes,
        "WorkingDir": config.working_dir,
        "Labels": config.labels,
        "StopSignal": config.stop_signal,
        "OnBuild": config.on_build,
    }
    return {name: value for name, value in found.items() if value}


class _Pieces:
    """A bounded pipe from the event loop to a thread that reads it as a stream."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_WAITING)
        self._rest = b""
        self._ended = False

    def offer(self, data: bytes) -> bool:
        """*data* is in the pipe; False where it is full."""
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            return False
        return True

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; the reader gets *error*."""
        threading.Thread(target=self._queue.put, args=(error,), daemon=True).start()

    def read(self, size: int = -1) -> bytes:
        """As a raw stream."""
        while not self._rest and not self._ended:
            piece = self._queue.get()
            if isinstance(piece, bytes):
                self._rest = piece
                continue
            self._ended = True
            if piece is not None:
                raise Unavailable(f"the client ended the import: {type(piece).__name__}: {piece}")
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data

    def close(self) -> None:
        """Nothing to do."""
