"""An HTTP proxy on loopback that leads wherever a test wants, for names that no resolver knows.

::

    with Proxy("127.0.0.1:40321") as proxy:          # whatever is asked for, that answers
        proxy.address                                # "127.0.0.1:38123"
"""

from __future__ import annotations

import base64
import select
import socket
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit


class Proxy(ThreadingTCPServer):
    """A proxy that sends whatever it is asked for to *target*; *heard* are the first lines and headers."""

    daemon_threads = True

    def __init__(self, target: str, user: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.target, self.user = target, user
        self.heard: list[str] = []
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class _ProxyHandler(StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        lines = []
        while (line := self.rfile.readline().decode()).strip():
            lines.append(line.strip())
        self.server.heard += lines
        secret = base64.b64encode(self.server.user.encode()).decode()
        if self.server.user and f"Proxy-Authorization: Basic {secret}" not in lines:
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = self.server.target.rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            method, target, version = lines[0].split(" ")
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                parts = urlsplit(target)
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                kept = [line for line in lines[1:] if not line.startswith(("Connection:", "Proxy-"))]
                upstream.sendall(
                    "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""]).encode()
                )
            self.relay(upstream)

    def relay(self, upstream: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([self.connection, upstream], [], [])
            for source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                (upstream if source is self.connection else self.connection).sendall(data)
