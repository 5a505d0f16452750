"""The socket on which a runtime program hands out the master of a terminal (runc: docs/terminals.md)."""

from __future__ import annotations

import os
import select
import socket
import struct

from scow.errors import ScowError

_TIMEOUT_MS = 10_000  # it was sent before the program ended
_NAME_BYTES = 4096


class Console:
    """A socket in the working directory, called *name*: `path` is relative, since sun_path ends after 107 bytes. The
    program must run in this directory, or change to it as runc does with the bundle's."""

    def __init__(self, name: str) -> None:
        self.path = name
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._listener.bind(name)
        finally:
            os.umask(before)
        self._listener.listen(1)

    def receive(self) -> int:
        """The master that the program sent. Raises `ScowError` where it sent none."""
        self._wait(self._listener)
        connection, _address = self._listener.accept()
        with connection:
            self._wait(connection)
            _name, ancillary, _flags, _peer = connection.recvmsg(_NAME_BYTES, socket.CMSG_SPACE(4))
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                (fd,) = struct.unpack_from("i", data)
                os.set_inheritable(fd, False)
                return int(fd)
        raise ScowError("the runtime program sent no terminal")

    def close(self) -> None:
        """The socket is gone."""
        self._listener.close()
        os.unlink(self.path)

    def _wait(self, sock: socket.socket) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not poll.poll(_TIMEOUT_MS):
            raise ScowError("the runtime program sent no terminal")
