"""One attached client: a stream socket towards scowd that carries its output and its input.

Towards scowd go exactly the bytes for the client: Docker's frames (one byte stream, three zero, u32 big-endian length,
payload) or, of a tty, plain bytes. Towards the monitor come the client's bytes; half-close is the client's EOF.
A full close means that the session is gone: its output is dropped at once, what it sent before is still given.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from scow.monitor import loop as ev

if TYPE_CHECKING:
    from scow.monitor.streams import Stdio

FRAME = struct.Struct("!BxxxI")
_INPUT_BYTES = 64 << 10


class Attacher:
    """A client of *stdio*. *backlog* is output that its socket did not take: while there is any, the streams that the
    client wants are not read, so that nothing is lost and nothing piles up."""

    __slots__ = ("_stdio", "_fd", "streams", "stdin", "backlog", "_early", "_half_closed", "_ending", "_mask")

    def __init__(self, stdio: Stdio, fd: int, stdin: bool, streams: tuple[int, ...], early: bytes) -> None:
        self._stdio = stdio
        self._fd = fd
        self.streams = streams
        self.stdin = stdin
        self.backlog: list[memoryview] = []
        self._early = early  # stdin that came right behind the request
        self._half_closed = False
        self._ending = False
        self._mask = 0
        stdio.loop.watch(self._fd, 0, self._ready)
        self.update()

    def give(self, stream: int, data: bytes, tty: bool) -> None:
        """*data* of *stream* is on its way to the client, or in the backlog."""
        parts = [data] if tty else [FRAME.pack(stream, len(data)), data]
        if self.backlog:
            self.backlog.extend(map(memoryview, parts))
            return
        try:
            sent = os.writev(self._fd, parts)
        except BlockingIOError:
            sent = 0
        except OSError:  # EPIPE, ECONNRESET: gone; epoll tells it as HUP
            return
        self._keep(parts, sent)

    def finish(self) -> None:
        """There is no more output: the socket is closed as soon as the client has taken everything."""
        self._ending = True
        self.stdin = False
        if not self.backlog:
            self.close()
        else:
            self.update()

    def update(self) -> None:
        """The socket is watched for what can be done with it now."""
        if self._fd < 0:
            return
        mask = ev.OUT if self.backlog else 0
        if not self._half_closed and not self._ending and (not self.stdin or self._stdio.takes_input()):
            mask |= ev.IN | ev.RDHUP
            if self._early:
                self._stdio.give_input(self._early)
                self._early = b""
        if mask != self._mask:
            self._stdio.loop.change(self._fd, mask)
            self._mask = mask

    def close(self) -> None:
        """The socket is closed; the streams that waited for this client go on."""
        if self._fd >= 0:
            self._stdio.loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.backlog = []
            self._stdio.left(self)

    def _keep(self, parts: list[bytes], sent: int) -> None:
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            else:
                self.backlog.append(memoryview(part)[sent:])
                sent = 0
        if self.backlog:
            self.update()

    def _ready(self, events: int) -> None:
        if events & (ev.HUP | ev.ERR):
            self._hung_up()
            return
        if events & ev.OUT:
            self._flush()
        if events & (ev.IN | ev.RDHUP) and self._fd >= 0:
            self._read()

    def _flush(self) -> None:
        while self.backlog:
            try:
                sent = os.writev(self._fd, self.backlog[:16])
            except BlockingIOError:
                return
            except OSError:
                self._hung_up()
                return
            while self.backlog and sent >= len(self.backlog[0]):
                sent -= len(self.backlog.pop(0))
            if sent:
                self.backlog[0] = self.backlog[0][sent:]
        if self._ending:
            self.close()
            return
        self.update()
        self._stdio.unblocked()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _INPUT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._hung_up()
            return
        if data:
            if self.stdin:
                self._stdio.give_input(data)
        else:
            self._half_closed = True
            self.update()
            if self.stdin:
                self._stdio.input_ended(self)

    def _hung_up(self) -> None:
        """The session is gone. Input that it had sent before stays readable, and is handed over by `Stdio.orphaned`."""
        if self._fd < 0:
            return
        self._stdio.loop.unwatch(self._fd)
        self.backlog = []
        self.streams = ()
        if self.stdin and not self._half_closed:
            self._stdio.orphaned(self, Leftover(self._fd, self._early))
        else:
            os.close(self._fd)
        self._fd = -1
        self._stdio.left(self)


class Leftover:
    """What a client that is gone had sent: read on as the process takes it."""

    __slots__ = ("_fd", "_early")

    def __init__(self, fd: int, early: bytes) -> None:
        self._fd = fd
        self._early = early

    def move(self, takes_input: Callable[[], bool], give: Callable[[bytes], None]) -> bool:
        """Gives what the process takes now; True when that was all, and the socket is closed."""
        while takes_input():
            data, self._early = self._early, b""
            if not data:
                try:
                    data = os.read(self._fd, _INPUT_BYTES)
                except OSError:
                    data = b""
            if not data:
                os.close(self._fd)
                return True
            give(data)
        return False

    def close(self) -> None:
        """It is dropped."""
        os.close(self._fd)
