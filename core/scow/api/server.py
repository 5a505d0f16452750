"""The Engine API's server: which routes there are, and the sockets it listens on."""

from __future__ import annotations

import asyncio
import errno
import grp
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from scow.api import (
    archives,
    attach,
    containers,
    disk_usage,
    images,
    networks,
    prune,
    registry,
    system,
    unbuilt,
    volumes,
)
from scow.api import exec as execs
from scow.api.dispatch import Dispatcher
from scow.api.early import EarlyServer
from scow.api.routing import Router
from scow.config import TlsConfig
from scow.errors import Conflict, InvalidArgument, SyscallError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scow.api.routing import Route
    from scow.engine.engine import Engine

HEADER_LIMIT_BYTES = 1 << 20  # Docker's; credentials for many registries come in one header
BODY_LIMIT_BYTES = 16 << 20  # of JSON bodies; streams are not limited
BACKLOG = 512
SOCKET_GROUP = "docker"
SHUTDOWN_S = 2.0


def routes() -> list[Route]:
    """Every route of the API, those first that do something."""
    groups = (
        containers,
        attach,
        execs,
        images,
        archives,
        registry,
        networks,
        volumes,
        system,
        prune,
        disk_usage,
        unbuilt,
    )
    return [route for group in groups for route in group.ROUTES]


class Runner(web.ServerRunner):
    """The API of one engine while it is served; `cleanup` ends it: streams at once, changes within `SHUTDOWN_S`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(make_app(dispatcher), shutdown_timeout=SHUTDOWN_S)
        self._dispatcher = dispatcher
        self._bound: list[tuple[str, os.stat_result]] = []

    async def add(self, host: str) -> None:
        """The API is served at *host*, too; see `listen` for its forms and errors."""
        sock = listen(host)
        if sock.family == socket.AF_UNIX and host.startswith("unix:"):
            path = host.removeprefix("unix://")
            self._bound.append((path, os.stat(path)))
        await web.SockSite(self, sock, backlog=BACKLOG).start()

    async def shutdown(self) -> None:
        """Part of `cleanup`."""
        self._dispatcher.stop()

    async def cleanup(self) -> None:
        """Nothing is served any more, and the sockets in the filesystem are gone (but not another daemon's)."""
        await super().cleanup()
        for path, made in self._bound:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(path), made):
                    os.unlink(path)


def make_app(dispatcher: Dispatcher) -> web.Server:
    """The aiohttp server of *dispatcher*; must be called in the event loop that serves.

    aiohttp's low-level server: its `Application` would add its own routing to each request.
    """
    make_request = partial(web.BaseRequest, loop=asyncio.get_running_loop(), client_max_size=BODY_LIMIT_BYTES)
    return EarlyServer(
        dispatcher,
        request_factory=make_request,
        handler_cancellation=True,
        access_log=None,
        max_field_size=HEADER_LIMIT_BYTES,
    )


async def serve(engine: Engine, hosts: Sequence[str], extra: Iterable[Route] = ()) -> list[Runner]:
    """The API is served at *hosts* (``unix:///path``, ``tcp://127.0.0.1:2375``, ``fd://3``) until each runner answered
    is cleaned up (``await runner.cleanup()``). *extra* routes (of plugins) come after the API's own.

    Raises `InvalidArgument` for an address that is not served, `Conflict` where another process listens there,
    `Unsupported` for TCP where TLS is configured: plain TCP must not stand in for it.
    """
    if engine.config.tls != TlsConfig() and any(host.startswith("tcp:") for host in hosts):
        raise Unsupported("TLS is not served by this version of scow", hint="remove tls or the tcp:// hosts")
    runner = Runner(Dispatcher(engine, Router.of([*routes(), *extra])))
    await runner.setup()
    try:
        for host in hosts:
            await runner.add(host)
    except BaseException:
        await runner.cleanup()
        raise
    return [runner]


def listen(host: str) -> socket.socket:
    """A socket bound to *host*, not yet listening; see `serve` for the forms and errors."""
    url = urlsplit(host)
    try:
        if url.scheme == "unix" and url.path:
            return _unix_socket(Path(url.netloc + url.path))
        if url.scheme == "tcp":
            return _tcp_socket(url.hostname or "127.0.0.1", url.port or 2375)
        if url.scheme == "fd" and url.netloc.isdigit():
            return _inherited_socket(int(url.netloc))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{host} is in use by another process") from error
        raise SyscallError(error.errno or 0, "bind", host) from error
    raise InvalidArgument(f"cannot listen on {host!r}", hint="expected unix:///path, tcp://127.0.0.1:port or fd://n")


def _unix_socket(path: Path) -> socket.socket:
    """Bound at *path* with mode 0660 and the group ``docker`` (root's own where there is none).

    The path is reached through a directory descriptor: a socket address holds only 107 bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        address = f"/proc/self/fd/{directory}/{path.name}"
        _remove_stale(address, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(address)
            os.chmod(address, 0o660)
            if os.geteuid() == 0:
                os.chown(address, 0, _group_id())
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(directory)


def _group_id() -> int:
    try:
        return grp.getgrnam(SOCKET_GROUP).gr_gid
    except KeyError:
        return 0


def _remove_stale(address: str, path: Path) -> None:
    """Removes the socket of a process that is gone; raises `Conflict` for one that listens or for another file."""
    try:
        mode = os.lstat(address).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(address)
            return
    raise Conflict(f"unix://{path} is in use by another process")


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InvalidArgument(f"cannot listen on tcp://{host}:{port}: not an address of this host") from None
    if not address.is_loopback:
        raise InvalidArgument(
            f"refusing to listen on tcp://{host}:{port}: whoever reaches the API is root on this host",
            hint="listen on a loopback address and forward it over SSH",
        )
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _inherited_socket(descriptor: int) -> socket.socket:
    """The listening socket that systemd passed as *descriptor* (sd_listen_fds(3))."""
    return socket.socket(fileno=descriptor)
