"""A blob on its way into the content store: received in pieces, hashed from its beginning on while they come.

``ingest/<digest>`` holds the bytes. Where they came in order, its length says how many are there; where pieces came
side by side, the lines ``<start> <end>`` of ``ingest/<digest>.pieces`` say which. Both outlive their process, so that
the next attempt goes on with what is there; whether that was right, the digest tells.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

from scow.errors import Corrupt, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

PIECES = ".pieces"
_HASH_BYTES = 1 << 20
_NOTE_BYTES = 1 << 20  # each time that so much of a piece has come it is noted down
_POLL_S = 0.1


class Ingest:
    """One blob while it is received, by one receiver at a time, whose threads may write several `Piece`s.

    Without `commit` what came is kept. *waiting* is called again and again while somebody else receives the blob, and
    may raise.
    """

    def __init__(
        self, path: Path, target: Path, digest: str, size_bytes: int, waiting: Callable[[], None] | None = None
    ) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.path = path
        self._notes = path.with_name(path.name + PIECES)
        self._target = target
        self._waiting = waiting
        self._fd = self._notes_fd = -1
        self._lock = threading.Lock()  # over the descriptors and what is there
        self._have: list[tuple[int, int]] = []  # sorted, with gaps between them
        self._hashed = 0
        self._hasher = hashlib.new(digest.partition(":")[0])

    @property
    def done(self) -> bool:
        """Whether the store has the blob: somebody else brought it while this one waited."""
        return self._target.exists()

    @property
    def offset(self) -> int:
        """How many bytes are there from the beginning on without a gap."""
        have = self._have
        return have[0][1] if have and not have[0][0] else 0

    @property
    def received(self) -> int:
        """How many bytes are there in all."""
        return sum(end - start for start, end in self._have)

    def missing(self) -> list[tuple[int, int]]:
        """The gaps, as (start, end)."""
        have = self._have
        starts, ends = [0, *(end for _, end in have)], [*(start for start, _ in have), self.size_bytes]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]

    def __enter__(self) -> Ingest:
        while True:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._take_lock()
                if _is(self._fd, self.path):
                    self._take_up()
                    return self
            except BaseException:
                self._let_go()
                raise
            self._let_go()  # renamed or removed while this one waited

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._fd >= 0 and self.done and _is(self._fd, self.path):
                self.path.unlink(missing_ok=True)
                self._notes.unlink(missing_ok=True)
            self._let_go()

    def abandon(self) -> None:
        """Somebody else may receive the blob from now on. Threads of this receiver that wait for something may find
        that out later: what they do then raises."""
        with self._lock:
            self._let_go()

    def write(self, data: bytes) -> None:
        """*data* comes next. Raises `Corrupt` where that makes more bytes than were announced."""
        if self.offset + len(data) > self.size_bytes:
            self.restart()
            raise Corrupt(f"blob {self.digest} is larger than {self.size_bytes} bytes")
        self.write_at(self.offset, data)

    def write_at(self, offset: int, data: bytes) -> None:
        """*data* is there from *offset* on; only in order, or after `in_pieces`."""
        with self._lock:
            self._check()
            _pwrite(self._fd, data, offset)
            self._have = merged([*self._have, (offset, offset + len(data))])

    def in_pieces(self) -> None:
        """From now on it is noted down what is there: the file's length will not say it any more."""
        with self._lock:
            self._check()
            if self._notes_fd < 0:
                new = self._notes.with_name(self._notes.name + ".new")
                new.write_bytes(b"".join(map(_note, self._have)))
                new.rename(self._notes)
                self._notes_fd = os.open(self._notes, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def note(self, start: int, end: int) -> None:
        """It is noted down that the bytes from *start* to *end* are there."""
        with self._lock:
            if self._notes_fd >= 0:
                os.write(self._notes_fd, _note((start, end)))

    def hash_on(self) -> None:
        """What came without a gap is hashed. For one thread, beside those that write."""
        while (count := min(self.offset - self._hashed, _HASH_BYTES)) > 0:
            with self._lock:
                self._check()
                data = os.pread(self._fd, count, self._hashed)
            self._hasher.update(data)
            self._hashed += len(data)

    def restart(self) -> None:
        """Nothing is there. Not while others write."""
        with self._lock:
            self._check()
            self._forget_notes()
            os.ftruncate(self._fd, 0)
            self._have = []
        self._hashed = 0
        self._hasher = hashlib.new(self.digest.partition(":")[0])

    def commit(self) -> None:
        """The store has the blob. Raises `Corrupt` where the digest differs (what was received is dropped then), or
        where bytes are missing (it is kept)."""
        if self.offset < self.size_bytes:
            raise Corrupt(f"blob {self.digest} ended after {self.received} of {self.size_bytes} bytes")
        self.hash_on()
        actual = self.digest.partition(":")[0] + ":" + self._hasher.hexdigest()
        if actual != self.digest:
            self.restart()
            raise Corrupt(f"digest mismatch: wanted {self.digest}, got {actual}")
        with self._lock:
            self._check()
            os.fsync(self._fd)
            publish(self.path, self._target)
            self._forget_notes()

    def _take_lock(self) -> None:
        while self._waiting is not None:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._waiting()
                time.sleep(_POLL_S)
            else:
                return
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def _take_up(self) -> None:
        """What an earlier attempt left; more than was announced cannot be right."""
        length = os.fstat(self._fd).st_size
        try:
            have = merged(_noted(self._notes.read_bytes()))
        except FileNotFoundError:
            have = [(0, length)] if length else []
        if length > self.size_bytes or any(end > length for _, end in have):
            self.restart()
            return
        self._have = have
        if self._notes.exists():
            self.in_pieces()

    def _check(self) -> None:
        if self._fd < 0:
            raise Unavailable(f"blob {self.digest} is received by somebody else by now")

    def _forget_notes(self) -> None:
        if self._notes_fd >= 0:
            os.close(self._notes_fd)
            self._notes_fd = -1
        self._notes.unlink(missing_ok=True)

    def _let_go(self) -> None:
        for fd in (self._notes_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._notes_fd = -1


class Piece:
    """The bytes of *ingest* from *start* to *end*, written in order by one thread, which calls `close` at last."""

    def __init__(self, ingest: Ingest, start: int, end: int) -> None:
        self.at = start
        self.end = end
        self._ingest = ingest
        self._start = self._noted = start

    def write(self, data: bytes) -> None:
        """*data* comes next. Raises `Corrupt` where that goes beyond the end."""
        if self.at + len(data) > self.end:
            raise Corrupt(f"blob {self._ingest.digest}: more bytes came than were asked for or announced")
        self._ingest.write_at(self.at, data)
        self.at += len(data)
        if self.at - self._noted >= _NOTE_BYTES:
            self.close()

    def close(self) -> None:
        """What came is noted down."""
        if self.at > self._noted:
            self._noted = self.at
            self._ingest.note(self._start, self.at)


def merged(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """*pieces* sorted, those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(pieces):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def publish(path: Path, target: Path) -> None:
    """The file *path*, whose bytes are on disk, is the blob *target*, and stays so when the host dies."""
    os.chmod(path, 0o644)
    os.rename(path, target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _note(piece: tuple[int, int]) -> bytes:
    return b"%d %d\n" % piece


def _noted(notes: bytes) -> Iterable[tuple[int, int]]:
    """The pieces in *notes*; a last line that a crash cut short says nothing."""
    for line in notes.split(b"\n")[:-1]:
        start, _, end = line.partition(b" ")
        if start.isdigit() and end.isdigit() and int(start) < int(end):
            yield int(start), int(end)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
