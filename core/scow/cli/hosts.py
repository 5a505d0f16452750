"""Which engine to talk to: ``-H`` > ``SCOW_HOST`` > ``DOCKER_HOST`` > the default socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from scow.errors import InvalidArgument, Unsupported

DEFAULT_SOCKET = "/run/scow/scow.sock"
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"
TCP_PORT = 2375


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
    """The address in force; raises `InvalidArgument` for one that cannot be read.

    `Unsupported` where TLS is asked for (``https://``, ``DOCKER_TLS_VERIFY``): plain TCP must not stand in for it.
    """
    named = [("--host", flag), *((name, environ.get(name)) for name in ("SCOW_HOST", "DOCKER_HOST"))]
    origin, text = next(((origin, text) for origin, text in named if text), ("", DEFAULT_HOST))
    host = parse(text or DEFAULT_HOST, origin)
    if host.name and (host.text.startswith("https:") or environ.get("DOCKER_TLS_VERIFY")):
        hint = "forward the daemon's socket over SSH: ssh -L ./scow.sock:/run/scow/scow.sock HOST"
        raise Unsupported(f"TLS to {host.text} is not spoken by this version of scow", hint=hint)
    return host


def parse(text: str, origin: str) -> Host:
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
            return Host(text, "", name, port or TCP_PORT, origin)
    raise InvalidArgument(
        f"invalid host {text!r} (from {origin or 'the default'})", hint="use unix:///path/to.sock or tcp://name:port"
    )
