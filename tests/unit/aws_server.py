"""A stand-in for Amazon's ECR API on loopback, whose tokens expire when a test wants it; and moto's, which is whole."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


def aws_environment(monkeypatch: pytest.MonkeyPatch, home: Path, url: str, key: str = "AKIAEXAMPLE") -> None:
    """As for a user with one access key and nothing else, whose AWS is at *url*."""
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_CONFIG_FILE": str(home / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


class Amazon:
    """*life_s*: how long a token is good; *refusal*: (status, code) in place of one. *asked* holds for each request
    what was called, and the service, region and access key that it was signed for."""

    def __init__(self) -> None:
        self.url = ""
        self.life_s = 43200.0
        self.refusal: tuple[int, str] | None = None
        self.asked: list[tuple[str, str, str, str]] = []


@contextmanager
def serving_amazon() -> Iterator[Amazon]:
    """Serves until the end of the block."""
    amazon = Amazon()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            scope = self.headers["Authorization"].partition("Credential=")[2].partition(",")[0].split("/")
            amazon.asked.append((self.headers["X-Amz-Target"], scope[3], scope[2], scope[0]))
            if amazon.refusal is not None:
                status, code = amazon.refusal
                return self.answer(status, {"__type": code, "message": "no, and here is why"})
            token = base64.b64encode(f"AWS:token-{len(amazon.asked)}".encode()).decode()
            data = {"authorizationToken": token, "expiresAt": time.time() + amazon.life_s}
            return self.answer(200, {"authorizationData": data if scope[3] == "ecr-public" else [data]})

        def answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with _serving(Handler) as amazon.url:
        yield amazon


@contextmanager
def serving_role(key: str) -> Iterator[str]:
    """The URL of the credentials of a container's role, as in ECS and EKS; their access key is *key*."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            names = {
                "AccessKeyId": key,
                "SecretAccessKey": "s3cret",
                "Token": "t",
                "Expiration": "2099-01-01T00:00:00Z",
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(names).encode())

    with _serving(Handler) as url:
        yield f"{url}/role"


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running_moto() -> Iterator[str]:
    """The URL of moto's AWS, in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
