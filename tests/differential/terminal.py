"""The receiving end of ``--console-socket``."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from pathlib import Path


class Console:
    """A socket at `path`; `take` waits for the terminal, `read` reads it to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(10)
        self._master = -1

    def take(self) -> None:
        """The terminal's master is ours. TimeoutError where no runtime sent it."""
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(10)
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        self._master = fds[0]

    def size(self) -> str:
        """Rows and columns."""
        return " ".join(map(str, struct.unpack("4H", fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(8)))[:2]))

    def write(self, text: str) -> None:
        """*text* is typed."""
        os.write(self._master, text.encode())

    def read(self, seconds: float = 10.0) -> str:
        """What the terminal shows until nobody has it open any more."""
        text = b""
        while select.select([self._master], [], [], seconds)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                break
            if not data:
                break
            text += data
        return text.decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        self._socket.close()
        if self._master >= 0:
            os.close(self._master)
