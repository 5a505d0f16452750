"""Segments into what a client of ``logs`` gets (contract: `scow.ports.log.LogReader`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scow.monitor import segments as seg
from scow.ports.log import LogQuery
from scow_log_local import start
from scow_log_local.cursor import Cursor, Record
from scow_log_local.frames import frame, frame_lines, prefix_lines, timestamp

LINE_BYTES = 16 << 10  # a longer line is given in pieces, as Docker does
_HALF_LINE_NS = 1_000_000_000


@dataclass(slots=True)
class _Line:
    """The line that a stream is in the middle of."""

    data: bytes = b""  # not given yet
    time_ns: int = 0  # of its first byte
    begun: bool = False  # a piece of it was given already
    dropped: bool = False  # it began before the place where reading starts


class SegmentReader:
    """Reads the log in *directory* as *query* wants it."""

    def __init__(self, directory: Path, query: LogQuery) -> None:
        wanted = ((seg.STDOUT, query.stdout), (seg.STDERR, query.stderr))
        self._streams = frozenset(stream for stream, asked in wanted if asked)
        self._query = query
        self._raw = not query.framed and not query.timestamps
        begin = start.Start()
        if query.tail >= 0:
            begin = start.by_lines(directory, self._streams, query.tail)
        elif query.since_ns:
            begin = start.by_time(directory, query.since_ns)
        self._skip = begin.skip
        self._lines = {stream: _Line(dropped=stream in begin.broken) for stream in (seg.STDOUT, seg.STDERR)}
        self._cursor = Cursor(directory, begin.position)
        self._finished = False
        self._past_until = False
        self._drained = False

    def read(self, max_bytes: int) -> bytes:
        """See `LogReader.read`."""
        while True:
            records = self._cursor.records(max_bytes)
            if not records:
                self._drained = True
                return b"".join(map(self._half_line, self._lines))
            if out := self._render(records):
                return out

    def finish(self) -> None:
        """See `LogReader.finish`."""
        self._finished = True
        self._cursor.stop_here()

    def done(self) -> bool:
        """See `LogReader.done`."""
        until = self._query.until_ns
        return self._past_until or bool(until and self._drained and time.time_ns() > until)

    def close(self) -> None:
        """See `LogReader.close`."""
        self._cursor.close()

    def _render(self, records: list[Record]) -> bytes:
        """The bytes for the client of *records*: those of one stream and, where it matters, one time at once."""
        if self._skip:
            records[0] = records[0]._replace(data=records[0].data[self._skip :])
            self._skip = 0
        out: list[bytes] = []
        if self._query.timestamps:
            for record in filter(self._wants, records):
                out.append(self._output(record.stream, record.time_ns, record.data))
        else:
            for stream, group in groupby(filter(self._wants, records), _stream_of):
                several = list(group)
                data = several[0].data if len(several) == 1 else b"".join([record.data for record in several])
                out.append(self._output(stream, several[-1].time_ns, data))
        return b"".join(out)

    def _wants(self, record: Record) -> bool:
        query = self._query
        if query.since_ns and record.time_ns < query.since_ns:
            return False
        if query.until_ns and record.time_ns > query.until_ns:
            self._past_until = True
            return False
        return record.stream in self._streams or record.stream == seg.LOST

    def _output(self, stream: int, time_ns: int, data: bytes) -> bytes:
        if stream == seg.LOST:
            return self._gap(time_ns, data)
        line = self._lines[stream]
        if line.dropped:
            _, newline, data = data.partition(b"\n")
            line.dropped = not newline
        if self._raw or not data:
            return data
        out = b""
        if line.data or line.begun:
            head, newline, data = data.partition(b"\n")
            line.data += head + newline
            if newline:
                out = self._piece(stream, line)
                self._lines[stream] = line = _Line()
        cut = data.rfind(b"\n") + 1
        if cut:
            out += self._whole(stream, time_ns, data[:cut] if cut < len(data) else data)
        if cut < len(data):
            line.data += data[cut:]
            line.time_ns = line.time_ns or time_ns
        if len(line.data) >= LINE_BYTES:
            out += self._piece(stream, line)
        return out

    def _whole(self, stream: int, time_ns: int, data: bytes) -> bytes:
        """Whole lines that were begun at *time_ns*."""
        prefix = timestamp(time_ns) if self._query.timestamps else b""
        if self._query.framed:
            return frame_lines(stream, data, prefix)
        return prefix_lines(data, prefix)

    def _piece(self, stream: int, line: _Line) -> bytes:
        """What *line* holds; its time comes before the first piece."""
        data = line.data
        if self._query.timestamps and not line.begun:
            data = timestamp(line.time_ns) + data
        line.data, line.begun = b"", True
        return frame(stream, data) if self._query.framed else data

    def _half_line(self, stream: int) -> bytes:
        """The unfinished line of *stream*, if it is to be given now."""
        line = self._lines[stream]
        if line.data and (self._finished or time.time_ns() - line.time_ns > _HALF_LINE_NS):
            return self._piece(stream, line)
        return b""

    def _gap(self, time_ns: int, data: bytes) -> bytes:
        """A line in place of output that the filesystem of the log did not take; unfinished lines end there."""
        lost = sum(number for (number,) in seg.GAP.iter_unpack(data))  # several where it was full again at once
        out = b"".join(self._piece(stream, line) for stream, line in self._lines.items() if line.data)
        self._lines = {stream: _Line() for stream in self._lines}
        if seg.STDERR in self._streams:
            text = f"scow: {lost} bytes of output are missing here: the filesystem of the log was full\n".encode()
            out += self._whole(seg.STDERR, time_ns, text)
        return out


def _stream_of(record: Record) -> int:
    return record.stream
