"""Attached clients: of a container (before or while it runs) and of an exec."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from scow.engine.detach import DetachScanner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scow.engine.attach_stream import AttachStream
    from scow.engine.framing import Framing
    from scow.engine.monitor_connection import MonitorConnection


class Session(Protocol):
    """One attached client. *tty* says that its bytes are raw; otherwise they are Docker's multiplexed stream."""

    tty: bool

    async def read(self) -> bytes:
        """The next bytes for the client; ``b""`` at the end."""

    async def write(self, data: bytes) -> None:
        """The client's input; waits while the process does not read."""

    def close_stdin(self) -> None:
        """The client half-closed its side."""

    def abort(self) -> None:
        """The client is gone."""


class StreamSession:
    """A session that may be opened before its process exists: until `attach` it waits, and the first byte is kept.

    With *recorded* the end comes only when that is set: clients of an exec ask for its exit code as soon as the output
    ends. *framing* changes the output for a client that wants it in another form than *tty* says. *history* is given
    before the live bytes (``attach?logs=1``). *stdin*, *stdout* and *stderr* are what the client asked for.
    """

    def __init__(
        self,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: bytes,
        history: AsyncIterator[bytes] | None = None,
        recorded: asyncio.Event | None = None,
        framing: Framing | None = None,
    ) -> None:
        self.tty = tty
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._scanner = DetachScanner(detach_keys) if tty and stdin else None
        self._history = history
        self._recorded = recorded
        self._framing = framing
        self._stream: AttachStream | None = None
        self._connected = asyncio.Event()
        self._ended = False
        self._stdin_closed = False
        self.detached = False
        self.on_detach: Callable[[], None] | None = None  # called when the detach keys came

    async def attach(self, monitor: MonitorConnection, exec_id: str = "") -> None:
        """The session is the container's (or the exec's) process's from its next byte on; what waited goes on."""
        stream = await monitor.attach(stdin=self._stdin, stdout=self._stdout, stderr=self._stderr, exec_id=exec_id)
        if self._ended:
            stream.abort()
            return
        self._stream = stream
        if self._stdin_closed:
            stream.close_stdin()
        self._connected.set()

    def finish(self) -> None:
        """There is no process: after the history comes the end."""
        self._connected.set()

    async def read(self) -> bytes:
        """See `Session.read`."""
        if self._history is not None:
            async for chunk in self._history:
                return chunk
            self._history = None
        await self._connected.wait()
        if self._stream is None or self.detached:
            return b""
        data = await self._stream.read()
        if not data and self._recorded is not None and not self._ended:
            await self._recorded.wait()
        if self._framing is None or not data:
            return data
        return self._framing.feed(data) or await self.read()

    async def write(self, data: bytes) -> None:
        """See `Session.write`; input for a client that did not ask for stdin is dropped."""
        if not self._stdin:
            return
        if self._scanner is not None:
            data, found = self._scanner.feed(data)
            if found:
                await self._send(data)
                self.detached = True
                self.abort()
                if self.on_detach is not None:
                    self.on_detach()
                return
        await self._send(data)

    async def _send(self, data: bytes) -> None:
        await self._connected.wait()
        if data and self._stream is not None:
            await self._stream.write(data)

    def close_stdin(self) -> None:
        """See `Session.close_stdin`."""
        self._stdin_closed = True
        if self._stream is not None and self._stdin:
            self._stream.close_stdin()

    def abort(self) -> None:
        """See `Session.abort`; also ends a session whose process never came."""
        self._ended = True
        if self._stream is not None:
            self._stream.abort()
        self._connected.set()
