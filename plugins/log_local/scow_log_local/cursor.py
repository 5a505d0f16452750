"""Reads a log's segments forwards, while they are written and deleted (format: `scow.monitor.segments`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from scow.monitor import segments as seg


class Record(NamedTuple):
    """What was written to *stream* at one time (`segments.LOST`: a gap)."""

    stream: int
    time_ns: int
    data: bytes


class Position(NamedTuple):
    """A record: its segment and offset."""

    number: int
    offset: int


class Cursor:
    """A place in a log. Where the segment it is in was deleted, it finishes that and goes on with the oldest one. That
    is open from the first on: who asked before a container was removed gets what it said."""

    def __init__(self, directory: Path, start: Position | None = None) -> None:
        self._directory = directory
        self._fd = -1
        self._number = -1
        self._offset = 0
        self._end: Position | None = None
        if start is None:
            self._open(self._following())
        elif self._open(start.number):
            self._offset = start.offset

    def stop_here(self) -> None:
        """What is written from now on is not read: a writer that is quicker than the reader would keep it for ever."""
        last = max(seg.segment_numbers(self._directory), default=self._number)
        try:
            if last == self._number and self._fd >= 0:
                size = os.fstat(self._fd).st_size
            else:
                size = os.stat(self._directory / seg.segment_name(last)).st_size
        except FileNotFoundError:  # deleted this moment: so it was read as far as it will be
            size = 0
        self._end = Position(last, size)

    def records(self, max_bytes: int) -> list[Record]:
        """The next whole records, about *max_bytes* of them; empty where everything that is written was read."""
        while True:
            following = -1
            if self._fd >= 0:
                found = self._parse(max_bytes)
                if found:
                    return found
            following = self._following()
            if following < 0 or (self._end is not None and following > self._end.number):
                return []
            # what was added to the old segment between the last look and the new one's making
            if self._fd >= 0 and (found := self._parse(max_bytes)):
                return found
            if not self._open(following):
                return []

    def close(self) -> None:
        """No file is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _following(self) -> int:
        """The number of the next segment, -1 where there is none. The usual case costs one failing stat."""
        if self._number >= 0:
            if os.path.exists(self._directory / seg.segment_name(self._number + 1)):
                return self._number + 1
            if self._fd >= 0 and os.fstat(self._fd).st_nlink:
                return -1
        return next((number for number in seg.segment_numbers(self._directory) if number > self._number), -1)

    def _open(self, number: int) -> bool:
        try:
            fd = os.open(self._directory / seg.segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self.close()
        self._fd, self._number, self._offset = fd, number, seg.SEGMENT_HEADER.size
        return True

    def _room(self) -> int:
        """How many bytes of the present segment may be read."""
        if self._end is None or self._number < self._end.number:
            return sys.maxsize
        return max(0, self._end.offset - self._offset) if self._number == self._end.number else 0

    def _parse(self, max_bytes: int) -> list[Record]:
        room = self._room()
        data = os.pread(self._fd, min(max(max_bytes, 4096), room), self._offset)
        found, used, wanted = _cut(data)
        if not found and len(data) < wanted <= room:
            data = os.pread(self._fd, wanted, self._offset)
            found, used, _wanted = _cut(data)
        self._offset += used
        return found


def _cut(data: bytes) -> tuple[list[Record], int, int]:
    """The whole records at the start of *data*, their length in all, and how much the one after them would need."""
    found: list[Record] = []
    offset, size = 0, len(data)
    unpack, trailer = seg.HEADER.unpack_from, seg.TRAILER.unpack_from
    while offset + seg.OVERHEAD <= size:
        magic, stream, _flags, length, time_ns = unpack(data, offset)
        payload = offset + 16
        end = payload + length
        if magic != seg.MAGIC:
            return found, offset, 0
        if end + 8 > size:
            return found, offset, length + seg.OVERHEAD
        if trailer(data, end) != (length, seg.TRAILER_MAGIC):
            return found, offset, 0
        found.append(Record(stream, time_ns, data[payload:end]))
        offset = end + 8
    return found, offset, 0
