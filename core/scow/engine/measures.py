"""Sizes that only a walk through a tree tells: recorded, and measured again when they may have changed.

Nobody waits long for a walk: what is not measured by then is answered from the record, and the walk goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from scow.errors import ScowError
from scow.state import Delete, Put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scow.state import State

log = logging.getLogger(__name__)

KIND = "measure"
WAIT_S = 0.25
PARALLEL = 2
UNKNOWN = -1


class Measure(msgspec.Struct, frozen=True):
    """What a walk found, and when. *stamp* is that of the tree at the time."""

    size_bytes: int
    stamp: int
    measured_ns: int


class Walk(NamedTuple):
    """How to measure a tree. As long as *stamp* stays the same the tree does; 0: it may change at any time."""

    stamp: int
    measure: Callable[[], Awaitable[int]]


class Measures:
    """The sizes of one engine's trees, by a key each. Belongs to one event loop."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, Measure] = {}
        self._walking: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(PARALLEL)

    def load(self) -> None:
        """Reads the records; blocking, at start only."""
        for row in self._state.load(KIND):
            self._known[row.id] = msgspec.json.decode(row.data, type=Measure)

    async def sizes(self, walks: Mapping[str, Walk], wait_s: float = WAIT_S) -> dict[str, Measure]:
        """The newest measure of each of *walks* that has one, after at most *wait_s*. Records of other keys are
        dropped."""
        await self._retain(walks)
        started = [self._start(key, walk) for key, walk in walks.items() if not self._holds(key, walk.stamp)]
        if started:
            await asyncio.wait(started, timeout=wait_s)
        return {key: self._known[key] for key in walks if key in self._known}

    def _holds(self, key: str, stamp: int) -> bool:
        known = self._known.get(key)
        return known is not None and stamp != 0 and known.stamp == stamp

    def _start(self, key: str, walk: Walk) -> asyncio.Task[None]:
        task = self._walking.get(key)
        if task is None:
            task = self._walking[key] = asyncio.get_running_loop().create_task(self._walk(key, walk))
            task.add_done_callback(lambda _: self._walking.pop(key, None))
        return task

    async def _walk(self, key: str, walk: Walk) -> None:
        async with self._slots:
            begun_ns = time.time_ns()
            try:
                size = await walk.measure()
                measure = self._known[key] = Measure(size, walk.stamp, begun_ns)
                await self._state.commit(Put(KIND, key, None, msgspec.json.encode(measure)), durable=False)
            except (ScowError, OSError) as error:  # it was removed meanwhile, most likely
                log.debug("%s is not measured: %s", key, error)

    async def _retain(self, keys: Mapping[str, Walk]) -> None:
        gone = [key for key in self._known if key not in keys]
        for key in gone:
            del self._known[key]
        if gone:
            await self._state.commit(*(Delete(KIND, key) for key in gone), durable=False)

    async def close(self) -> None:
        """No walk is recorded any more."""
        for task in list(self._walking.values()):
            task.cancel()
        await asyncio.gather(*self._walking.values(), return_exceptions=True)
