"""A small registry over HTTP in this process, on loopback, that misbehaves when it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from scow.testing.fakes_registry import SmallImage


@dataclass
class Fault:
    """What the next *times* requests whose line contains *match* get: *status* and *headers*, or the true answer cut
    after *cut* bytes."""

    match: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    times: int = 1


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


class Registry:
    """*auth* is ``""``, ``basic`` or ``bearer`` (its token server is ``/token``); *elsewhere* (``host:port``) is where
    blobs are redirected to."""

    def __init__(self) -> None:
        self.host = ""
        self.auth = ""
        self.users: dict[str, str] = {}
        self.refresh_token = ""
        self.expires_in: float = 300
        self.elsewhere = ""
        self.ranges = True
        self.page = 1000
        self.found: list[dict[str, Any]] | None = None  # what every search finds
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.digest_header: str | None = None
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.tokens: dict[str, set[str]] = {}

    def add(self, repository: str, tag: str, image: SmallImage) -> None:
        entry = (image.manifest.descriptor.media_type, image.manifest.data)
        self.manifests[repository, tag] = self.manifests[repository, image.manifest.descriptor.digest] = entry
        for digest, blob in image.blobs.items():
            self.blobs[repository, digest] = blob

    def count(self, match: str) -> int:
        """How many requests' lines contain *match*."""
        return sum(match in asked.line for asked in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = Asked(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
        self.registry.asked.append(asked)
        self.cut: int | None = None
        for fault in self.registry.faults:
            if fault.times > 0 and fault.match in asked.line:
                fault.times -= 1
                if fault.status:
                    return self.answer(fault.status, fault.body, fault.headers)
                self.cut = fault.cut
                break
        path = urlsplit(self.path).path
        if path == "/token":
            return self.token(asked)
        if path.startswith("/cdn/"):
            return self.blob(self.registry.blobs[tuple(path[5:].rsplit("/", 1))])  # type: ignore[index]
        if path == "/v1/search" and self.registry.found is not None:
            return self.answer(200, json.dumps({"results": self.registry.found}).encode())
        if not path.startswith("/v2/"):
            return self.answer(404)
        if (refused := self.refused(asked)) is not None:
            return self.answer(401, _errors("UNAUTHORIZED", "authentication required"), refused)
        return self.route(path[4:], asked)

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if self.cut is None else body[: self.cut])
        if self.cut is not None:
            self.close_connection = True

    def refused(self, asked: Asked) -> Mapping[str, str] | None:
        given = asked.headers.get("Authorization", "")
        if self.registry.auth == "basic" and self.user(given) is None:
            return {"WWW-Authenticate": 'Basic realm="registry"'}
        if self.registry.auth == "bearer":
            scope = _scope(urlsplit(asked.path).path[4:], asked.method)
            held = self.registry.tokens.get(given.removeprefix("Bearer "))
            if held is None or (scope and not _covers(held, scope)):
                realm = f'Bearer realm="http://{self.registry.host}/token",service="test"'
                return {"WWW-Authenticate": realm + (f',scope="{scope}"' if scope else "")}
        return None

    def user(self, authorization: str) -> str | None:
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return name if name in self.registry.users and self.registry.users[name] == password else None

    def token(self, asked: Asked) -> None:
        query = parse_qs(asked.body.decode() if asked.method == "POST" else urlsplit(asked.path).query)
        if asked.method == "POST":
            allowed = query.get("refresh_token") == [self.registry.refresh_token]
        else:
            given = asked.headers.get("Authorization", "")
            allowed = not self.registry.users if not given else self.user(given) is not None
        if not allowed and (asked.method == "POST" or asked.headers.get("Authorization")):
            return self.answer(401, _errors("UNAUTHORIZED", "incorrect username or password"))
        value = f"token-{len(self.registry.tokens)}"
        scopes = {part for text in query.get("scope", []) for part in text.split()}
        self.registry.tokens[value] = scopes if allowed else set()
        body: dict[str, Any] = {"token": value, "expires_in": self.registry.expires_in}
        if "offline_token" in query:
            body["refresh_token"] = self.registry.refresh_token
        return self.answer(200, json.dumps(body).encode())

    def route(self, path: str, asked: Asked) -> None:
        registry = self.registry
        if path == "":
            return self.answer(200, b"{}")
        if "/manifests/" in path:
            repository, _, name = path.partition("/manifests/")
            if asked.method == "PUT":
                entry = (asked.headers["Content-Type"], asked.body)
                digest = "sha256:" + hashlib.sha256(asked.body).hexdigest()
                registry.manifests[repository, name] = registry.manifests[repository, digest] = entry
                return self.answer(201)
            found = registry.manifests.get((repository, name))
            if found is None:
                return self.answer(404, _errors("MANIFEST_UNKNOWN", "manifest unknown"))
            said = registry.digest_header or "sha256:" + hashlib.sha256(found[1]).hexdigest()
            return self.answer(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": said})
        if path.endswith("/tags/list"):
            return self.tags(path.removesuffix("/tags/list"), parse_qs(urlsplit(asked.path).query))
        repository, _, name = path.partition("/blobs/")
        if name.startswith("uploads/"):
            return self.upload(repository, asked)
        if (repository, name) not in registry.blobs:
            return self.answer(404, _errors("BLOB_UNKNOWN", "blob unknown"))
        if registry.elsewhere:
            return self.answer(
                307, b"", {"Location": f"http://{registry.elsewhere}/cdn/{repository}/{name}?signature=s3cret"}
            )
        return self.blob(registry.blobs[repository, name])

    def blob(self, data: bytes) -> None:
        wanted = self.headers.get("Range", "")
        if wanted and self.registry.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(data)
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            return self.answer(206, data[start:end], headers)
        return self.answer(200, data)

    def upload(self, repository: str, asked: Asked) -> None:
        query = parse_qs(urlsplit(asked.path).query)
        if asked.method == "POST":
            digest = query.get("mount", [""])[0]
            source = (query.get("from", [""])[0], digest)
            if source in self.registry.blobs:
                self.registry.blobs[repository, digest] = self.registry.blobs[source]
                return self.answer(201)
            return self.answer(202, b"", {"Location": f"/v2/{repository}/blobs/uploads/session?state=1"})
        digest = query["digest"][0]
        if "sha256:" + hashlib.sha256(asked.body).hexdigest() != digest:
            return self.answer(400, _errors("DIGEST_INVALID", "provided digest did not match uploaded content"))
        self.registry.blobs[repository, digest] = asked.body
        return self.answer(201)

    def tags(self, repository: str, query: dict[str, list[str]]) -> None:
        names = sorted(tag for name, tag in self.registry.manifests if name == repository and ":" not in tag)
        if not names:
            return self.answer(404, _errors("NAME_UNKNOWN", "repository name not known to registry"))
        after = query.get("last", [""])[0]
        page = [name for name in names if name > after][: self.registry.page]
        more = bool(page) and page[-1] != names[-1]
        link = f'</v2/{repository}/tags/list?last={page[-1]}&n={self.registry.page}>; rel="next"' if more else ""
        return self.answer(200, json.dumps({"name": repository, "tags": page}).encode(), {"Link": link} if link else {})


def _covers(held: set[str], scope: str) -> bool:
    """``repository:x:pull,push`` is good for ``repository:x:pull``."""
    resource, _, actions = scope.rpartition(":")
    granted = {
        action for text in held if text.startswith(f"{resource}:") for action in text.rpartition(":")[2].split(",")
    }
    return granted.issuperset(actions.split(","))


def _scope(path: str, method: str) -> str:
    for mark in ("/manifests/", "/blobs/", "/tags/"):
        if mark in path:
            repository = path.partition(mark)[0]
            return (
                f"repository:{repository}:pull,push" if method in ("POST", "PUT") else f"repository:{repository}:pull"
            )
    return ""


def _errors(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def serving() -> Iterator[Registry]:
    """A registry that serves until the end of the block."""
    registry = Registry()
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
