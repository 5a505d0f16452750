"""Where to begin reading a log: by a number of last lines, or by a time. Costs as much as what is then given."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from scow.monitor import segments as seg

from scow_log_local.cursor import Position

_LOOK_BACK_RECORDS = 256


@dataclass(slots=True)
class Start:
    """The first record, and how its streams begin there: *skip* bytes of the first record; in *broken* streams the
    first bytes belong to a line that began before and are not given."""

    position: Position | None = None
    skip: int = 0
    broken: set[int] = field(default_factory=set)


def by_time(directory: Path, since_ns: int) -> Start:
    """The last segment that begins before *since_ns*."""
    best: Position | None = None
    for number in reversed(seg.segment_numbers(directory)):
        try:
            with open(directory / seg.segment_name(number), "rb") as file:
                head = file.read(seg.SEGMENT_HEADER.size)
        except FileNotFoundError:
            break
        if len(head) == seg.SEGMENT_HEADER.size:
            best = Position(number, seg.SEGMENT_HEADER.size)
            if seg.SEGMENT_HEADER.unpack(head)[1] <= since_ns:
                break
    return Start(best)


def by_lines(directory: Path, streams: frozenset[int], lines: int) -> Start:
    """Before the last *lines* lines of *streams* together; a last line without newline is one."""
    walk = _Walk(directory, streams, lines)
    for number in reversed(seg.segment_numbers(directory)):
        try:
            fd = os.open(directory / seg.segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            break
        try:
            if walk.segment(number, fd):
                break
        finally:
            os.close(fd)
    return walk.start


class _Walk:
    """Counts lines from the log's end backwards. A line begins behind each newline that has something behind it."""

    def __init__(self, directory: Path, streams: frozenset[int], lines: int) -> None:
        self.start = Start()
        self._streams = streams
        self._left = lines
        self._seen: set[int] = set()
        self._undecided: set[int] | None = None  # once the start is found: streams that may begin within a line
        self._looked_back = 0

    def segment(self, number: int, fd: int) -> bool:
        """Walks through one segment; True when everything is known."""
        end = seg.end_of_records(fd, os.fstat(fd).st_size)
        if self._left <= 0 and self.start.position is None:
            self.start.position = Position(number, max(end, seg.SEGMENT_HEADER.size))
            return True
        while (offset := seg.previous_record(fd, end)) is not None:
            _magic, stream, _flags, length, _time_ns = seg.HEADER.unpack(os.pread(fd, seg.HEADER.size, offset))
            if stream in self._streams:
                payload = offset + seg.HEADER.size
                if self._undecided is not None:
                    self._decide(stream, os.pread(fd, 1, payload + length - 1))
                else:
                    self._count(stream, os.pread(fd, length, payload), Position(number, offset))
            if self._undecided is not None and self._enough():
                return True
            end = offset
        if self._undecided is None:
            self.start.position = Position(number, seg.SEGMENT_HEADER.size)
        return False

    def _count(self, stream: int, data: bytes, position: Position) -> None:
        if stream not in self._seen:
            self._seen.add(stream)
            data = data[:-1] if data.endswith(b"\n") else data
        newlines = data.count(b"\n")
        if newlines < self._left:
            self._left -= newlines
            return
        self.start.position = position
        self.start.skip = len(data.rsplit(b"\n", self._left)[0]) + 1
        self._undecided = set(self._streams - {stream}) & self._seen

    def _decide(self, stream: int, last: bytes) -> None:
        if self._undecided and stream in self._undecided:
            self._undecided.discard(stream)
            if last != b"\n":
                self.start.broken.add(stream)

    def _enough(self) -> bool:
        self._looked_back += 1
        return not self._undecided or self._looked_back > _LOOK_BACK_RECORDS
