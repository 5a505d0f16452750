"""Makes an image of one tar: ``docker import``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from scow.compression import compression_of
from scow.engine import manifests
from scow.engine.archive_members import HEAD_BYTES, chunks_of, inflate_rare
from scow.engine.image_changes import apply_changes, image_config
from scow.engine.model import Image
from scow.engine.pipes import read_on_thread
from scow.engine.progress import LayerProgress
from scow.engine.times import rfc3339
from scow.engine.unpack_stored import StoredLayers, diff_id_of
from scow.errors import ScowError, Unavailable
from scow.oci import LAYERS, OCI_CONFIG, Descriptor, Platform, digest_of
from scow.types import ContainerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scow.content import ContentStore, Staged
    from scow.engine.pull_layers import Parts

    ProgressSink = Callable[[dict[str, Any]], None]


async def import_tar(
    parts: Parts,
    stream: AsyncIterator[bytes],
    tags: list[str],
    changes: list[str],
    message: str,
    platform: Platform,
    progress: ProgressSink,
) -> Image:
    """The image of the tar in *stream* is stored with *tags*; its layer is kept as it came (plain, gzip or zstd), or
    plain where no layer may be compressed like that (bzip2, xz)."""
    config = apply_changes(ContainerConfig(), changes)
    progress({"status": "Importing"})
    staged = await read_on_thread(stream, lambda source: _stage(parts.content, source), "scow-import")
    layers = StoredLayers(parts)
    stored: list[str] = []
    try:
        layer, diff_id = await asyncio.to_thread(_look_at, staged, parts.layer_limit_bytes)
        with parts.leases.hold([layer.digest, diff_id]):
            await parts.leases.settled()
            stored.append(layer.digest)
            await asyncio.to_thread(staged.publish)
            (size,) = await layers.unpack([layer], [diff_id], None, [LayerProgress(progress, layer.digest)])
            raw = _document(diff_id, config, message, platform)
            manifest = manifests.make_manifest(Descriptor(OCI_CONFIG, digest_of(raw), len(raw)), [layer])
            with parts.leases.hold([digest_of(raw), digest_of(manifest)]):
                await parts.leases.settled()
                stored += [await asyncio.to_thread(parts.content.put, data) for data in (raw, manifest)]
                image = _image(raw, manifest, layer, diff_id, size)
                async with parts.leases.settling:
                    return await parts.store.put(image, tags=tags)
    except BaseException:
        await layers.undo()
        await parts.collector.remove_unneeded(stored)
        raise
    finally:
        staged.discard()


def _stage(content: ContentStore, source: BinaryIO) -> Staged:
    try:
        return content.stage(chunks_of(inflate_rare(source)))
    except OSError as error:
        if isinstance(error, ScowError):
            raise
        raise Unavailable(f"cannot store the imported layer: {error}") from error


def _look_at(staged: Staged, limit_bytes: int) -> tuple[Descriptor, str]:
    """The layer in *staged*, and its diff ID."""
    with staged.path.open("rb", buffering=0) as file:
        kind = compression_of(file.read(HEAD_BYTES))
        file.seek(0)
        diff_id = diff_id_of(file, limit_bytes) if kind else staged.digest
    return Descriptor(LAYERS[kind], staged.digest, staged.size_bytes), diff_id


def _document(diff_id: str, config: ContainerConfig, message: str, platform: Platform) -> bytes:
    """The image config."""
    now = rfc3339(time.time_ns())
    document: dict[str, Any] = {
        "created": now,
        "architecture": platform.architecture,
        "variant": platform.variant,
        "os": platform.os,
        "config": image_config(config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": now, "comment": message or "Imported from -"}],
    }
    return manifests.make_config(document)


def _image(raw: bytes, manifest: bytes, layer: Descriptor, diff_id: str, size: int) -> Image:
    config = manifests.parse_config(raw, [layer])
    return Image(
        id=digest_of(raw),
        manifest_digest=digest_of(manifest),
        created_ns=manifests.created_ns(config),
        pulled_ns=time.time_ns(),
        config=config,
        diff_ids=(diff_id,),
        chain_id=diff_id,
        size_bytes=size,
        layer_sizes=(size,),
    )
