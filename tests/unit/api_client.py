"""A client of the API that hides nothing: one connection a request, the bytes as they are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from scow.testing.fakes_daemon import FakeDaemon

TIMEOUT_S = 10


class Reply(NamedTuple):
    """A response. *headers* have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Client:
    """Speaks to the daemon at a Unix socket."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self._path = daemon.host.removeprefix("unix://")

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A fresh connection."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(self._path)
            yield sock

    @contextmanager
    def opened(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, extra: bytes = b""
    ) -> Iterator[tuple[Reply, socket.socket]]:
        """The request is sent (with *extra* bytes right behind it) and the head of its response was read; its body is
        still to come on the socket, but for what came in one piece with the head."""
        with self.connected() as sock:
            sock.sendall(message(method, path, body, headers) + extra)
            yield read_head(sock), sock

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """The whole response."""
        with self.opened(method, path, body, headers) as (head, sock):
            if method == "HEAD" or head.status in (204, 304):
                return head
            data = head.body
            if "content-length" in head.headers:
                length = int(head.headers["content-length"])
                while len(data) < length:
                    data += sock.recv(65536)
                return head._replace(body=data)
            while not data.endswith(b"0\r\n\r\n"):
                more = sock.recv(65536)
                if not more:
                    raise ConnectionError(f"the response was cut off after {data!r}")
                data += more
            return head._replace(body=unchunked(data))

    def get(self, path: str) -> Reply:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        return self.call("POST", path, body, headers)

    def create(self, *command: str, name: str = "", **request: Any) -> str:
        """A container from the fake image; its id."""
        reply = self.post(f"/containers/create?name={name}", {"Image": "busybox", "Cmd": list(command), **request})
        assert reply.status == 201, reply
        return str(reply.json["Id"])

    def run(self, *command: str, name: str = "", **request: Any) -> str:
        """A started container; its id."""
        container = self.create(*command, name=name, **request)
        assert self.post(f"/containers/{container}/start").status == 204
        return container


UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


def message(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    """A request; *body* as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: docker", f"Content-Length: {len(data)}"]
    if data and "Content-Type" not in (headers or {}):
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def read_head(sock: socket.socket) -> Reply:
    """The response's head, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"no response but {data!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(first.split()[1]), headers, rest)


def unchunked(data: bytes) -> bytes:
    """The content of a chunked body."""
    content = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        content, data = content + data[:length], data[length + 2 :]
        if not length:
            break
    return content


def read_to_end(sock: socket.socket) -> bytes:
    """Everything until the peer closes."""
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def read_some(sock: socket.socket, count: int) -> bytes:
    """Exactly *count* bytes."""
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, data
        data += part
    return data
