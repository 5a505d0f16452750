"""When an image may go, by Docker's rules (moby daemon/images/image_delete.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.errors import Conflict, InvalidArgument
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.engine.model import Container, Image


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


def check_delete(image: Image, users: Sequence[Container], force: bool) -> None:
    """Raises `Conflict` where a running container uses *image*, or without *force* any container, or where it has
    names in several repositories."""
    for user in users:
        if user.state.running:
            raise Conflict(
                f"conflict: unable to delete {_short(image)} (cannot be forced) - "
                f"image is being used by running container {user.id[:12]}"
            )
    if force:
        return
    if not _one_repository(image) or len(image.tags) > 1:
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
