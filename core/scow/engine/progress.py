"""Progress of pulls and pushes as Docker's JSON messages; one transfer may be watched by several clients."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    ProgressSink = Callable[[dict[str, Any]], None]

INTERVAL_S = 0.1


def short_id(digest: str) -> str:
    """The 12 digits by which Docker shows a layer."""
    return digest.partition(":")[2][:12]


class Broadcast:
    """A sink that hands each message to all who watch; who comes late is told first what each layer is at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sinks: list[ProgressSink] = []
        self._lines: dict[str, dict[str, Any]] = {}  # layer → its last message; lines without a layer by number
        self._unnamed = 0

    def __call__(self, message: dict[str, Any]) -> None:
        """Hands on *message*. From any thread."""
        with self._lock:
            id = message.get("id")
            if id is None:
                self._unnamed += 1
            self._lines[id or f"#{self._unnamed}"] = message
            sinks = list(self._sinks)
        for sink in sinks:
            sink(message)

    def join(self, sink: ProgressSink) -> None:
        """*sink* watches."""
        with self._lock:
            lines = list(self._lines.values())
            self._sinks.append(sink)
        for line in lines:
            sink(line)

    def leave(self, sink: ProgressSink) -> None:
        """*sink* watches no more."""
        with self._lock:
            self._sinks.remove(sink)


class LayerProgress:
    """The messages of one layer; those with counts at most every `INTERVAL_S`."""

    def __init__(self, sink: ProgressSink, digest: str) -> None:
        self._sink = sink
        self._id = short_id(digest)
        self._next_s = 0.0

    def status(self, text: str) -> None:
        """The layer is at *text*."""
        self._next_s = 0.0
        self._sink({"status": text, "progressDetail": {}, "id": self._id})

    def count(self, text: str, current: int, total: int) -> None:
        """*current* of *total* bytes of *text* are done."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + INTERVAL_S
            self._sink({"status": text, "progressDetail": {"current": current, "total": total}, "id": self._id})
