"""Control connections of a monitor: messages in, answers and events out, never blocking.

Bare descriptors, here and in `scow.monitor.attach`: a ``socket`` object made after the fork costs 80 pages (measured),
because its module and ``enum`` with it are written to by reference counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from scow.monitor import loop as ev
from scow.monitor.protocol import Decoder, Message, ProtocolError, encode

_RECEIVE_BYTES = 64 << 10


class Connection:
    """One client of the monitor (a scowd) on the socket *fd*, which it owns. *handle* gets its requests; *closed* hears
    when it goes."""

    def __init__(
        self,
        loop: ev.Loop,
        fd: int,
        handle: Callable[[Connection, Message], None],
        closed: Callable[[Connection], None],
    ) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._handle = handle
        self._closed = closed
        self._decoder = Decoder()
        self._out = b""
        self.open = True
        loop.watch(fd, ev.IN, self._ready)

    @property
    def flushed(self) -> bool:
        """Whether the peer was given everything, or is gone."""
        return not self._out or not self.open

    def send(self, message: Message) -> None:
        """*message* is on its way; dropped where the peer is gone."""
        if not self.open:
            return
        data = encode(message)
        if not self._out:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # gone: epoll tells it
        if data:
            self._out += data
            self._loop.change(self._fd, ev.IN | ev.OUT)

    def answer(self, seq: Any, result: Message) -> None:
        """The request *seq* succeeded."""
        self.send({"seq": seq, "ok": result})

    def refuse(self, seq: Any, message: str, kind: str, errno: int = 0) -> None:
        """The request *seq* failed."""
        self.send({"seq": seq, "error": {"message": message, "kind": kind, "errno": errno}})

    def detach(self) -> tuple[int, bytes]:
        """The descriptor is no control connection any more: it, and the bytes that followed the last message."""
        self._loop.unwatch(self._fd)
        self.open = False
        self._closed(self)
        return self._fd, self._decoder.rest()

    def close(self) -> None:
        """The connection is closed; not an error, scowd may just have died."""
        if self.open:
            self.open = False
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._closed(self)

    def _ready(self, events: int) -> None:
        if events & ev.OUT and not self._flush():
            return
        if events & (ev.IN | ev.HUP | ev.ERR):
            self._receive()

    def _flush(self) -> bool:
        try:
            self._out = self._out[os.write(self._fd, self._out) :]
        except BlockingIOError:
            return True
        except OSError:
            self.close()
            return False
        if not self._out:
            self._loop.change(self._fd, ev.IN)
        return True

    def _receive(self) -> None:
        try:
            data = os.read(self._fd, _RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._decoder.feed(data)
        try:
            while self.open and (message := self._decoder.take()) is not None:
                self._handle(self, message)
        except ProtocolError:
            self.close()
