"""Removes what nobody uses, in two steps: a plan that can be shown, and its execution, which removes nothing else.

What came into use between the two, or is another object of the same name by then, stays.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from scow.engine.filters import check_filters, match_labels
from scow.engine.image_filters import parse_flag
from scow.engine.times import parse_time_ns
from scow.engine.volumes import is_anonymous
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from scow.engine.engine import Engine
    from scow.engine.model import Container, Image

log = logging.getLogger(__name__)

Kind = Literal["container", "network", "volume", "image", "orphan"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # in the order of removal: containers hold the others
FILTERS: dict[Kind, tuple[str, ...]] = {
    "container": ("label", "label!", "until"),
    "network": ("label", "label!", "until"),
    "volume": ("label", "label!", "all"),
    "image": ("label", "label!", "until", "dangling"),
    "orphan": ("label", "label!", "until"),
}
Filters = dict[str, list[str]]


class Item(msgspec.Struct, frozen=True, rename="pascal"):
    """An object to remove. *names* are an image's tags and digests in full; *created_ns* tells an object from a later
    one of the same name; *size_bytes* is what its removal alone gives back, -1 where that is not known."""

    kind: Kind
    id: str
    names: tuple[str, ...] = ()
    created_ns: int = 0
    size_bytes: int = msgspec.field(default=-1, name="Size")


class Plan(msgspec.Struct, frozen=True, rename="pascal"):
    """What would be removed, and the bytes that gives back altogether."""

    items: list[Item]
    reclaimable: int


class Kept(msgspec.Struct, frozen=True, rename="pascal"):
    """An object of the plan that was not removed, and why."""

    kind: Kind
    id: str
    reason: str


class Outcome(msgspec.Struct, rename="pascal"):
    """What was removed (*images* as Docker tells it), and the bytes that gave back."""

    removed: list[Item] = []
    images: list[dict[str, str]] = []
    kept: list[Kept] = []
    space_reclaimed: int = 0


class Prune:
    """Plans and executes for one engine, one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running = False

    # ------------------------------------------------------------------ planning

    async def plan(self, filters: Mapping[Kind, Filters]) -> Plan:
        """What of each kind in *filters* nobody uses, as if what comes before it in `KINDS` were gone already.

        Of images those without a tag, or with ``dangling=false`` all that no container has; of volumes the anonymous
        ones, or with ``all=true`` all. Raises `InvalidArgument` for a filter that the kind does not have.
        """
        for kind, wanted in filters.items():
            _check(kind, wanted)
        items: list[Item] = []
        if "container" in filters:
            items += await self._containers(filters["container"])
        gone = {item.id for item in items}
        left = [record for record in self._engine.containers.records() if record.id not in gone]
        if "network" in filters:
            items += self._networks(filters["network"], left)
        if "volume" in filters:
            items += await self._volumes(filters["volume"], left)
        images = self._images(filters["image"], left) if "image" in filters else []
        orphans = await self._orphans(filters["orphan"]) if "orphan" in filters else []
        sizes = sum(max(item.size_bytes, 0) for item in [*items, *orphans])
        return Plan([*items, *images, *orphans], sizes + await self._freed_by([item.id for item in images]))

    async def _containers(self, filters: Filters) -> list[Item]:
        wanted = _test(filters)
        records = [
            record
            for record in self._engine.containers.records()
            if record.state.status in ("created", "exited", "dead") and wanted(record.config.labels, record.created_ns)
        ]
        sizes = await self._engine.disk_usage.container_sizes(records)
        return [
            Item("container", record.id, (record.name,), record.created_ns, sizes.get(record.id, -1))
            for record in sorted(records, key=lambda record: record.created_ns)
        ]

    def _networks(self, filters: Filters, containers: Iterable[Container]) -> list[Item]:
        wanted = _test(filters)
        used = {endpoint.network_id for record in containers for endpoint in record.endpoints.values()}
        return [
            Item("network", record.network.id, (record.network.name,), record.created_ns, 0)
            for record in self._engine.networks.list({"type": ["custom"]})
            if record.network.id not in used and wanted(record.network.labels, record.created_ns)
        ]

    async def _volumes(self, filters: Filters, containers: Iterable[Container]) -> list[Item]:
        wanted = _test(filters)
        named = bool(filters.get("all")) and parse_flag("all", filters["all"])
        used = {point.name for record in containers for point in record.mounts if point.name}
        sizes = {space.volume.name: space.size for space in (await self._engine.disk_usage.objects()).volumes}
        return [
            Item("volume", record.name, (), record.created_ns, sizes.get(record.name, -1))
            for record in self._engine.volumes.list()
            if record.name not in used and (named or is_anonymous(record)) and wanted(record.labels, record.created_ns)
        ]

    def _images(self, filters: Filters, containers: Iterable[Container]) -> list[Item]:
        """Children before their parents."""
        images = self._engine.images
        wanted, used = _test(filters), {record.image_id for record in containers}
        dangling = not filters.get("dangling") or parse_flag("dangling", filters["dangling"])
        found: dict[str, Image] = {}
        candidates = [image for image in images.list(all=True) if image.id not in used]
        more = True
        while more:
            more = False
            for image in candidates:
                if image.id in found or (dangling and image.tags):
                    continue
                children = images.children(image.id)
                if any(child.id not in found for child in children):
                    continue
                step = children and not image.tags and not image.digests  # of a build that goes
                if step or wanted(image.config.config.labels, image.created_ns):
                    found[image.id] = image
                    more = True
        layers = images.layers
        return [
            Item(
                "image",
                image.id,
                (*image.tags, *image.digests),
                image.created_ns,
                image.size_bytes - layers.shared_bytes(image.id),
            )
            for image in found.values()
        ]

    async def _orphans(self, filters: Filters) -> list[Item]:
        """Left-overs have no label and no time: with a filter none of them is meant."""
        if any(filters.values()):
            return []
        found = await self._engine.disk_usage.everything()
        left = [*found.orphans, *(part for part in found.partial if not part.held)]
        return [Item("orphan", orphan.id, (), 0, orphan.size_bytes) for orphan in left]

    async def _freed_by(self, image_ids: Collection[str]) -> int:
        """Bytes of the layers and blobs that no image has when all of *image_ids* are gone."""
        layers = sum(layer.size_bytes for layer in self._engine.images.layers.freed_by(image_ids))
        return layers + sum((await self._engine.disk_usage.blobs_of(image_ids)).values())

    # ------------------------------------------------------------------ executing

    async def apply(self, items: Sequence[Item]) -> Outcome:
        """Those of *items* that are still the same and still unused are removed. Raises `Conflict` while another
        prune runs."""
        if self._running:
            raise Conflict("a prune operation is already running")
        self._running = True
        try:
            return await self._apply(items)
        finally:
            self._running = False

    async def _apply(self, items: Sequence[Item]) -> Outcome:
        outcome = Outcome()
        for kind in KINDS:
            mine = [item for item in items if item.kind == kind]
            if not mine:
                continue
            before = outcome.space_reclaimed
            if kind == "orphan":
                await self._remove_orphans(mine, outcome)
            elif kind == "image":
                await self._remove_images(mine, outcome)
            else:
                await self._remove_each(kind, mine, outcome)
            if kind != "orphan":
                reclaimed = str(outcome.space_reclaimed - before)
                await self._engine.events.emit(kind, "prune", "", {"reclaimed": reclaimed})
        return outcome

    async def _remove_each(self, kind: Kind, items: Iterable[Item], outcome: Outcome) -> None:
        remove = {"container": self._container, "network": self._network, "volume": self._volume}[kind]
        for item in items:
            try:
                await remove(item)
            except (Conflict, NotFound) as error:
                outcome.kept.append(Kept(kind, item.id, error.message))
                continue
            except ScowError as error:
                log.warning("%s %s is not pruned: %s", kind, item.id, error)
                outcome.kept.append(Kept(kind, item.id, error.message))
                continue
            outcome.removed.append(item)
            outcome.space_reclaimed += max(item.size_bytes, 0)

    async def _container(self, item: Item) -> None:
        record = self._engine.containers.get(item.id)
        if record.state.status not in ("created", "exited", "dead"):
            raise Conflict(f"container {record.name} is {record.state.status} by now")
        await self._engine.containers.remove(item.id)

    async def _network(self, item: Item) -> None:
        await self._engine.networks.remove(item.id)

    async def _volume(self, item: Item) -> None:
        if self._engine.volumes.get(item.id).created_ns != item.created_ns:
            raise Conflict(f"volume {item.id} was made anew")
        await self._engine.volumes.remove(item.id)

    async def _remove_images(self, items: Sequence[Item], outcome: Outcome) -> None:
        engine = self._engine
        layers = dict(engine.images.layers.freed_by([item.id for item in items]))
        blobs = await engine.disk_usage.blobs_of([item.id for item in items])
        for item in items:
            try:
                gone = await engine.images.discard(item.id, item.names)
            except ScowError as error:
                outcome.kept.append(Kept("image", item.id, error.message))
                continue
            outcome.images += gone
            outcome.removed.append(item)
            outcome.space_reclaimed += sum(layers.get(step.get("Deleted", ""), 0) for step in gone)
        left = await engine.disk_usage.present(blobs)
        outcome.space_reclaimed += sum(size for digest, size in blobs.items() if digest not in left)

    async def _remove_orphans(self, items: Sequence[Item], outcome: Outcome) -> None:
        gone = await self._engine.images.sweep(age_s=0, only={item.id for item in items})
        outcome.removed += [item for item in items if item.id in gone]
        outcome.kept += [
            Kept("orphan", item.id, "is needed by now, or nobody can tell") for item in items if item.id not in gone
        ]
        outcome.space_reclaimed += sum(item.size_bytes for item in items if item.id in gone)


def _check(kind: Kind, filters: Filters) -> None:
    check_filters(filters, FILTERS[kind])
    if len(filters.get("until", ())) > 1:
        raise InvalidArgument("more than one until filter specified")


def _test(filters: Filters) -> Callable[[Mapping[str, str], int], bool]:
    """Whether labels and time of creation (ns) pass ``label``, ``label!`` and ``until``."""
    limit = parse_time_ns(filters["until"][0]) if filters.get("until") else None
    unlike = filters.get("label!", [])

    def test(labels: Mapping[str, str], created_ns: int) -> bool:
        if limit is not None and created_ns >= limit:
            return False
        return match_labels(filters.get("label", []), labels) and not any(
            match_labels([value], labels) for value in unlike
        )

    return test
