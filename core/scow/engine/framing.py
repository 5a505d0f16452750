"""Docker's multiplexed stream: each piece of output behind eight bytes, which stream it is of and how long."""

from __future__ import annotations

import struct
from typing import Protocol

STDOUT, STDERR = 1, 2
HEADER_BYTES = 8
_HEADER = struct.Struct(">BxxxI")


class Framing(Protocol):
    """How output is changed on its way to a client."""

    def feed(self, data: bytes) -> bytes:
        """What of the output so far is for the client."""


def frame(data: bytes, stream: int = STDOUT) -> bytes:
    """*data* as one frame."""
    return _HEADER.pack(stream, len(data)) + data


class AddFrames:
    """A terminal's output for a client that expects frames (an exec with a terminal, started without ``Tty``)."""

    def feed(self, data: bytes) -> bytes:
        """*data* as a frame of stdout."""
        return frame(data)


class StripFrames:
    """Framed output for a client that expects plain bytes: those of stdout, as Docker has it."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self._stream = STDOUT

    def feed(self, data: bytes) -> bytes:
        """The content of stdout's frames, also when they come in pieces."""
        found = []
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                if self._stream == STDOUT:
                    found.append(piece)
                continue
            missing = HEADER_BYTES - len(self._header)
            self._header, data = self._header + data[:missing], data[missing:]
            if len(self._header) == HEADER_BYTES:
                self._stream, self._left = _HEADER.unpack(self._header)
                self._header = b""
        return b"".join(found)


def between(process_tty: bool, client_tty: bool) -> Framing | None:
    """What stands between a process and its client: nothing where both have a terminal, or neither."""
    if process_tty == client_tty:
        return None
    return AddFrames() if process_tty else StripFrames()
