"""What every command is given: the engine to talk to, connected when first used."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING

from scow.cli.hosts import Host, choose

if TYPE_CHECKING:
    from scow.cli.client import Client


class Session:
    """The chosen host and the client for it; *host_flag* is the value of ``-H``."""

    def __init__(self, host_flag: str | None = None) -> None:
        self.host_flag = host_flag
        self.starts_daemon = True
        self._clients: list[Client] = []

    @cached_property
    def host(self) -> Host:
        return choose(self.host_flag, os.environ)

    @cached_property
    def client(self) -> Client:
        from scow.cli.client import Client

        starts = self.host.is_default and self.starts_daemon
        client = Client(self.host, starter=self._start_daemon if starts else None)
        self._clients.append(client)
        return client

    def another(self) -> Client:
        """A client with connections of its own, for another thread."""
        from scow.cli.client import Client

        client = Client(self.host)
        client.version = self.client.version
        self._clients.append(client)
        return client

    def close(self) -> None:
        """All connections are closed."""
        for client in self._clients:
            client.close()

    def _start_daemon(self) -> bool:
        from scow.cli.autostart import start

        return start(self.host.path)


def write(line: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(line + "\n")


def note(line: str) -> None:
    """One line on standard error, after what standard output holds so far."""
    sys.stdout.flush()
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
