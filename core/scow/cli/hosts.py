"""Which engine to talk to: ``-H`` > ``SCOW_HOST`` > ``DOCKER_HOST`` > the default socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from scow.errors import InvalidArgument

DEFAULT_SOCKET = "/run/scow/scow.sock"
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"
TCP_PORT = 2375
TLS_PORT = 2376


class Host(NamedTuple):
    """An engine's address: *path* of a Unix socket, or *name* and *port*; *origin* says who chose it."""

    text: str
    path: str
    name: str
    port: int
    origin: str

    @property
    def is_default(self) -> bool:
        """Nobody chose it: the one case in which the daemon may be started."""
        return self.origin == ""


def choose(flag: str | None, environ: Mapping[str, str]) -> Host:
    """The address in force; raises `InvalidArgument` for one that cannot be read."""
    if flag:
        return parse(flag, "--host")
    for variable in ("SCOW_HOST", "DOCKER_HOST"):
        if value := environ.get(variable):
            return parse(value, variable)
    return parse(DEFAULT_HOST, "")


def parse(text: str, origin: str, *, tls: bool = False) -> Host:
    """*text* as an address: ``unix:///path``, ``tcp://name:port``, or a bare path."""
    if text.startswith("/"):
        return Host(f"unix://{text}", text, "", 0, origin)
    if text.startswith("unix://"):
        path = text.removeprefix("unix://") or DEFAULT_SOCKET
        return Host(text, path, "", 0, origin)
    if text.startswith(("tcp://", "http://", "https://")):
        from urllib.parse import urlsplit

        url = urlsplit(text)
        try:
            name, port = url.hostname, url.port
        except ValueError as error:
            raise InvalidArgument(f"invalid host {text!r} (from {origin}): {error}") from error
        if name:
            return Host(text, "", name, port or (TLS_PORT if tls or url.scheme == "https" else TCP_PORT), origin)
    raise InvalidArgument(
        f"invalid host {text!r} (from {origin or 'the default'})", hint="use unix:///path/to.sock or tcp://name:port"
    )
