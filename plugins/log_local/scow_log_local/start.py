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
    walk = _Walk(streams, lines)
    oldest = None
    for number in reversed(seg.segment_numbers(directory)):
        try:
            fd = os.open(directory / seg.segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            break
        try:
            end = max(seg.end_of_records(fd, os.fstat(fd).st_size), seg.SEGMENT_HEADER.size)
            if lines <= 0:
                return Start(Position(number, end))
            if walk.segment(number, fd, end):
                return walk.start(directory)
        finally:
            os.close(fd)
        oldest = Position(number, seg.SEGMENT_HEADER.size)
    walk.at_the_beginning()
    return walk.start(directory) if walk.chosen() is not None else Start(oldest)


@dataclass(slots=True, eq=False)
class _Seen:
    """A record that was walked over: how many lines begin within it, and whether one begins with it (None: it depends
    on the record of its stream before it)."""

    position: Position
    stream: int
    inner: int
    first: bool | None = None


class _Walk:
    """Counts the beginnings of lines from the log's end backwards."""

    def __init__(self, streams: frozenset[int], lines: int) -> None:
        self._streams = streams
        self._wanted = lines
        self._total = 0
        self._seen: list[_Seen] = []
        self._earliest: dict[int, _Seen] = {}
        self._looked_back = 0

    def segment(self, number: int, fd: int, end: int) -> bool:
        """Walks through one segment; True when everything is known."""
        while (offset := seg.previous_record(fd, end)) is not None:
            _magic, stream, _flags, length, _time_ns = seg.HEADER.unpack(os.pread(fd, seg.HEADER.size, offset))
            if stream in self._streams and length:
                self._record(Position(number, offset), stream, os.pread(fd, length, offset + seg.HEADER.size))
                if self._total >= self._wanted and self._decided():
                    return True
            end = offset
        return False

    def at_the_beginning(self) -> None:
        """There is nothing before what was seen: each stream begins with a line."""
        for seen in self._earliest.values():
            seen.first = True

    def chosen(self) -> int | None:
        """The index of the record in which the last *lines* begin."""
        count = 0
        for index, seen in enumerate(self._seen):
            count += seen.inner + bool(seen.first)
            if count >= self._wanted:
                return index
        return None

    def start(self, directory: Path) -> Start:
        """Where to begin, once something is chosen."""
        index = self.chosen()
        assert index is not None
        later = self._seen[:index]
        seen = self._seen[index]
        missing = self._wanted - sum(record.inner + bool(record.first) for record in later)
        skip = _skip(directory, seen.position, missing) if missing <= seen.inner else 0
        first_of = {record.stream: record for record in later}  # the earliest of each stream wins
        first_of.pop(seen.stream, None)
        return Start(seen.position, skip, {stream for stream, record in first_of.items() if record.first is False})

    def _record(self, position: Position, stream: int, data: bytes) -> None:
        ended = data.endswith(b"\n")
        follower = self._earliest.get(stream)
        if follower is not None:
            follower.first = ended
            self._total += ended
        seen = _Seen(position, stream, data.count(b"\n") - ended)
        self._total += seen.inner
        self._seen.append(seen)
        self._earliest[stream] = seen

    def _decided(self) -> bool:
        """Whether nothing that is found further back can change the choice."""
        self._looked_back += 1
        index = self.chosen()
        if index is None or self._looked_back > _LOOK_BACK_RECORDS:
            return index is not None
        return all(record.first is not None for record in self._seen[:index])


def _skip(directory: Path, position: Position, lines: int) -> int:
    """How many bytes of the record come before the last *lines* lines that begin within it."""
    with open(directory / seg.segment_name(position.number), "rb") as file:
        file.seek(position.offset)
        length = seg.HEADER.unpack(file.read(seg.HEADER.size))[3]
        data = file.read(length)
    if data.endswith(b"\n"):
        data = data[:-1]
    return len(data.rsplit(b"\n", lines)[0]) + 1
