"""scowd's end of an attached client: raw bytes from and to a monitor."""

from __future__ import annotations

import asyncio
from collections import deque

from scow.errors import Unavailable

_HIGH_BYTES = 1 << 20
_LOW_BYTES = 256 << 10


class AttachStream(asyncio.Protocol):
    """The bytes of one attach. At most about a MiB of output waits here: then the monitor holds the container back.

    *tty* says whether the output is plain (else Docker's frames). `abort`, or losing scowd, drops the session without
    being the client's EOF; `close_stdin` is that.
    """

    def __init__(self, tty: bool) -> None:
        self.tty = tty
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._reading = True
        self._writable = True
        self._ended = False
        self._input_closed = False

    async def read(self) -> bytes:
        """The next output; ``b""`` when the process has ended and everything was read, or after `abort`."""
        while not self._chunks:
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting_bytes = 0
        if not self._reading and self._transport and not self._ended:
            self._reading = True
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """*data* is on its way to the process's input; waits while the process does not take it.

        Raises `Unavailable` after the process ended or the stream was aborted or its input closed.
        """
        if self._input_closed or self._transport is None or self._transport.is_closing():
            raise Unavailable("the process does not read its input any more")
        self._transport.write(data)
        while not self._writable:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def close_stdin(self) -> None:
        """The client's input is complete (what was written is still delivered)."""
        if not self._input_closed and self._transport and not self._transport.is_closing():
            self._input_closed = True
            self._transport.write_eof()

    def abort(self) -> None:
        """The client is gone: nothing is delivered any more, in either direction."""
        if self._transport:
            self._transport.abort()
        self._end()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The monitor's answer was taken; from here on all bytes are the client's."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Output."""
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _HIGH_BYTES and self._reading and self._transport:
            self._reading = False
            self._transport.pause_reading()
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    def eof_received(self) -> bool:
        """The monitor closed: the process has ended."""
        self._end()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is closed."""
        self._end()

    def pause_writing(self) -> None:
        """The monitor does not take input now."""
        self._writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
        if self._writer and not self._writer.done():
            self._writer.set_result(None)

    def _end(self) -> None:
        self._ended = True
        self._writable = True
        for waiter in (self._reader, self._writer):
            if waiter and not waiter.done():
                waiter.set_result(None)
