"""Bytes between an engine's connection and this process's descriptors: docker's multiplexed frames, raw copies."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Iterable

from scow.errors import ScowError

STDOUT, STDERR, SYSTEM_ERROR = 1, 2, 3
READ_SIZE = 256 * 1024
_HEADER = struct.Struct(">BxxxL")
Write = Callable[[bytes], None]


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of *data* to *descriptor*, also to a pipe that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def to_descriptor(descriptor: int) -> Write:
    return lambda data: write_all(descriptor, data)


class Demultiplexer:
    """Splits frames ``[stream, 0, 0, 0, size as 4 bytes big-endian][payload]``; any cut of the bytes will do.

    Neighbouring payloads of one stream are written together: output of many short lines arrives as many frames.
    """

    def __init__(self, out: Write, err: Write) -> None:
        self._writes = {0: out, STDOUT: out, STDERR: err, SYSTEM_ERROR: self._fail}
        self._head = b""
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: bytes) -> None:
        """The next bytes; raises `ScowError` for an error that the daemon puts into the stream."""
        if self._head:
            data, self._head = self._head + data, b""
        view, position, end = memoryview(data), 0, len(data)
        stream, left = self._stream, self._left
        batch: list[memoryview] = []
        unpack = _HEADER.unpack_from
        while position < end:
            if not left:
                if end - position < 8:
                    self._head = data[position:]
                    break
                kind, left = unpack(data, position)
                position += 8
                if kind != stream:
                    self._flush(stream, batch)
                    stream, batch = kind, []
                continue
            stop = position + left
            if stop > end:
                left, stop = stop - end, end
            else:
                left = 0
            batch.append(view[position:stop])
            position = stop
        self._flush(stream, batch)
        self._stream, self._left = stream, left

    def _flush(self, stream: int, batch: list[memoryview]) -> None:
        if not batch:
            return
        write = self._writes.get(stream)
        if write is None:
            raise ScowError(f"the daemon sent a frame of an unknown stream: {stream}")
        write(bytes(batch[0]) if len(batch) == 1 else b"".join(batch))

    def _fail(self, data: bytes) -> None:
        raise ScowError(f"error from the daemon in the stream: {data.decode(errors='replace').strip()}")


def copy_output(source: Iterable[bytes], *, tty: bool) -> None:
    """Everything from *source* to standard output and error, as it comes; raw where the container has a *tty*."""
    write = to_descriptor(1)
    feed = write if tty else Demultiplexer(write, to_descriptor(2)).feed
    for data in source:
        feed(data)
