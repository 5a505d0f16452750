"""An engine for tests of disk usage and prune: images as in image_kit, containers, volumes and networks in lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scow.config import Config
from scow.engine.disk_usage import DiskUsage
from scow.engine.drivers import Drivers
from scow.engine.measures import Measures
from scow.engine.model import Container, ContainerState, Image, MountPoint, NetworkRecord, VolumeRecord
from scow.engine.prune import Filters, Kind, Outcome, Plan, Prune
from scow.errors import Conflict, NotFound
from scow.ports.network import Network
from scow.reference import Reference
from scow.testing.fakes_registry import FileTree, make_image
from scow.types import ContainerConfig, CreateRequest, HostConfig
from tests.unit.image_kit import Kit, opened

BASE: FileTree = {"bin/": None, "bin/sh": "#!", "data": "x" * 5000}


class Containers:
    """Those of the kit."""

    def __init__(self, kit: Kit, drivers: Drivers) -> None:
        self._kit, self._drivers = kit, drivers

    def records(self) -> list[Container]:
        return list(self._kit.users)

    def get(self, ref: str) -> Container:
        for record in self._kit.users:
            if record.id == ref:
                return record
        raise NotFound(f"No such container: {ref}")

    async def remove(self, ref: str) -> None:
        record = self.get(ref)
        self._kit.storage.remove(record.id)
        self._kit.users.remove(record)


class Volumes:
    """Folders below the data root."""

    def __init__(self, root: Path, kit: Kit) -> None:
        self._root, self._kit = root, kit
        self.records: dict[str, VolumeRecord] = {}
        self.changed: dict[str, int] = {}

    def add(self, name: str, size: int, **fields: Any) -> None:
        folder = self._root / "volumes" / name
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(b"v" * size)
        self.records[name] = VolumeRecord(
            name=name, driver="local", created_ns=fields.pop("created_ns", 7), mountpoint=str(folder), **fields
        )

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[VolumeRecord]:
        return list(self.records.values())

    def get(self, name: str) -> VolumeRecord:
        if name not in self.records:
            raise NotFound(f"get {name}: no such volume")
        return self.records[name]

    def changed_ns(self, name: str) -> int:
        return self.changed.get(name, 1)

    async def remove(self, name: str) -> None:
        if any(point.name == name for user in self._kit.users for point in user.mounts):
            raise Conflict(f"remove {name}: volume is in use")
        del self.records[name]


class Networks:
    """Networks by id."""

    def __init__(self) -> None:
        self.records: dict[str, NetworkRecord] = {}

    def add(self, name: str) -> None:
        self.records[name] = NetworkRecord(network=Network(name, name, "bridge"), created_ns=5)

    def list(self, filters: Mapping[str, Sequence[str]]) -> list[NetworkRecord]:
        assert filters == {"type": ["custom"]}
        return list(self.records.values())

    async def remove(self, ref: str) -> None:
        del self.records[ref]


class Engine:
    """What `DiskUsage` and `Prune` use of an engine."""

    def __init__(self, root: Path, kit: Kit) -> None:
        self.kit = kit
        self.config = Config(data_root=root)
        self.images, self.events = kit.images, kit.events
        self.drivers = Drivers(kit.host)  # type: ignore[arg-type]
        self.containers, self.volumes, self.networks = Containers(kit, self.drivers), Volumes(root, kit), Networks()
        this: Any = self
        self.measures = Measures(kit.state)
        self.disk_usage, self.prune = DiskUsage(this, self.measures), Prune(this)

    async def brought(self, name: str, *layers: FileTree, **options: Any) -> Image:
        """The image *name* of a shared base and *layers* was pulled."""
        ref = Reference.parse(name)
        own = layers or ({ref.repository: ref.tag},)
        self.kit.registry.add(ref.repository, ref.tag, make_image(BASE, *own, **options))
        return await self.kit.pull(name)

    async def built_on(self, parent: Image, name: str = "") -> Image:
        """An image whose parent is *parent*, with the same layers."""
        id = "sha256:" + f"{len(self.images.list(all=True)):064x}"
        tags = [str(Reference.parse(name))] if name else []
        image = msgspec.structs.replace(parent, id=id, parent=parent.id, tags=(), digests=())
        return await self.images._store.put(image, tags=tags)

    def container(self, image: Image, status: Any = "exited", id: str = "c" * 64, **fields: Any) -> Container:
        """A container of *image*; its writable root holds 100 bytes."""
        record = Container(
            id=id,
            name=f"c{id[0]}",
            created_ns=fields.pop("created_ns", 1),
            request=CreateRequest(),
            config=ContainerConfig(labels=fields.pop("labels", {})),
            host_config=HostConfig(),
            image_id=image.id,
            image_ref=image.id,
            chain_id=image.chain_id,
            path="/bin/sh",
            args=(),
            platform="linux",
            storage_driver="overlay",
            runtime="native",
            state=ContainerState(status=status, finished_ns=fields.pop("finished_ns", 0)),
            mounts=tuple(MountPoint(type="volume", destination="/v", name=name) for name in fields.pop("volumes", ())),
        )
        self.kit.users.append(record)
        self.kit.storage.prepare(id, image.chain_id)
        self.kit.storage.write(id, "written", b"w" * 100)
        return record

    async def plan(self, *kinds: Kind, **filters: list[str]) -> Plan:
        """The plan for *kinds*, all with *filters* that they have."""
        wanted: dict[Kind, Filters] = {kind: dict(filters) for kind in kinds}
        return await self.prune.plan(wanted)

    async def pruned(self, *kinds: Kind, **filters: list[str]) -> Outcome:
        """What a plan and its execution did."""
        return await self.prune.apply((await self.plan(*kinds, **filters)).items)


def run(root: Path, test: Callable[[Engine], Any]) -> None:
    """Runs the coroutine function *test* with an engine."""

    async def body() -> None:
        async with opened(root) as kit:
            engine = Engine(root, kit)
            try:
                await test(engine)
            finally:
                await engine.measures.close()

    asyncio.run(body())
