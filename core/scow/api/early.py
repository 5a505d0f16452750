"""Input that a client sends right behind a request that takes the connection over.

aiohttp's parser knows the upgrade to ``websocket`` only (3.14, its C parser): what follows a request for ``tcp`` in the
same read it drops, and what follows later it takes for another request. So such a request is handed to it alone, and
what comes behind is held until the connection is taken over, or the request has been refused.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web

HEAD_LIMIT_BYTES = 64 << 10
HELD_LIMIT_BYTES = 64 << 10  # above it the socket is not read until the connection is taken over

_TAKES_OVER = re.compile(rb"POST (?:/v\d+\.\d+)?/(?:containers/[^/ ]+/attach|exec/[^/ ]+/start)[? ]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_START = b"POST /"


class EarlyHandler(web.RequestHandler):
    """aiohttp's protocol of one connection, with a gate before its parser."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._partial = b""
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._held_eof = False

    def data_received(self, data: bytes) -> None:
        """Passes *data* on, or holds what is behind a request that takes the connection over."""
        if self._held is not None:
            self._hold(data)
            return
        if self._partial:
            data, self._partial = self._partial + data, b""
        elif not (self._idle and _may_start(data)):
            super().data_received(data)
            return
        end = _end_of_request(data)
        if end is None:
            super().data_received(data)
        elif end > len(data):
            self._partial = data
        else:
            self._held = []
            super().data_received(data[:end])
            if end < len(data):
                self._hold(data[end:])

    @property
    def _idle(self) -> bool:
        """Whether the next byte is of another request (and not of the body of one)."""
        return self._waiter is not None and not self._waiter.done()

    def _hold(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > HELD_LIMIT_BYTES and isinstance(self.transport, asyncio.Transport):
                self.transport.pause_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that half-closes behind such a request is not gone."""
        if self._held is None:
            super().eof_received()
            return None
        self._held_eof = True
        return True

    def take_held(self) -> tuple[bytes, bool]:
        """What the client has sent since, and whether it half-closed; the gate is for the new owner to keep."""
        held, self._held = self._held or [], None
        self._message_tail = b""  # aiohttp's own, of an upgrade that it knows
        return b"".join(held), self._held_eof

    async def finish_response(self, request: Any, response: Any, start_time: float | None) -> Any:
        """After an answer without a take-over what was held is the next request."""
        try:
            return await super().finish_response(request, response, start_time)
        finally:
            if self._held is not None:
                data, eof = self.take_held()
                self._held_bytes = 0
                if isinstance(self.transport, asyncio.Transport) and not self.transport.is_closing():
                    if eof:
                        self.close()
                    else:
                        self.transport.resume_reading()
                        if data:
                            self.data_received(data)


class EarlyServer(web.Server):
    """aiohttp's low-level server with an `EarlyHandler` for each connection."""

    def __call__(self) -> EarlyHandler:
        """The protocol of a new connection."""
        return EarlyHandler(self, loop=self._loop, **self._kwargs)


def _may_start(data: bytes) -> bool:
    return data.startswith(_START) or _START.startswith(data)


def _end_of_request(data: bytes) -> int | None:
    """Where the request at the start of *data* ends, beyond *data* while it is not all there; None where it takes no
    connection over (or cannot be told its end)."""
    line, found, _ = data.partition(b"\r\n")
    if not found:
        return len(data) + 1 if len(data) < HEAD_LIMIT_BYTES else None
    if not _TAKES_OVER.match(line):
        return None
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return len(data) + 1 if len(data) < HEAD_LIMIT_BYTES else None
    if _CHUNKED.search(data, 0, head + 2):
        return None
    length = _LENGTH.search(data, 0, head + 2)
    size = int(length[1]) if length else 0
    return head + 4 + size if size < HEAD_LIMIT_BYTES else None
