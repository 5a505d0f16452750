"""A tiny HTTP server on a Unix socket, in this process: what the command line's tests talk to.

Routes are `(method, path pattern)` → handler; a handler answers with `Reply`, or takes the connection over.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

VERSION = re.compile(r"^/v1\.\d+")


@dataclass
class Request:
    """What came in: *path* without the API version, *query* with one value a key, *body* as bytes."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler
    match: re.Match[str] | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"null")

    def take_over(self, protocol: str = "tcp") -> socket.socket:
        """Answer 101 and give the connection."""
        self.handler.wfile.write(
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
            b"Connection: Upgrade\r\nUpgrade: " + protocol.encode() + b"\r\n\r\n"
        )
        self.handler.close_connection = True
        return self.handler.connection  # type: ignore[no-any-return]


@dataclass
class Reply:
    """An answer; *chunks* is sent in chunked encoding, *body* with its length."""

    status: int = 200
    body: Any = None
    chunks: Iterator[bytes] | list[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Reply | None]


class FakeEngine:
    """Holds routes and every request that came in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[Request] = []
        self.routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self.on("GET|HEAD", "/_ping", lambda _: Reply(200, b"OK", headers={"Api-Version": "1.50", "Ostype": "linux"}))

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    def on(self, method: str, pattern: str, answer: Handler | Any) -> None:
        """Later routes win; *answer* is a handler, a `Reply` or a JSON value."""
        handler = (
            answer if callable(answer) else (lambda _: answer if isinstance(answer, Reply) else Reply(200, answer))
        )
        self.routes.insert(0, (method, re.compile(pattern), handler))

    def sent(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and r.path == path]

    def answer(self, request: Request) -> Reply | None:
        self.requests.append(request)
        for method, pattern, handler in self.routes:
            match = pattern.fullmatch(request.path)
            if match and request.method in method.split("|"):
                request.match = match
                return handler(request)
        return Reply(404, {"message": f"page not found: {request.method} {request.path}"})


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def _handler(engine: FakeEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(self._read_chunks())
            else:
                body = self.rfile.read(length)
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
            reply = engine.answer(Request(self.command, VERSION.sub("", url.path), query, body, self))
            if reply is not None:
                self._reply(reply)

        def _read_chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def _reply(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.chunks is not None:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for chunk in reply.chunks:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.write(b"0\r\n\r\n")
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            if reply.status in (204, 304):
                body = b""
            else:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

        def log_message(self, *_: Any) -> None:
            return

    return Handler


@contextmanager
def serve(path: Path) -> Iterator[FakeEngine]:
    """A `FakeEngine` that listens on *path* until the block ends."""
    engine = FakeEngine(path)
    server = _Server(str(path), _handler(engine))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
