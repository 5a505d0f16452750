"""One blob from a registry into the content store: resumed, in ranges where it is large, hashed while it comes.

Blocking; on threads. What is there of a blob is always a matter of its `scow.ingest.Ingest`.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from scow.engine.arrival import Cancelled
from scow.engine.disk_errors import disk_error
from scow.errors import Corrupt, Unavailable, Unsupported
from scow.ingest import Piece

if TYPE_CHECKING:
    from scow.content import ContentStore
    from scow.engine.arrival import Arrival
    from scow.engine.progress import LayerProgress
    from scow.ingest import Ingest
    from scow.oci import Descriptor
    from scow.ports.registry import Credentials, RegistryBackend
    from scow.reference import Reference

log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_PAUSE_S = 0.1
RANGES = 3
"""How many connections bring one blob."""
RANGE_BYTES = 16 << 20
LARGE_BYTES = 32 << 20
"""What is left of a blob comes in ranges where it is at least so much."""
_CHUNK_BYTES = 1 << 18
_TICK_S = 0.05


class Download:
    """One blob of *ref* on its way into *content*; *arrival* follows it."""

    def __init__(
        self,
        backend: RegistryBackend,
        ref: Reference,
        blob: Descriptor,
        credentials: Credentials | None,
        content: ContentStore,
        progress: LayerProgress,
        cancelled: threading.Event,
        arrival: Arrival,
    ) -> None:
        self._arrival = arrival
        self._backend, self._ref, self._blob, self._credentials = backend, ref, blob, credentials
        self._content, self._progress, self._cancelled = content, progress, cancelled
        self._ingest: Ingest | None = None
        self._ranges = True  # until the backend says that it knows none

    def run(self) -> None:
        """The content store has the blob. Goes on where an earlier attempt ended, and
        tries again after a lost connection. Raises `Corrupt` for a wrong digest, and what the backend raises."""
        try:
            self._run()
        except OSError as error:
            raise disk_error(error, f"download blob {self._blob.digest}") from error

    def abandon(self) -> None:
        """Nobody waits for it any more, and others may receive the blob, even while a thread of this one hangs in the
        backend. From any thread."""
        self._cancelled.set()
        ingest = self._ingest
        if ingest is not None:
            ingest.abandon()

    def _run(self) -> None:
        path = str(self._content.path(self._blob.digest))
        if not self._content.exists(self._blob.digest):
            with self._content.ingest(self._blob.digest, self._blob.size_bytes, self._check) as ingest:
                self._ingest = ingest
                self._check()
                if not ingest.done:
                    self._arrival.begin(str(ingest.path), ingest.offset)
                    self._receive_all(ingest)
                    self._arrival.finish()
                    return
        self._arrival.begin(path, self._content.size(self._blob.digest), complete=True)

    def _receive_all(self, ingest: Ingest) -> None:
        wrong = barren = 0
        for attempt in range(1, ATTEMPTS + 1):
            before = ingest.received
            try:
                self._receive(ingest)
                ingest.commit()
                return
            except (Unavailable, Corrupt) as error:
                self._check()
                # A wrong digest may come from what an earlier attempt left, or from parts of two different blobs:
                # once more in one go. After that the registry has wrong bytes, and would send them again.
                wrong += isinstance(error, Corrupt) and ingest.offset == 0
                self._ranges = self._ranges and not wrong
                self._arrival.advance(ingest.offset)
                barren += ingest.received == before  # a backend has tried more than once already
                if attempt == ATTEMPTS or wrong == 2 or barren == 2:
                    raise
                log.info("download of %s from %s: %s; attempt %d", self._blob.digest, self._ref, error, attempt + 1)
            self._progress.status("Retrying")
            self._cancelled.wait(FIRST_PAUSE_S * 2 ** (attempt - 1))
            self._check()

    def _receive(self, ingest: Ingest) -> None:
        """All bytes have come."""
        gaps = ingest.missing()
        in_ranges = self._ranges and sum(end - start for start, end in gaps) >= LARGE_BYTES
        try:
            if in_ranges:
                ingest.in_pieces()
                Ranges(self, ingest, gaps).run()
            else:
                for start, end in gaps:
                    self.copy(ingest, start, end)
        except Unsupported:  # the backend cannot start in the middle
            if not in_ranges and not gaps[0][0]:
                raise
            self._ranges = False
            ingest.restart()
            self._arrival.advance(0)
            self.copy(ingest, 0, self._blob.size_bytes)

    def copy(self, ingest: Ingest, start: int, end: int, stopped: threading.Event | None = None) -> None:
        """The bytes from *start* to *end* have come, or *stopped* is set. Without that, they are hashed and told of,
        too."""
        piece = Piece(ingest, start, end)
        length = None if end == self._blob.size_bytes else end - start
        try:
            with self._backend.fetch(self._ref, self._blob, self._credentials, start, length) as stream:
                read = getattr(stream, "read1", stream.read)  # one piece, so that little is lost with the connection
                while data := read(_CHUNK_BYTES):
                    self._check()
                    piece.write(data)
                    if stopped is None:
                        ingest.hash_on()
                        self.tell(ingest)
                    elif stopped.is_set():
                        return
        finally:
            piece.close()
        if piece.at < end:
            size = self._blob.size_bytes
            raise Unavailable(f"blob {self._blob.digest} ended after {piece.at} of {size} bytes")

    def tell(self, ingest: Ingest) -> None:
        """Who watches and who reads know what is there."""
        self._arrival.advance(ingest.offset)
        self._progress.count("Downloading", ingest.received, self._blob.size_bytes)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"download of {self._blob.digest} was cancelled")


class Ranges:
    """The *gaps* of a large blob, brought by a few threads from front to back, and hashed by the caller's."""

    def __init__(self, download: Download, ingest: Ingest, gaps: list[tuple[int, int]]) -> None:
        self._download, self._ingest = download, ingest
        self._left = [
            (at, min(at + RANGE_BYTES, end)) for start, end in reversed(gaps) for at in _starts_backwards(start, end)
        ]  # the next one last
        self._lock = threading.Lock()
        self._working = RANGES
        self._came = threading.Event()
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        """All of it has come. Raises what the first thread that failed raised, when the others have ended, too."""
        threads = [threading.Thread(target=self._work, name="scow-range", daemon=True) for _ in range(RANGES)]
        for thread in threads:
            thread.start()
        try:
            working = True
            while working:
                self._came.wait(_TICK_S)
                self._came.clear()
                working = self._working > 0  # seen before what is there is: nothing comes after the last round
                self._ingest.hash_on()
                self._download.tell(self._ingest)
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stopped.is_set() and (piece := self._next()) is not None:
                self._download.copy(self._ingest, *piece, self._stopped)
        except Exception as error:  # noqa: BLE001  (told to the caller's thread)
            with self._lock:
                self._error = self._error or error
            self._stopped.set()
        finally:
            with self._lock:
                self._working -= 1
            self._came.set()

    def _next(self) -> tuple[int, int] | None:
        with self._lock:
            return self._left.pop() if self._left else None


def _starts_backwards(start: int, end: int) -> list[int]:
    return list(reversed(range(start, end, RANGE_BYTES)))
