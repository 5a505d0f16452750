"""Work that nobody waits for, on one thread that exists only while there is some."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING

from scow.errors import ScowError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Later:
    """Runs jobs, each after its delay and one at a time. Safe for several threads."""

    def __init__(self) -> None:
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def run(self, delay_s: float, job: Callable[[], None]) -> None:
        """*job* is called in *delay_s* seconds, or when `close` is; what it raises is logged."""
        with self._changed:
            heapq.heappush(self._jobs, (time.monotonic() + delay_s, next(self._numbers), job))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="scow-net-later", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Every job has run, and the thread has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(10)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except ScowError as exc:
                log.warning("left undone: %s", exc)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while self._jobs:
                wait_s = self._jobs[0][0] - time.monotonic()
                if wait_s <= 0 or self._closing:
                    return heapq.heappop(self._jobs)[2]
                self._changed.wait(wait_s)
            self._thread = None
            return None
