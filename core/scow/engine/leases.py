"""What transfers under way still need: blobs and snapshots that no image names yet, and that nobody may collect."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Leases:
    """Digests and chain IDs in use, counted. Belongs to one event loop.

    *settling* is held while somebody collects, and while a transfer turns what it holds into an image.
    """

    def __init__(self) -> None:
        self.settling = asyncio.Lock()
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, keys: Iterable[str]) -> Iterator[None]:
        """Inside the block none of *keys* is collected."""
        held = list(keys)
        self._held.update(held)
        try:
            yield
        finally:
            self._held.subtract(held)
            self._held = +self._held

    async def settled(self) -> None:
        """Who collects now has ended. What was held before this call is not collected after it: only now does it say
        something that a blob or snapshot is there."""
        async with self.settling:
            pass

    def __contains__(self, key: str) -> bool:
        return self._held[key] > 0

    def held(self) -> frozenset[str]:
        """All that is in use now."""
        return frozenset(self._held)
