"""Images, networks, volumes and events in memory, for `scow.testing.fakes_engine`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from scow.engine.filters import check_filters
from scow.engine.image_layers import ImageLayers
from scow.engine.model import Event, Image, NetworkRecord, VolumeRecord
from scow.engine.names import find, new_id
from scow.errors import InvalidArgument, NotFound, ScowError, Unauthorized
from scow.event_filters import EventFilter
from scow.oci import digest_of
from scow.ports.network import Network, Subnet
from scow.reference import Reference
from scow.types import ContainerConfig, ImageConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from scow.engine.commit import Wish
    from scow.engine.model import Container
    from scow.oci import Platform
    from scow.ports.registry import Credentials

    ProgressSink = Callable[[dict[str, Any]], None]


class FakeImages:
    """Images by id. Pull finds ``busybox`` and ``alpine``; others are refused; ``broken`` fails half-way."""

    def __init__(self) -> None:
        self.records: dict[str, Image] = {}
        self.pulls: list[tuple[Reference, str, Credentials | None, bool]] = []
        self.pushes: list[tuple[Reference, Credentials | None, bool]] = []
        self.pull_cancelled = asyncio.Event()
        self.imported = b""
        self.layers = ImageLayers()
        self._add(Reference.parse("busybox"))

    def _add(self, ref: Reference) -> Image:
        config = ImageConfig(
            architecture="amd64", os="linux", created="2024-05-01T00:00:00Z", config=ContainerConfig(cmd=["cat"])
        )
        id = digest_of(str(ref).encode())
        image = Image(
            id=id,
            manifest_digest=id,
            created_ns=1_714_521_600_000_000_000,
            pulled_ns=time.time_ns(),
            config=config,
            diff_ids=(digest_of(b"layer"),),
            chain_id=digest_of(b"layer"),
            tags=(str(ref),),
            digests=(str(ref.with_digest(id)),),
            size_bytes=4_000_000,
        )
        self.records[id] = image
        self.layers.add(image)
        return image

    async def pull(
        self,
        ref: Reference,
        *,
        platform: str = "",
        credentials: Credentials | None = None,
        progress: ProgressSink,
        all_tags: bool = False,
    ) -> Image:
        self.pulls.append((ref, platform, credentials, all_tags))
        name = ref.familiar_name
        if name not in ("busybox", "alpine", "broken", "slow"):
            raise Unauthorized(
                f"pull access denied for {name}, repository does not exist or may require 'docker login'"
            )
        progress({"status": f"Pulling from library/{name}", "id": ref.tag})
        if name == "broken":
            await asyncio.sleep(0.05)
            raise ScowError("the layer ended early", hint="try again")
        if name == "slow":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.pull_cancelled.set()
                raise
        for current in range(0, 1001, 100):
            detail = {"current": current, "total": 1000}
            await asyncio.to_thread(progress, {"status": "Downloading", "progressDetail": detail, "id": "abc"})
        progress({"status": f"Status: Downloaded newer image for {ref.familiar}"})
        return self._add(ref)

    async def push(
        self,
        ref: Reference,
        *,
        credentials: Credentials | None = None,
        progress: ProgressSink,
        all_tags: bool = False,
        platform: str = "",
    ) -> None:
        self.pushes.append((ref, credentials, all_tags))
        progress({"status": f"The push refers to repository [{ref.name}]"})

    def get(self, ref: str, platform: str = "") -> Image:
        if ref in self.records:
            return self.records[ref]
        short = [image for id, image in self.records.items() if id.removeprefix("sha256:").startswith(ref)]
        if len(short) == 1 and len(ref) >= 4:
            return short[0]
        wanted = str(Reference.parse(ref))
        for image in self.records.values():
            if wanted in image.tags or wanted in image.digests:
                return image
        raise NotFound(f"No such image: {Reference.parse(ref).familiar}")

    async def tag(self, ref: str, target: Reference) -> None:
        image = self.get(ref)
        self.records[image.id] = replace(image, tags=(*image.tags, str(target)))

    async def remove(
        self, ref: str, *, force: bool = False, prune: bool = True, platform: str = ""
    ) -> list[dict[str, str]]:
        image = self.get(ref, platform)
        del self.records[image.id]
        return [*({"Untagged": Reference.parse(tag).familiar} for tag in image.tags), {"Deleted": image.id}]

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
        self.imported = b"".join([chunk async for chunk in stream])
        return self._add(target or Reference.parse("imported"))

    def history(self, ref: str, platform: str = "") -> list[dict[str, Any]]:
        image = self.get(ref)
        created = image.created_ns // 10**9
        return [{"Id": image.id, "Created": created, "CreatedBy": "/bin/sh", "Tags": None, "Size": 1, "Comment": ""}]

    def list(self, *, all: bool = False, filters: Mapping[str, Sequence[str]] | None = None) -> list[Image]:
        check_filters(filters or {}, ("dangling", "label", "reference", "before", "since", "until"))
        return list(self.records.values())


class FakeArchives:
    """Archives of text: a load takes anything but ``bad``, a save gives the names back."""

    def __init__(self, images: FakeImages) -> None:
        self._images = images
        self.loaded = b""
        self.platforms: list[Platform | None] = []
        self.wishes: list[tuple[str, Wish]] = []
        self.closed = 0

    async def load(self, stream: AsyncIterator[bytes], platform: Platform | None, progress: ProgressSink) -> None:
        self.loaded = b"".join([chunk async for chunk in stream])
        self.platforms.append(platform)
        if self.loaded == b"bad":
            raise InvalidArgument("not an archive of images")
        progress({"status": "Loading layer", "progressDetail": {"current": 1, "total": 2}, "id": "abc"})
        progress({"stream": "Loaded image: busybox:latest\n"})

    async def save(self, names: Sequence[str], platform: Platform | None) -> FakeFlow:
        self.platforms.append(platform)
        return FakeFlow(self, [self._images.get(name).id.encode() for name in names])

    async def export(self, ref: str) -> FakeFlow:
        if ref == "broken":
            return FakeFlow(self, [b"x", ScowError("the disk is gone")])
        return FakeFlow(self, [b"root of ", ref.encode()])

    async def commit(self, ref: str, wish: Wish) -> Image:
        self.wishes.append((ref, wish))
        return self._images.get("busybox")


class FakeFlow:
    """The chunks of an archive; an error among them is raised."""

    def __init__(self, archives: FakeArchives, chunks: list[bytes | ScowError]) -> None:
        self._archives, self._chunks = archives, chunks

    def __aiter__(self) -> FakeFlow:
        return self

    async def __anext__(self) -> bytes:
        if not self._chunks:
            raise StopAsyncIteration
        chunk = self._chunks.pop(0)
        if isinstance(chunk, ScowError):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        self._archives.closed += 1


class FakeNetworks:
    """The three networks that every engine has."""

    def __init__(self) -> None:
        self.containers_of: Callable[[], Sequence[Container]] = list
        self._records: dict[str, NetworkRecord] = {}
        for name in ("bridge", "host", "none"):
            subnets = (Subnet("172.29.0.0/16", "172.29.0.1"),) if name == "bridge" else ()
            network = Network(new_id(), name, name, subnets)
            self._records[network.id] = NetworkRecord(network=network, created_ns=time.time_ns(), builtin=True)

    def get(self, ref: str) -> NetworkRecord:
        try:
            return find(ref, "network", self._records, {r.network.name: key for key, r in self._records.items()})
        except NotFound:
            raise NotFound(f"network {ref} not found") from None

    def containers(self, network_id: str) -> list[Container]:
        return [c for c in self.containers_of() if network_id in c.endpoints and c.endpoints[network_id].attachment]

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[NetworkRecord]:
        names = check_filters(filters or {}, ("name", "id", "driver", "type", "label", "scope", "dangling")).get("name")
        return [record for record in self._records.values() if not names or record.network.name in names]


class FakeVolumes:
    """Volumes by name."""

    def __init__(self) -> None:
        self._records: dict[str, VolumeRecord] = {}

    async def create(
        self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]
    ) -> VolumeRecord:
        record = VolumeRecord(
            name=name or new_id(),
            driver=driver or "local",
            created_ns=time.time_ns(),
            mountpoint=f"/volumes/{name}",
            labels=dict(labels),
            options=dict(options),
            anonymous=not name,
        )
        return self._records.setdefault(record.name, record)

    def get(self, name: str) -> VolumeRecord:
        if name not in self._records:
            raise NotFound(f"get {name}: no such volume")
        return self._records[name]

    async def remove(self, name: str, force: bool = False) -> None:
        self.get(name)
        del self._records[name]

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[VolumeRecord]:
        check_filters(filters or {}, ("name", "driver", "label", "dangling"))
        return list(self._records.values())


class FakeEvents:
    """Events in a list; see `scow.events.Events`."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._more = asyncio.Event()
        self.subscribers = 0

    async def emit(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        self.tell(type, action, actor_id, attributes)

    def tell(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """`emit`, for callers that cannot wait."""
        event = Event(type=type, action=action, actor_id=actor_id, attributes=dict(attributes), time_ns=time.time_ns())
        self._events.append(event)
        self._more.set()
        self._more = asyncio.Event()

    def subscribe(
        self, since_ns: int | None, until_ns: int | None, filters: Mapping[str, Sequence[str]]
    ) -> AsyncIterator[Event]:
        start = 0 if since_ns is not None or until_ns is not None else len(self._events)
        return self._stream(start, since_ns or 0, until_ns, EventFilter(filters))

    async def _stream(
        self, index: int, since_ns: int, until_ns: int | None, wanted: EventFilter
    ) -> AsyncIterator[Event]:
        self.subscribers += 1
        try:
            while True:
                more = self._more
                while index < len(self._events):
                    event = self._events[index]
                    index += 1
                    if since_ns <= event.time_ns and wanted.matches(event):
                        yield event
                left_s = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if left_s is not None and left_s <= 0:
                    return
                try:
                    await asyncio.wait_for(more.wait(), left_s)
                except TimeoutError:
                    return
        finally:
            self.subscribers -= 1
