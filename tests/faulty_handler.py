"""The HTTP side of tests/faulty_registry.py: one request, answered truly or with the fault that it meets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.faulty_registry import Asked, Fault, Registry, Token

_BLOCK = 1 << 16
_LONGEST_HANG_S = 60.0


class Dropped(Exception):
    """The connection is to be closed without another word."""


class Handler(BaseHTTPRequestHandler):
    """Serves `registry`, which `serving` binds."""

    protocol_version = "HTTP/1.1"
    registry: Registry
    fault: Fault

    def setup(self) -> None:
        super().setup()
        with self.registry.lock:
            self.registry.connections += 1

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.fault = self.registry.take_fault(f"{self.command} {self.path}")
        try:
            asked = Asked(self.command, self.path, dict(self.headers.items()), self.body())
            self.registry.asked.append(asked)
            self.registry.before_answer(asked.line)
            if self.fault.take is not None:
                self.partial(asked)
            if self.fault.hang and self.fault.cut is None:
                self.hang()
            if self.fault.status:
                status, self.fault.status = self.fault.status, 0
                return self.answer(status, self.fault.body, self.fault.headers)
            self.serve(asked)
        except Dropped:
            self.drop()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def serve(self, asked: Asked) -> None:
        path = urlsplit(self.path).path
        if self.registry.prefix and path.startswith(self.registry.prefix):
            path = path.removeprefix(self.registry.prefix)
        elif self.registry.prefix:
            return self.answer(404)
        if path == "/token":
            return self.token(asked)
        if path.startswith("/cdn/"):
            repository, _, digest = path[5:].rpartition("/")
            return self.blob(digest, self.registry.blobs[repository, digest])
        if path == "/v1/search" and self.registry.found is not None:
            return self.answer(200, json.dumps({"results": self.registry.found}).encode())
        if not path.startswith("/v2/"):
            return self.answer(404)
        if (refused := self.refused(asked)) is not None:
            return self.answer(401, _errors("UNAUTHORIZED", "authentication required"), refused)
        return self.route(path[4:], asked)

    # the connection

    def body(self) -> bytes:
        """The request's body, as much of it as the fault takes."""
        time.sleep(self.fault.stall_s)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length if self.fault.take is None else min(length, self.fault.take))

    def hang(self) -> None:
        """Silence until `Registry.release`; then the connection is closed."""
        self.registry.released.wait(_LONGEST_HANG_S)
        raise Dropped

    def drop(self) -> None:
        self.close_connection = True
        if self.fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}, blob: str = "") -> None:
        if self.fault.change is not None:
            body = self.fault.change(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) + self.fault.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.fault.cut
        self.send(body if cut is None else body[:cut], blob)
        if cut is not None and self.fault.hang:
            self.hang()
        if cut is not None or self.fault.length:
            raise Dropped

    def send(self, data: bytes, blob: str) -> None:
        registry = self.registry
        if not blob:
            self.wfile.write(data)
            return
        with registry.lock:
            registry.sending += 1
            registry.most_at_once = max(registry.most_at_once, registry.sending)
        try:
            for start in range(0, len(data), _BLOCK):
                piece = data[start : start + _BLOCK]
                self.wfile.write(piece)
                with registry.lock:
                    registry.sent[blob] += len(piece)
                if registry.rate_bytes_s:
                    time.sleep(len(piece) / registry.rate_bytes_s)
        finally:
            with registry.lock:
                registry.sending -= 1

    # who asks

    def refused(self, asked: Asked) -> Mapping[str, str] | None:
        registry = self.registry
        given = asked.headers.get("Authorization", "")
        if registry.auth == "basic" and self.user(given) is None:
            return {"WWW-Authenticate": 'Basic realm="registry"'}
        if registry.auth in ("bearer", "never"):
            scope = _scope(urlsplit(asked.path).path[4:], asked.method)
            held = registry.tokens.get(given.removeprefix("Bearer "))
            good = held is not None and held.until > time.monotonic() and (not scope or _covers(held.scopes, scope))
            if not good or registry.auth == "never":
                realm = f'Bearer realm="{registry.scheme}://{registry.host}/token",service="test"'
                return {"WWW-Authenticate": realm + (f',scope="{scope}"' if scope else "")}
        return None

    def user(self, authorization: str) -> str | None:
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return name if name in self.registry.users and self.registry.users[name] == password else None

    def token(self, asked: Asked) -> None:
        registry = self.registry
        query = parse_qs(asked.body.decode() if asked.method == "POST" else urlsplit(asked.path).query)
        if asked.method == "POST":
            allowed = query.get("refresh_token") == [registry.refresh_token]
        else:
            given = asked.headers.get("Authorization", "")
            allowed = not registry.users if not given else self.user(given) is not None
        if not allowed and (asked.method == "POST" or asked.headers.get("Authorization")):
            return self.answer(401, _errors("UNAUTHORIZED", "incorrect username or password"))
        value = f"token-{len(registry.tokens)}"
        scopes = {part for text in query.get("scope", []) for part in text.split()}
        registry.tokens[value] = Token(scopes if allowed else set(), time.monotonic() + registry.expires_in)
        body: dict[str, Any] = {"token": value, "expires_in": registry.expires_in}
        if "offline_token" in query:
            body["refresh_token"] = registry.refresh_token
        return self.answer(200, json.dumps(body).encode())

    # what is asked

    def route(self, path: str, asked: Asked) -> None:
        registry = self.registry
        if path == "":
            return self.answer(200, b"{}")
        if "/manifests/" in path:
            repository, _, name = path.partition("/manifests/")
            return self.manifest(repository, name, asked)
        if path.endswith("/tags/list"):
            return self.tags(path.removesuffix("/tags/list"), parse_qs(urlsplit(asked.path).query))
        repository, _, name = path.partition("/blobs/")
        if name.startswith("uploads/"):
            return self.upload(repository, name.removeprefix("uploads/"), asked)
        if (repository, name) not in registry.blobs:
            return self.answer(404, _errors("BLOB_UNKNOWN", "blob unknown"))
        if registry.elsewhere:
            location = f"{registry.elsewhere_scheme}://{registry.elsewhere}/cdn/{repository}/{name}?signature=s3cret"
            return self.answer(307, b"", {"Location": location})
        return self.blob(name, registry.blobs[repository, name])

    def manifest(self, repository: str, name: str, asked: Asked) -> None:
        registry = self.registry
        if asked.method == "PUT":
            entry = (asked.headers["Content-Type"], asked.body)
            registry.manifests[repository, name] = registry.manifests[repository, _digest(asked.body)] = entry
            return self.answer(201)
        found = registry.manifest(repository, name, asked.method)
        if found is None:
            return self.answer(404, _errors("MANIFEST_UNKNOWN", "manifest unknown"))
        said = registry.digest_header or (name if ":" in name else _digest(found[1]))
        return self.answer(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": said})

    def blob(self, digest: str, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.registry.ranges:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1) + 1, len(data))
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            return self.answer(206, data[start:end], headers, digest)
        return self.answer(200, data, {}, digest)

    def tags(self, repository: str, query: dict[str, list[str]]) -> None:
        names = sorted(tag for name, tag in self.registry.manifests if name == repository and ":" not in tag)
        if not names:
            return self.answer(404, _errors("NAME_UNKNOWN", "repository name not known to registry"))
        after = query.get("last", [""])[0]
        page = [name for name in names if name > after][: self.registry.page]
        more = bool(page) and page[-1] != names[-1]
        path = f"{self.registry.prefix}/v2/{repository}/tags/list"
        link = f'<{path}?last={page[-1]}&n={self.registry.page}>; rel="next"' if more else ""
        return self.answer(200, json.dumps({"name": repository, "tags": page}).encode(), {"Link": link} if link else {})

    # uploads (distribution-spec, "Pushing a blob in chunks")

    def upload(self, repository: str, session: str, asked: Asked) -> None:
        registry = self.registry
        query = parse_qs(urlsplit(asked.path).query)
        if asked.method == "POST":
            digest = query.get("mount", [""])[0]
            source = (query.get("from", [""])[0], digest)
            if registry.mounts and source in registry.blobs:
                registry.blobs[repository, digest] = registry.blobs[source]
                return self.answer(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}"})
            session = f"session-{next(registry.sessions)}"
            registry.uploads[session] = bytearray()
            return self.answer(202, b"", self.progress(repository, session))
        held = registry.uploads.get(session)
        if held is None:
            return self.answer(404, _errors("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"))
        if asked.method == "GET":
            return self.answer(204, b"", self.progress(repository, session))
        first = int(asked.headers.get("Content-Range", str(len(held))).partition("-")[0])
        if first != len(held):
            return self.answer(416, b"", self.progress(repository, session))
        held += asked.body
        if asked.method == "PATCH":
            return self.answer(202, b"", self.progress(repository, session))
        digest = query["digest"][0]
        if _digest(bytes(held)) != digest:
            del registry.uploads[session]
            return self.answer(400, _errors("DIGEST_INVALID", "provided digest did not match uploaded content"))
        registry.blobs[repository, digest] = bytes(held)
        registry.uploads[session] = bytearray()
        return self.answer(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}"})

    def progress(self, repository: str, session: str) -> Mapping[str, str]:
        """Where the upload goes on: every answer names another URL, as the state in it does."""
        held = len(self.registry.uploads[session])
        location = f"/v2/{repository}/blobs/uploads/{session}?state={held}"
        least = {"OCI-Chunk-Min-Length": str(self.registry.least_chunk)} if self.registry.least_chunk else {}
        return {"Location": location, "Range": f"0-{max(held - 1, 0)}", **least}

    def partial(self, asked: Asked) -> None:
        """The connection is lost in the middle of an upload."""
        session = urlsplit(asked.path).path.rpartition("/")[2]
        if self.registry.keeps_partial and session in self.registry.uploads:
            self.registry.uploads[session] += asked.body
        raise Dropped


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


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
            actions = "pull" if method in ("GET", "HEAD") and "/uploads/" not in path else "pull,push"
            return f"repository:{path.partition(mark)[0]}:{actions}"
    return ""


def _errors(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()
