"""The images that the engine knows: in memory for look-ups, changed by one commit at a time."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import msgspec

from scow.engine.image_layers import ImageLayers
from scow.engine.model import Image
from scow.errors import InvalidArgument, NotFound
from scow.reference import Reference
from scow.state import Delete, Put

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow.state import State

KIND = "image"
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")

replace = msgspec.structs.replace


class ImageStore:
    """Belongs to one event loop. A tag names one image only: whoever gets it takes it from the other. *layers* counts
    who has which."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.layers = ImageLayers()
        self._images: dict[str, Image] = {}
        self._children: dict[str, set[str]] = {}  # ids by the id of the parent
        self._by_name: dict[str, str] = {}  # tag or repository digest in full → image id
        self._changing = asyncio.Lock()

    def load(self) -> None:
        """What the state has. Blocks: for the start."""
        for record in self._state.load(KIND):
            self._remember(msgspec.json.decode(record.data, type=Image))

    def all(self) -> list[Image]:
        """Every image, newest first."""
        return sorted(self._images.values(), key=lambda image: (image.created_ns, image.id), reverse=True)

    def children(self, id: str) -> list[Image]:
        """The images that were committed from this one, or built on it."""
        return [self._images[child] for child in sorted(self._children.get(id, ()))]

    def by_id(self, id: str) -> Image | None:
        """The image with exactly this id."""
        return self._images.get(id)

    def by_name(self, name: str) -> Image | None:
        """The image with this tag or repository digest, in full."""
        return self._images.get(self._by_name.get(name, ""))

    def get(self, ref: str) -> Image:
        """By id, tag, repository digest or unique prefix of an id, in Docker's order. Raises `NotFound`."""
        found = self.find(ref)
        if found is None:
            raise NotFound(f"No such image: {shown(ref)}")
        return found

    def find(self, ref: str) -> Image | None:
        """As `get`, None where there is none or the prefix is ambiguous."""
        whole = _ID.fullmatch(ref)
        if whole:
            return self._images.get("sha256:" + whole[1])
        try:
            name = Reference.parse(ref)
        except InvalidArgument:
            name = None
        if name is not None:
            found = self.by_name(str(name.with_digest(name.digest)) if name.digest else str(name))
            if found is not None:
                return found
        prefix = _ID_PREFIX.fullmatch(ref)
        if not prefix:
            return None
        matching = [image for id, image in self._images.items() if id.startswith("sha256:" + prefix[1])]
        return matching[0] if len(matching) == 1 else None

    async def name(self, id: str, *, tags: Iterable[str] = (), digests: Iterable[str] = ()) -> Image:
        """The image *id* has *tags* and *digests*, too. Raises `NotFound` where it was removed meanwhile."""
        return await self.put(None, id=id, tags=tags, digests=digests)

    async def put(
        self, image: Image | None, *, id: str = "", tags: Iterable[str] = (), digests: Iterable[str] = ()
    ) -> Image:
        """*image* (None: the one called *id*) is stored, and has *tags* and *digests* besides those that its record
        had; answers it as stored."""
        async with self._changing:
            image = image or self._images.get(id)
            if image is None:
                raise NotFound(f"No such image: {id}")
            before = self._images.get(image.id)
            kept_tags, kept_digests = (before.tags, before.digests) if before else ((), ())
            parent = image.parent or (before.parent if before else "")
            origins = _merged(before.origins if before else (), image.origins)
            names = {"tags": _merged(kept_tags, tags), "digests": _merged(kept_digests, digests)}
            image = replace(image, **names, parent=parent, origins=origins)
            changed = [*self._robbed(image), image]
            await self._state.commit(*(_put(each) for each in changed))
            for each in changed:
                self._remember(each)
            return image

    async def untag(self, image: Image, names: Iterable[str]) -> Image:
        """*image* has none of *names* (tags and repository digests) any more."""
        async with self._changing:
            gone = set(names)
            current = self._images.get(image.id)
            if current is None:
                raise NotFound(f"No such image: {image.id}")
            image = replace(
                current,
                tags=tuple(tag for tag in current.tags if tag not in gone),
                digests=tuple(digest for digest in current.digests if digest not in gone),
            )
            await self._state.commit(_put(image))
            self._remember(image)
            return image

    async def delete(self, image: Image) -> None:
        """The record is gone."""
        async with self._changing:
            await self._state.commit(Delete(KIND, image.id))
            self._forget(image.id)

    def _robbed(self, image: Image) -> list[Image]:
        """The other images that have a name of *image*, without it."""
        names = {*image.tags, *image.digests}
        holders = {self._by_name[name] for name in names if name in self._by_name} - {image.id}
        return [
            replace(
                self._images[id],
                tags=tuple(tag for tag in self._images[id].tags if tag not in names),
                digests=tuple(digest for digest in self._images[id].digests if digest not in names),
            )
            for id in holders
        ]

    def _remember(self, image: Image) -> None:
        self._forget(image.id)
        self._images[image.id] = image
        self.layers.add(image)
        if image.parent:
            self._children.setdefault(image.parent, set()).add(image.id)
        for name in (*image.tags, *image.digests):
            self._by_name[name] = image.id

    def _forget(self, id: str) -> None:
        before = self._images.pop(id, None)
        self.layers.discard(id)
        if before is not None and before.parent:
            self._children[before.parent].discard(id)
        for name in (*before.tags, *before.digests) if before else ():
            if self._by_name.get(name) == id:
                del self._by_name[name]


def shown(ref: str) -> str:
    """*ref* as Docker's messages have it: a name with its tag, anything else as it came."""
    try:
        return Reference.parse(ref).familiar
    except InvalidArgument:
        return ref


def _merged(kept: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*kept, *new]))


def _put(image: Image) -> Put:
    return Put(KIND, image.id, None, msgspec.json.encode(image))
