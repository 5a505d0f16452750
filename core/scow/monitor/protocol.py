"""How scowd, zygote and monitors talk: framing, descriptors, addresses.

Two kinds of socket:

* scowd - zygote: one ``SOCK_SEQPACKET`` pair, one JSON object a packet, a descriptor beside ``spawn`` (`send_packet`).
* scowd - monitor: streams; each message is a 4-byte big-endian length and a JSON object (`encode`, `Decoder`). Requests
  ``{"op": …, "seq": n, …}`` are answered ``{"seq": n, "ok": {…}}`` or ``{"seq": n, "error": {"message", "kind",
  "errno"}}``; events carry ``"event"`` and no ``seq``. Additions only: unknown members are ignored, unknown operations
  are refused with kind ``unsupported``; ``hello`` tells version and capabilities.

Standard library only: the zygote imports this before its heap is frozen.
"""

from __future__ import annotations

import _socket
import os
import socket
import struct
from typing import Any

from scow.plain_json import decode_json, encode_json

VERSION = 1
MAX_MESSAGE = 64 << 20
MAX_PACKET = 1 << 16
MAX_REQUEST = 4096  # of scowd to the zygote
_LENGTH = struct.Struct("!I")
_FD = struct.Struct("i")
# Plain numbers and the C type for what is made after a fork: the enumerations of `socket` cost 80 pages (measured).
_UNIX = int(socket.AF_UNIX)
_ANCILLARY_BYTES = socket.CMSG_SPACE(_FD.size)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_SOL_SOCKET, _SCM_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_LISTENER = int(socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

Message = dict[str, Any]


class ProtocolError(Exception):
    """The other side sent what is no message; the connection cannot be used any further."""


def encode(message: Message) -> bytes:
    """*message* as it goes over a stream."""
    body = encode_json(message)
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a stream into messages: `feed` it bytes, `take` until None; `rest` is what follows the last one taken."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """*data* follows what was fed before."""
        self._buffer += data

    def take(self) -> Message | None:
        """The next whole message, None when there is none yet. Raises `ProtocolError`."""
        if len(self._buffer) < 4:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise ProtocolError(f"message of {length} bytes")
        if len(self._buffer) < 4 + length:
            return None
        body = self._buffer[4 : 4 + length]
        self._buffer = self._buffer[4 + length :]
        try:
            message = decode_json(body.decode())
        except ValueError as error:
            raise ProtocolError(f"malformed message: {error}") from error
        if not isinstance(message, dict):
            raise ProtocolError("a message is an object")
        return message

    def rest(self) -> bytes:
        """The bytes after the last message taken; the decoder is empty afterwards."""
        rest, self._buffer = self._buffer, b""
        return rest


def send_packet(sock: _socket.socket, message: Message, fd: int | None = None) -> None:
    """*message* went to the zygote's peer as one packet, with a duplicate of *fd* (SCM_RIGHTS)."""
    ancillary = [] if fd is None else [(_SOL_SOCKET, _SCM_RIGHTS, _FD.pack(fd))]
    sock.sendmsg([encode_json(message)], ancillary)


def receive_packet(sock: _socket.socket) -> tuple[Message | None, int | None]:
    """The next packet and its descriptor (close-on-exec); ``(None, None)`` at the end. Raises `BlockingIOError`."""
    data, fd = receive_raw(sock)
    return (decode_json(data.decode()) if data else None), fd


def receive_raw(sock: _socket.socket, limit: int = MAX_PACKET) -> tuple[bytes, int | None]:
    """As `receive_packet`, the message still encoded; what is longer than *limit* bytes is cut."""
    data, ancillary, _flags, _address = sock.recvmsg(limit, _ANCILLARY_BYTES, _CLOEXEC)
    fd: int | None = None
    for level, kind, payload in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS and len(payload) >= _FD.size:
            (fd,) = _FD.unpack_from(payload)
    return data, fd


def socket_name(container_id: str) -> str:
    """The file name of a monitor's socket in ``<run root>/m``."""
    return f"{container_id[:12]}.sock"


def listen(directory_fd: int, name: str) -> _socket.socket:
    """A listening stream socket at *name* in the directory, in place of a stale one; no path is too long for it."""
    if os.access(name, os.F_OK, dir_fd=directory_fd):
        os.unlink(name, dir_fd=directory_fd)
    listener = _socket.socket(_UNIX, _LISTENER)
    listener.bind(f"/proc/self/fd/{directory_fd}/{name}")
    listener.listen(128)
    return listener


def start_ticks(pid: int) -> int:
    """When *pid* started, in clock ticks since boot (field 22 of proc(5) stat): with the pid, its identity."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(fd, 1024)
    finally:
        os.close(fd)
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
