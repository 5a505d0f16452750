"""A connection taken over from HTTP: raw bytes between one client and one session (attach, exec).

aiohttp parses the request and is then put aside by ``transport.set_protocol``; it is told of the end.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import select
import socket
import struct
import termios
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import web

from scow.api.early import EarlyHandler
from scow.errors import ScowError

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from scow.engine.sessions import Session

log = logging.getLogger(__name__)

OUTPUT_HIGH_BYTES = 1 << 20  # towards the client: above it the session is not read
OUTPUT_LOW_BYTES = 256 << 10
INPUT_HIGH_BYTES = 256 << 10  # from the client: above it the socket is not read
SEND_BUFFER_BYTES = 1 << 20
HEAD_READ_S = 0.05  # for the client to read the response's head before the first output
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

    A client that only half-closed and one that is gone look the same to `read`: both are an end of file, and while
    input waits the socket is not read at all. The kernel tells that a client is gone by a hang-up (EPOLLHUP), which an
    epoll set without any wanted event reports. (Not over TCP: there it is noticed when bytes are sent.)
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
        self._watch: select.epoll | None = self._watch_for_hangup()
        self._aiohttp: asyncio.Protocol | None = None
        self.gone = asyncio.Event()
        self.lost: Exception | bool = False

    def data_received(self, data: bytes) -> None:
        """Queues the client's input, and stops reading where too much of it waits."""
        if self._discard:
            return
        self._input.append(data)
        self._input_bytes += len(data)
        self._input_ready.set()
        if self._input_bytes > INPUT_HIGH_BYTES and not self._eof:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keeps the other direction open."""
        self._end_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Everybody who waits for the client is told."""
        self.lost = exc or True
        self._end_input()
        self._writable.set()
        self.gone.set()
        self._stop_watching()
        if self._aiohttp is not None:
            self._aiohttp.connection_lost(exc)

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

    async def head_read(self) -> None:
        """Returns when the client has read all that was sent, or after `HEAD_READ_S`.

        docker-py reads the response's head through a buffer and the stream without it: output that comes in one read
        with the head is lost to it. On a Unix socket SIOCOUTQ counts what the peer has not read; on TCP what it has
        not acknowledged.
        """
        descriptor = self._transport.get_extra_info("socket").fileno()
        deadline, pause = self._loop.time() + HEAD_READ_S, 0.0001
        while not self.lost and _unread(descriptor) and self._loop.time() < deadline:
            await asyncio.sleep(pause)
            pause *= 1.5

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

    def give_back(self, handler: asyncio.Protocol) -> None:
        """The connection closes once what is queued is sent; then aiohttp's *handler* learns that it is lost."""
        self._stop_watching()
        if self.lost:
            handler.connection_lost(self.lost if isinstance(self.lost, Exception) else None)
            return
        self._aiohttp = handler
        self._transport.close()

    def _end_input(self) -> None:
        self._eof = True
        self._input_ready.set()

    def _watch_for_hangup(self) -> select.epoll:
        watch = select.epoll()
        watch.register(self._transport.get_extra_info("socket").fileno(), 0)
        self._loop.add_reader(watch.fileno(), self._hung_up)
        return watch

    def _hung_up(self) -> None:
        self._stop_watching()
        self.gone.set()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None


def take_over(request: web.BaseRequest, head: bytes) -> tuple[Connection, asyncio.Protocol]:
    """*head* is sent, and the connection of *request* speaks no HTTP any more. What the client sent behind the request
    is the first input. Answers the connection and aiohttp's handler, for `Connection.give_back`.

    Raises `ConnectionResetError` where the client is gone.
    """
    handler, transport = request.protocol, request.transport
    assert isinstance(handler, EarlyHandler)
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    assert isinstance(transport, asyncio.Transport)
    _widen(transport)
    connection = Connection(transport)
    transport.set_protocol(connection)
    early, eof = handler.take_held()
    if not eof:
        transport.resume_reading()
    if early:
        connection.data_received(early)
    if eof:
        connection.eof_received()
    transport.write(head)
    return connection, handler


def _unread(descriptor: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])


def _widen(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=OUTPUT_HIGH_BYTES, low=OUTPUT_LOW_BYTES)
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


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
    first = True
    while data := await session.read():
        if first:
            await connection.head_read()
            first = False
        if connection.gone.is_set():
            continue  # dropped: the process is not held back by a client that is gone
        await connection.send(data)


async def _pass_input(connection: Connection, session: Session) -> None:
    while data := await connection.receive():
        try:
            await session.write(data)
        except ScowError as error:
            log.debug("the client's input is dropped: %s", error)
            connection.discard_input()
            return
    session.close_stdin()
