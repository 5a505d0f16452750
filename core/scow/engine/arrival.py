"""A blob read while it is received, so that unpacking need not wait for the last byte of it."""

from __future__ import annotations

import os
import threading

from scow.errors import ScowError

_POLL_S = 0.2  # how often a reader that waits looks whether anybody still wants it


class Cancelled(ScowError):
    """Nobody waits for the transfer any more."""


class StartedOver(ScowError):
    """What was read of a blob came to nothing: its download began anew."""


class Milestone:
    """Something that threads wait for, or for *cancelled*."""

    def __init__(self, what: str, cancelled: threading.Event) -> None:
        self._what, self._cancelled = what, cancelled
        self._reached = threading.Event()

    def reach(self) -> None:
        """It is there."""
        self._reached.set()

    def wait(self) -> None:
        """Returns when it is there; raises `Cancelled` where nobody waits for it any more."""
        while not self._reached.wait(_POLL_S):
            if self._cancelled.is_set():
                raise Cancelled(f"{self._what} was cancelled")


class Arrival:
    """The receiver calls `begin`, `advance` and `finish` or `fail`; one reader reads as from a file."""

    def __init__(self, digest: str, cancelled: threading.Event) -> None:
        self.complete = self.started_over = False
        self._digest = digest
        self._cancelled = cancelled
        self._changed = threading.Condition()
        self._fd = -1
        self._closed = False
        self._available = self._position = 0
        self._error: Exception | None = None

    def begin(self, path: str, available: int, *, complete: bool = False) -> None:
        """*path* holds *available* bytes of the blob, or all of it."""
        with self._changed:
            if self._fd < 0 and not self._closed:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._available, self.complete = available, complete
            self._changed.notify()

    def advance(self, available: int) -> None:
        """*available* bytes are there now; fewer than before means that the download began anew."""
        with self._changed:
            if available < self._available:
                self.started_over = True
                self._error = StartedOver(f"download of {self._digest} began anew")
            self._available = available
            self._changed.notify()

    def finish(self) -> None:
        """Nothing more comes, and the digest was right."""
        with self._changed:
            self.complete = True
            self._changed.notify()

    def fail(self, error: Exception) -> None:
        """Nothing more comes, because of *error*, which the reader gets."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify()

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes (1 MiB where it is negative), as soon as there are any; ``b""`` at the end."""
        with self._changed:
            while self._position >= self._available:
                if self._error is not None:
                    raise self._error
                if self._cancelled.is_set():
                    raise Cancelled(f"download of {self._digest} was cancelled")
                if self.complete:
                    return b""
                self._changed.wait(_POLL_S)
            if self._error is not None:
                raise self._error
            count = min(size if size >= 0 else 1 << 20, self._available - self._position)
        data = os.pread(self._fd, count, self._position)
        self._position += len(data)
        return data

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def close(self) -> None:
        """The file is closed; nothing is read any more."""
        with self._changed:
            self._closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
