"""Removes images, by Docker's rules (moby daemon/images/image_delete.go)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scow.errors import Conflict, InvalidArgument
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from scow.engine.collect import Collector
    from scow.engine.image_blobs import ImageBlobs
    from scow.engine.image_store import ImageStore
    from scow.engine.model import Container, Image

Gone = list[dict[str, str]]  # Docker's ImageDeleteResponseItem: {"Untagged": name} or {"Deleted": id}


class Removal:
    """One removal at a time. *in_use* answers the containers of an image id; *emit* is told what happened."""

    def __init__(
        self,
        store: ImageStore,
        collector: Collector,
        blobs: ImageBlobs,
        in_use: Callable[[str], Sequence[Container]],
        emit: Callable[[str, Image, str], Awaitable[None]],
    ) -> None:
        self._store, self._collector, self._blobs, self._in_use, self._emit = store, collector, blobs, in_use, emit
        self._removing = asyncio.Lock()

    async def remove(self, ref: str, force: bool, prune: bool, find: Callable[[], Image]) -> Gone:
        """See `Images.remove`; *find* answers the image that *ref* means when it is this one's turn."""
        async with self._removing:
            image = find()
            gone = await self._remove(image, ref, force)
            return [*gone, *await self._delete_parents(image)] if prune else gone

    async def discard(self, id: str, names: Collection[str]) -> Gone:
        """See `Images.discard`."""
        async with self._removing:
            image = self._store.get(id)
            new = {*image.tags, *image.digests}.difference(names)
            if new:
                raise Conflict(f"image {_short(image)} is called {Reference.parse(min(new)).familiar} by now")
            check_delete(image, self._in_use(id), self._store.children(id), force=False, named=True)
            return [*await self._untag(image, [*image.tags, *image.digests]), *await self._delete(image)]

    async def _remove(self, image: Image, ref: str, force: bool) -> Gone:
        users, children = self._in_use(image.id), self._store.children(image.id)
        name = named_by(image, ref)
        if name is None:
            check_delete(image, users, children, force)
            return [*await self._untag(image, [*image.tags, *image.digests]), *await self._delete(image)]
        if not force:
            check_untag(image, ref, users)
        gone = await self._untag(image, names_to_untag(image, name))
        left = self._store.get(image.id)
        if left.tags or left.digests:
            return gone
        try:
            check_delete(left, users, children, force)
        except Conflict:
            return gone  # it stays without a name, as in Docker
        return [*gone, *await self._delete(left)]

    async def _delete_parents(self, image: Image) -> Gone:
        """What *image* was built on is gone as far as nothing names or needs it."""
        gone: Gone = []
        while self._store.by_id(image.id) is None:
            parent = self._store.by_id(image.parent)
            if parent is None or parent.tags or parent.digests:
                break
            if self._store.children(parent.id) or self._in_use(parent.id):
                break
            gone += await self._delete(parent)
            image = parent
        return gone

    async def _untag(self, image: Image, names: list[str]) -> Gone:
        if names:
            await self._store.untag(image, names)
        gone = [Reference.parse(name).familiar for name in names]
        for familiar in gone:
            await self._emit("untag", image, familiar)
        return [{"Untagged": familiar} for familiar in gone]

    async def _delete(self, image: Image) -> Gone:
        await self._store.delete(image)
        await self._emit("delete", image, image.id)
        layers = await self._collector.drop(image)
        self._blobs.forget(image)
        return [{"Deleted": image.id}, *({"Deleted": chain} for chain in layers)]


def named_by(image: Image, ref: str) -> str | None:
    """The tag or repository digest of *image* that *ref* spells; None where *ref* is (the start of) its id."""
    try:
        name = Reference.parse(ref)
    except InvalidArgument:
        return None
    full = str(name.with_digest(name.digest)) if name.digest else str(name)
    return full if full in (*image.tags, *image.digests) else None


def names_to_untag(image: Image, name: str) -> list[str]:
    """*name*, and with the last tag of a repository its digests."""
    ref = Reference.parse(name)
    if ref.digest:
        return [name]
    others = [Reference.parse(tag) for tag in image.tags if tag != name]
    if any(other.name == ref.name for other in others):
        return [name]
    return [name, *(digest for digest in image.digests if Reference.parse(digest).name == ref.name)]


def check_untag(image: Image, ref: str, users: Sequence[Container]) -> None:
    """Raises `Conflict` where *ref*, the only name of *image*, is what a container knows its image by."""
    if users and _one_repository(image) and len(image.tags) <= 1:
        raise Conflict(
            f'conflict: unable to remove repository reference "{ref}" (must force) - '
            f"container {users[0].id[:12]} is using its referenced image {_short(image)}"
        )


def check_delete(
    image: Image, users: Sequence[Container], children: Sequence[Image], force: bool, *, named: bool = False
) -> None:
    """Raises `Conflict` where *image* has *children* or a running container uses it, or without *force* any container,
    or (unless *named* allows it) where it has names in several repositories."""
    if children:
        raise Conflict(
            f"conflict: unable to delete {_short(image)} (cannot be forced) - image has dependent child images",
            hint=f"first remove {', '.join(_short(child) for child in children)}",
        )
    for user in users:
        if user.state.running:
            raise Conflict(
                f"conflict: unable to delete {_short(image)} (cannot be forced) - "
                f"image is being used by running container {user.id[:12]}"
            )
    if force:
        return
    if not named and (not _one_repository(image) or len(image.tags) > 1):
        raise Conflict(
            f"conflict: unable to delete {_short(image)} (must be forced) - "
            f"image is referenced in multiple repositories"
        )
    if users:
        raise Conflict(
            f"conflict: unable to delete {_short(image)} (must be forced) - "
            f"image is being used by stopped container {users[0].id[:12]}"
        )


def _one_repository(image: Image) -> bool:
    return len({Reference.parse(name).name for name in (*image.tags, *image.digests)}) <= 1


def _short(image: Image) -> str:
    return image.id.removeprefix("sha256:")[:12]
