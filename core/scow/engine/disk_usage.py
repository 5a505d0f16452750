"""What uses the disk: every byte below the data root belongs to somebody.

Layers and blobs never change, so their sizes are recorded; writable roots and volumes are measured by `Measures`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scow.engine.measures import UNKNOWN, Measure, Measures, Walk
from scow.errors import ScowError
from scow.linux.trees import tree_usage
from scow.ports import STORAGE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from scow.engine.engine import Engine
    from scow.engine.model import Container, Image, VolumeRecord
    from scow.engine.orphans import Orphan

log = logging.getLogger(__name__)

DRIVERS = "drivers"
_WALK_S = 3600.0


class ImageSpace(NamedTuple):
    """An image: *layers* unpacked, of which *shared* are other images' as well; *blobs* as they came; *users* counts
    containers. All in bytes."""

    image: Image
    layers: int
    shared: int
    blobs: int
    users: int


class ContainerSpace(NamedTuple):
    """A container: its writable root (-1: not measured yet, or at *measured_ns*), and its log and files, in bytes."""

    container: Container
    root: int
    measured_ns: int
    files: int


class VolumeSpace(NamedTuple):
    """A volume: its content in bytes (-1: not measured yet, or not on this disk), and how many containers have it."""

    volume: VolumeRecord
    size: int
    measured_ns: int
    users: int


@dataclass(frozen=True, slots=True)
class Objects:
    """What Docker knows of. *layers_bytes* counts every layer of an image once, *layers_used* those of images that a
    container was made from."""

    images: list[ImageSpace]
    containers: list[ContainerSpace]
    volumes: list[VolumeSpace]
    layers_bytes: int
    layers_used: int


@dataclass(frozen=True, slots=True)
class Everything:
    """*objects*, and the rest: the *blobs* of the images with their bytes, and *blobs_used* of images in use;
    *orphans*, which nothing needs; *partial*, what was received of blobs, and what transfers hold; what *drivers* keep
    for themselves (-1: not measured yet), and the *engine*'s own records."""

    objects: Objects
    blobs: dict[str, int]
    blobs_used: dict[str, int]
    orphans: list[Orphan]
    partial: list[Orphan]
    drivers: int
    engine: int


class DiskUsage:
    """Answers for one engine."""

    def __init__(self, engine: Engine, measures: Measures) -> None:
        self._engine, self._measures = engine, measures

    async def objects(self) -> Objects:
        """Images, containers and volumes with their sizes."""
        return self._objects(await self._measure(), {}, {})

    async def everything(self) -> Everything:
        """All of it."""
        measured = await self._measure()
        images, root = self._engine.images, self._engine.config.data_root
        records = images.list(all=True)
        containers = self._engine.containers.records()
        blobs, present = await asyncio.to_thread(self._blobs, records)
        files = await asyncio.to_thread(_container_files, root, [record.id for record in containers])
        orphans, partial_ = await images.orphans.find(
            {digest for found in blobs.values() for digest in found}, {record.id for record in containers}
        )
        used = {record.image_id for record in containers}
        there = {digest: size for found in blobs.values() for digest, size in found.items() if digest in present}
        needed = {digest for id, found in blobs.items() if id in used for digest in found}
        return Everything(
            objects=self._objects(measured, {id: sum(found.values()) for id, found in blobs.items()}, files),
            blobs=there,
            blobs_used={digest: size for digest, size in there.items() if digest in needed},
            orphans=orphans,
            partial=partial_,
            drivers=measured[DRIVERS].size_bytes if DRIVERS in measured else UNKNOWN,
            engine=await asyncio.to_thread(_engine_files, root),
        )

    def _objects(self, measured: dict[str, Measure], blobs: dict[str, int], files: dict[str, int]) -> Objects:
        engine = self._engine
        containers = engine.containers.records()
        users = Counter(container.image_id for container in containers)
        images = [
            ImageSpace(
                image,
                image.size_bytes,
                engine.images.layers.shared_bytes(image.id),
                blobs.get(image.id, 0),
                users[image.id],
            )
            for image in engine.images.list(all=True)
        ]
        unused = [space.image.id for space in images if not space.users]
        total = engine.images.layers.total_bytes
        return Objects(
            images=images,
            containers=[
                ContainerSpace(record, *_size(measured.get(f"container {record.id}")), files.get(record.id, 0))
                for record in sorted(containers, key=lambda record: record.created_ns, reverse=True)
            ],
            volumes=self._volume_spaces(measured, containers),
            layers_bytes=total,
            layers_used=total - sum(layer.size_bytes for layer in engine.images.layers.freed_by(unused)),
        )

    def _volume_spaces(self, measured: dict[str, Measure], containers: list[Container]) -> list[VolumeSpace]:
        users = Counter(name for container in containers for name in {point.name for point in container.mounts})
        return [
            VolumeSpace(record, *_size(measured.get(f"volume {record.name}")), users[record.name])
            for record in self._engine.volumes.list()
        ]

    def _blobs(self, images: Iterable[Image]) -> tuple[dict[str, dict[str, int]], set[str]]:
        """Digests and bytes of the blobs of each image, and which blobs the content store has."""
        found: dict[str, dict[str, int]] = {}
        for image in images:
            try:
                found[image.id] = dict(self._engine.images.blobs.of(image))
            except (ScowError, OSError) as error:
                log.warning("blobs of image %s cannot be counted: %s", image.id, error)
        return found, set(self._engine.images.content.list())

    async def blobs_of(self, image_ids: Collection[str]) -> dict[str, int]:
        """Digest and bytes of the blobs that only *image_ids* have, and that are there."""
        blobs, present = await asyncio.to_thread(self._blobs, self._engine.images.list(all=True))
        others = {digest for id, found in blobs.items() if id not in image_ids for digest in found}
        mine = {digest: size for id in image_ids for digest, size in blobs.get(id, {}).items()}
        return {digest: size for digest, size in mine.items() if digest in present and digest not in others}

    async def present(self, digests: Collection[str]) -> set[str]:
        """Those of *digests* that the content store has."""
        return set(await asyncio.to_thread(lambda: set(self._engine.images.content.list()).intersection(digests)))

    # ------------------------------------------------------------------ measuring

    async def container_sizes(self, records: Iterable[Container]) -> dict[str, int]:
        """Bytes of the writable roots of *records*, by id; of those that were measured."""
        measured = await self._measure()
        keys = {record.id: f"container {record.id}" for record in records}
        return {id: measured[key].size_bytes for id, key in keys.items() if key in measured}

    async def _measure(self) -> dict[str, Measure]:
        engine = self._engine
        containers = engine.containers.records()
        walks = {f"container {record.id}": self._container_walk(record) for record in containers}
        changing = {point.name for record in containers if _runs(record) for point in record.mounts}
        for record in engine.volumes.list():
            if record.mountpoint and engine.config.data_root in _parents(record.mountpoint):
                stamp = 0 if record.name in changing else engine.volumes.changed_ns(record.name)
                walks[f"volume {record.name}"] = Walk(stamp, partial(_tree_bytes, record.mountpoint))
        walks[DRIVERS] = Walk(0, partial(_tree_bytes, str(engine.config.data_root / DRIVERS)))
        return await self._measures.sizes(walks)

    def _container_walk(self, record: Container) -> Walk:
        async def measure() -> int:
            return await self._engine.drivers.call(
                STORAGE,
                record.storage_driver,
                "usage",
                lambda storage: int(storage.usage(record.id).size_bytes),
                deadline_s=_WALK_S,
            )

        return Walk(0 if _runs(record) else record.state.finished_ns or record.created_ns, measure)


def _runs(record: Container) -> bool:
    return record.state.running or record.state.status == "restarting"


def _size(measure: Measure | None) -> tuple[int, int]:
    return (UNKNOWN, 0) if measure is None else (measure.size_bytes, measure.measured_ns)


async def _tree_bytes(path: str) -> int:
    size, _ = await asyncio.to_thread(tree_usage, path)
    return size


def _parents(path: str) -> Sequence[Path]:
    return Path(path).parents


def _container_files(root: Path, ids: Iterable[str]) -> dict[str, int]:
    """Bytes of the folder of each container; its root is no part of it."""
    return {id: tree_usage(str(root / "containers" / id))[0] for id in ids}


def _engine_files(root: Path) -> int:
    """Bytes of the files that are nobody's but the engine's: its state, and the marks of the content store."""
    total = 0
    for folder in (root, root / "content"):
        with os.scandir(folder) as entries:
            total += sum(entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False))
    return total
