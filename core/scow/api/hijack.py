"""A connection taken over from HTTP: raw bytes between one client and one session (attach, exec).

aiohttp parses the request and is then put aside by ``transport.set_protocol``; it gets the connection back for closing.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from scow.engine.sessions import Session

log = logging.getLogger(__name__)

OUTPUT_HIGH_BYTES = 1 << 20  # towards the client: above it the session is not read
OUTPUT_LOW_BYTES = 256 << 10
INPUT_HIGH_BYTES = 256 << 10  # from the client: above it the socket is not read
SEND_BUFFER_BYTES = 1 << 20
LINGER_S = 3.0  # for the client to close after the end of output: closing on unread input would reset the connection


class Taken(web.StreamResponse):
    """What a handler returns after it took the connection over: nothing more is sent, and aiohttp closes."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Sends nothing."""
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends nothing."""


class Connection(asyncio.Protocol):
    """The client's side. Input is queued up to a limit; *gone* is set when the client closed both ways.

    A client that only half-closed and one that is gone look the same to `read`: both are an end of file. The kernel
    tells them apart by a hang-up (POLLHUP), which an epoll set without any wanted event reports.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._input: deque[bytes] = deque()
        self._input_bytes = 0
        self._input_ready = asyncio.Event()
        self._eof = False
        self._discard = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._watch: select.epoll | None = None
        self.gone = asyncio.Event()
        self.lost: Exception | bool = False

    def data_received(self, data: bytes) -> None:
        """Queues the client's input, and stops reading where too much of it waits."""
        if self._discard:
            return
        self._input.append(data)
        self._input_bytes += len(data)
        self._input_ready.set()
        if self._input_bytes > INPUT_HIGH_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keeps the other direction open, and looks out for the client's going."""
        self._end_input()
        self._watch_for_hangup()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Everybody who waits for the client is told."""
        self.lost = exc or True
        self._end_input()
        self._writable.set()
        self.gone.set()
        self._stop_watching()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    async def send(self, data: bytes) -> None:
        """Queues *data* for the client, and waits while too much is queued."""
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    async def receive(self) -> bytes:
        """The client's next input; ``b""`` after its last."""
        while not self._input:
            if self._eof:
                return b""
            self._input_ready.clear()
            await self._input_ready.wait()
        data = self._input.popleft() if len(self._input) == 1 else b"".join(self._input)
        self._input.clear()
        self._input_bytes = 0
        if not (self._eof or self.lost or self._transport.is_closing()):
            self._transport.resume_reading()
        return data

    def discard_input(self) -> None:
        """What the client sends from now on is read and dropped."""
        self._discard = True
        self._input.clear()
        if not (self._eof or self._transport.is_closing()):
            self._transport.resume_reading()

    def finish(self) -> None:
        """The client sees the end of output after what is queued; its input is dropped."""
        self.discard_input()
        if not self.lost and self._transport.can_write_eof():
            self._transport.write_eof()

    async def closed(self, timeout_s: float) -> None:
        """Returns when the client has closed its side, or after *timeout_s*."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._eof or self.lost):
                    self._input_ready.clear()
                    await self._input_ready.wait()
        except TimeoutError:
            log.debug("a client keeps its side open after the end of output")

    def release(self) -> None:
        """The hang-up is no longer looked out for."""
        self._stop_watching()

    def _end_input(self) -> None:
        self._eof = True
        self._input_ready.set()

    def _watch_for_hangup(self) -> None:
        descriptor = self._transport.get_extra_info("socket").fileno()
        self._watch = select.epoll()
        self._watch.register(descriptor, 0)
        self._loop.add_reader(self._watch.fileno(), self._hung_up)

    def _hung_up(self) -> None:
        self._stop_watching()
        self.gone.set()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None


def take_over(request: web.BaseRequest, head: bytes) -> tuple[Connection, Any]:
    """*head* is sent, and the connection of *request* speaks no HTTP any more. Bytes that the client sent early, which
    aiohttp holds, are the first input. Answers the connection and aiohttp's protocol, for `give_back`.

    Raises `ConnectionResetError` where the client is gone.
    """
    handler: Any = request.protocol
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    assert isinstance(transport, asyncio.Transport)
    _widen(transport)
    connection = Connection(transport)
    transport.set_protocol(connection)
    early, handler._message_tail = handler._message_tail, b""
    if early:
        connection.data_received(early)
    if not connection._input_bytes > INPUT_HIGH_BYTES:
        transport.resume_reading()
    transport.write(head)
    return connection, handler


def _widen(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=OUTPUT_HIGH_BYTES, low=OUTPUT_LOW_BYTES)
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def give_back(connection: Connection, handler: Any, transport: asyncio.Transport | None) -> None:
    """aiohttp closes the connection, or learns that it is closed."""
    connection.release()
    if connection.lost or transport is None:
        handler.connection_lost(connection.lost if isinstance(connection.lost, Exception) else None)
        return
    transport.set_write_buffer_limits()
    transport.set_protocol(handler)
    handler.close()


async def relay(connection: Connection, session: Session, stdin: bool) -> None:
    """Passes bytes between client and *session* until the session ends or the client is gone.

    A client that is gone releases the session; what it had sent before still reaches the process.
    """
    if not stdin:
        connection.discard_input()
    output = asyncio.ensure_future(_pass_output(connection, session))
    input_ = asyncio.ensure_future(_pass_input(connection, session)) if stdin else None
    gone = asyncio.ensure_future(connection.gone.wait())
    try:
        await asyncio.wait((output, gone), return_when=asyncio.FIRST_COMPLETED)
        if not output.done() and input_ is not None and not input_.done():
            await asyncio.wait((output, input_), return_when=asyncio.FIRST_COMPLETED)
        if output.done():
            output.result()
            connection.finish()
            await connection.closed(LINGER_S)
    finally:
        session.abort()
        await _end(output, input_, gone)


async def _end(*tasks: asyncio.Future[Any] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
            log.warning("an attached session failed: %r", outcome)


async def _pass_output(connection: Connection, session: Session) -> None:
    while data := await session.read():
        if connection.gone.is_set():
            continue  # dropped: the process is not held back by a client that is gone
        await connection.send(data)


async def _pass_input(connection: Connection, session: Session) -> None:
    while data := await connection.receive():
        await session.write(data)
    session.close_stdin()
