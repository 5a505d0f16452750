"""A small HTTP/1.1 client for the Engine API over a Unix or TCP socket.

`http.client` costs 20 ms of imports (email, ssl), a quarter of the budget of ``scow ps``; what the API needs of HTTP is
little: one request at a time on a kept connection, lengths, chunks, and connections that are taken over (101).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from scow import __version__
from scow.cli.failures import failure
from scow.cli.hosts import Host
from scow.errors import InvalidArgument, Unavailable

API_VERSION = "1.56"
READ_SIZE = 256 * 1024
HEADER_LIMIT = 64 * 1024
Query = Mapping[str, object]


class Connection:
    """A connected socket and what was read from it too early."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def fileno(self) -> int:
        return self.sock.fileno()

    def line(self) -> bytes:
        """The next line without its end; `Unavailable` where the peer closed."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            if len(self.buffer) > HEADER_LIMIT:
                raise Unavailable("the daemon sent a header line of more than 64 KiB")
            data = self.sock.recv(READ_SIZE)
            if not data:
                raise Unavailable("the daemon closed the connection", hint="see the daemon's log for the reason")
            self.buffer += data
        line, self.buffer = self.buffer[:end], self.buffer[end + 2 :]
        return line

    def some(self, limit: int = READ_SIZE) -> bytes:
        """At least one and at most *limit* bytes, ``b""`` at the end."""
        if self.buffer:
            data, self.buffer = self.buffer[:limit], self.buffer[limit:]
            return data
        return self.sock.recv(min(limit, READ_SIZE))

    def close_write(self) -> None:
        """Half-close: the peer reads the end, and can still answer."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer was quicker
            return

    def close(self) -> None:
        self.sock.close()


class Response:
    """An answer whose body is still on the wire; read it to the end, or close it."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str], *, has_body: bool) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        self._left = 0 if not has_body else -1 if self._chunked or length is None else int(length)
        self.done = self._left == 0
        self.reusable = "close" not in headers.get("connection", "").lower()

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        if self.done:
            return
        if self._chunked:
            yield from self._chunked_body()
        elif self._left < 0:
            self.reusable = False
            while data := self.connection.some():
                yield data
        else:
            while self._left:
                data = self.connection.some(self._left)
                if not data:
                    raise Unavailable(f"the daemon closed the connection {self._left} bytes too early")
                self._left -= len(data)
                yield data
        self.done = True

    def _chunked_body(self) -> Iterator[bytes]:
        while True:
            size = int(self.connection.line().split(b";", 1)[0] or b"0", 16)
            if not size:
                break
            while size:
                data = self.connection.some(size)
                if not data:
                    raise Unavailable("the daemon closed the connection in the middle of an answer")
                size -= len(data)
                yield data
            self.connection.line()
        while self.connection.line():
            pass

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        """The body decoded; None where there is none."""
        body = self.read()
        return json.loads(body) if body.strip() else None

    def messages(self) -> Iterator[Any]:
        """A stream of JSON values, one a line (progress, events, stats)."""
        rest = b""
        for data in self.chunks():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
        if rest.strip():
            yield json.loads(rest)

    def close(self) -> None:
        self.connection.close()
        self.done = True
        self.reusable = False


class Client:
    """Requests to one engine. *starter* is called once when nobody listens; it answers whether to try again."""

    def __init__(self, host: Host, *, starter: Callable[[], bool] | None = None) -> None:
        self.host = host
        self.version = os.environ.get("DOCKER_API_VERSION") or API_VERSION
        self._starter = starter
        self._idle: Connection | None = None
        self._connections: list[Connection] = []

    def connect(self) -> Connection:
        """A new connection; raises `Unavailable`, with what to do about it."""
        try:
            connection = Connection(self._dial())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if self._starter is not None:
                starter, self._starter = self._starter, None
                if starter():
                    return self.connect()
            raise self._unreachable(error) from error
        except OSError as error:
            raise self._unreachable(error) from error
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Every connection is closed, also those that were taken over."""
        self._idle = None
        while self._connections:
            self._connections.pop().close()

    def _dial(self) -> socket.socket:
        if self.host.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                _connect_unix(sock, self.host.path)
            except OSError:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((self.host.name, self.host.port), timeout=30)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _unreachable(self, error: OSError) -> Unavailable:
        reason = (error.strerror or str(error)).lower()
        if isinstance(error, PermissionError):
            hint = "run the command as root, or as a member of the socket's group"
        elif self.host.is_default:
            hint = "start the daemon as root with 'scowd', or run the command as root: it starts the daemon itself"
        else:
            hint = f"the address comes from {self.host.origin}; is the daemon running there?"
        return Unavailable(f"cannot connect to the scow daemon at {self.host.text}: {reason}", hint=hint)

    def get(self, path: str, **query: object) -> Any:
        return self.request("GET", path, query)

    def post(self, path: str, body: object = None, **query: object) -> Any:
        return self.request("POST", path, query, body)

    def delete(self, path: str, **query: object) -> Any:
        return self.request("DELETE", path, query)

    def request(self, method: str, path: str, query: Query = {}, body: object = None) -> Any:  # noqa: B006
        """The decoded JSON answer; raises the `ScowError` that the daemon meant."""
        response = self.open(method, path, query, body)
        value = response.json()
        self._keep(response)
        return value

    def open(
        self,
        method: str,
        path: str,
        query: Query = {},  # noqa: B006
        body: object = None,
        *,
        headers: Mapping[str, str] = {},  # noqa: B006
        upload: Iterable[bytes] | None = None,
    ) -> Response:
        """Send, and answer as soon as the header is here; *upload* goes out in chunks in place of *body*."""
        response = self._exchange(method, path, query, body, headers, upload)
        if response.status < 400:
            return response
        error = failure(response.status, response.read(), f"{method} {path}")
        self._keep(response)
        if isinstance(error, InvalidArgument) and upload is None and self._downgrade(error.message):
            return self.open(method, path, query, body, headers=headers)
        raise error

    def hijack(self, path: str, query: Query = {}, body: object = None) -> Connection:  # noqa: B006
        """POST with an upgrade: the connection, which is a raw byte stream from now on."""
        response = self.open("POST", path, query, body, headers={"Connection": "Upgrade", "Upgrade": "tcp"})
        if response.status not in (101, 200):
            response.close()
            raise Unavailable(f"the daemon did not hand over the connection for {path} (status {response.status})")
        return response.connection

    def _exchange(
        self,
        method: str,
        path: str,
        query: Query,
        body: object,
        headers: Mapping[str, str],
        upload: Iterable[bytes] | None,
    ) -> Response:
        head, data = self._encode(method, path, query, body, headers, upload is not None)
        idle, self._idle = self._idle, None
        if idle is not None and upload is None:
            try:
                idle.sock.sendall(head + data)
                return self._answer(idle, method)
            except (Unavailable, OSError):  # closed while idle: the request was not read
                idle.close()
        connection = self.connect()
        try:
            connection.sock.sendall(head + data)
            for block in upload or ():
                if block:
                    connection.sock.sendall(b"%x\r\n%s\r\n" % (len(block), block))
            if upload is not None:
                connection.sock.sendall(b"0\r\n\r\n")
        except OSError as error:  # the daemon may have answered before it read everything
            if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                raise Unavailable(f"cannot send to the daemon: {(error.strerror or str(error)).lower()}") from error
        return self._answer(connection, method)

    def _encode(
        self, method: str, path: str, query: Query, body: object, headers: Mapping[str, str], chunked: bool
    ) -> tuple[bytes, bytes]:
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        prefix = "" if path.startswith("/scow/") else f"/v{self.version}"
        lines = [
            f"{method} {prefix}{path}{encode_query(query)} HTTP/1.1",
            f"Host: {self.host.name or 'scow'}",
            f"User-Agent: scow/{__version__}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if data or not chunked and method == "POST":
            lines.append(f"Content-Length: {len(data)}")
        if data:
            lines.append("Content-Type: application/json")
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        return ("\r\n".join(lines) + "\r\n\r\n").encode(), data

    def _answer(self, connection: Connection, method: str) -> Response:
        try:
            status = 100
            while status == 100:
                status, headers = _read_head(connection)
        except OSError as error:
            raise Unavailable(f"the daemon hung up: {(error.strerror or str(error)).lower()}") from error
        return Response(connection, status, headers, has_body=method != "HEAD" and status not in (101, 204, 304))

    def _keep(self, response: Response) -> None:
        if response.done and response.reusable and self._idle is None:
            self._idle = response.connection
        else:
            response.close()

    def _downgrade(self, message: str) -> bool:
        """An older daemon says which version it speaks: use that one."""
        _, found, version = message.partition("Maximum supported API version is ")
        if not found or os.environ.get("DOCKER_API_VERSION"):
            return False
        self.version, old = version.strip().rstrip("."), self.version
        return self.version != old


def encode_query(query: Query) -> str:
    """``?a=b``; true as 1, mappings as JSON, lists as one pair each, without what is None, false or empty."""
    pairs = [(name, item) for name, value in query.items() for item in (value if isinstance(value, list) else [value])]
    parts: list[str] = []
    for name, value in pairs:
        if value is None or value is False or value == "" or value == {}:
            continue
        text = "1" if value is True else json.dumps(value) if isinstance(value, dict) else str(value)
        parts.append(f"{name}={quote(text, safe='')}")
    return "?" + "&".join(parts) if parts else ""


def path_of(text: str) -> str:
    """*text* as a piece of a request's path; slashes of image names stay."""
    return quote(text, safe="/:@")


def _read_head(connection: Connection) -> tuple[int, dict[str, str]]:
    words = connection.line().decode("latin-1").split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise Unavailable("what listens there does not speak HTTP", hint="is the address that of an engine's API?")
    headers: dict[str, str] = {}
    while line := connection.line():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(words[1]), headers


def _connect_unix(sock: socket.socket, path: str) -> None:
    """A socket's path holds 107 bytes; a longer one is reached through its directory's descriptor."""
    if len(os.fsencode(path)) < 108:
        sock.connect(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)
