"""A token server for Debian's docker-registry, as Docker Hub has one: it knows *users* and signs what they may do.

::

    with token_server(tmp_path, {"tester": "secret"}) as tokens, running_registry(tmp_path, tokens=tokens) as registry:
        ...

Anybody may read repositories below ``public/``; who logs in may read and write all. Of the scopes that are asked for
only those are granted (distribution's token specification).
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

SERVICE = "docker-registry of a test"
ISSUER = "token server of a test"


class TokenServer:
    """*roots* is the file of the authority that vouches for its signatures; *asked* the queries that came."""

    def __init__(self, folder: Path, users: Mapping[str, str]) -> None:
        self.users = dict(users)
        self.realm = ""
        self.roots = folder / "tokens.pem"
        self.asked: list[dict[str, list[str]]] = []
        self.refresh_tokens: dict[str, str] = {}
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        authority.cert_pem.write_to_path(str(self.roots))
        issued = authority.issue_cert("tokens.example.com", key_type=trustme.KeyType.ECDSA)
        self._key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        certificate = load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]

    def token(self, user: str, scopes: list[str]) -> str:
        """A token for what *user* (``""``: anybody) may do of *scopes*."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": user,
            "jti": secrets.token_hex(8),
            "iat": now,
            "nbf": now - 5,
            "exp": now + 300,
            "access": [access for scope in scopes if (access := _access(user, scope)) is not None],
        }
        return jwt.encode(claims, self._key, "ES256", headers={"x5c": self._chain})  # type: ignore[arg-type]

    def user(self, authorization: str) -> str | None:
        """Who logs in with *authorization*; None where that is wrong."""
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return name if self.users.get(name) == password else None


def _access(user: str, scope: str) -> dict[str, Any] | None:
    kind, name, actions = scope.split(":", 2)
    allowed = {"pull", "push", "delete"} if user else {"pull"} if name.startswith("public/") else set()
    granted = sorted(allowed & set(actions.split(",")))
    return {"type": kind, "name": name, "actions": granted} if granted else None


class _Handler(BaseHTTPRequestHandler):
    tokens: TokenServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        given = self.headers.get("Authorization", "")
        user = self.tokens.user(given) if given else ""
        self.answer(user, query)

    def do_POST(self) -> None:
        query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(self.tokens.refresh_tokens.get(query.get("refresh_token", [""])[0]), query)

    def answer(self, user: str | None, query: dict[str, list[str]]) -> None:
        self.tokens.asked.append(query)
        if user is None or query.get("service") != [SERVICE]:
            body: dict[str, Any] = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
        else:
            scopes = [part for text in query.get("scope", []) for part in text.split()]
            body = {"token": self.tokens.token(user, scopes), "expires_in": 300}
            if "offline_token" in query:
                body["refresh_token"] = secrets.token_hex(16)
                self.tokens.refresh_tokens[body["refresh_token"]] = user
        data = json.dumps(body).encode()
        self.send_response(200 if "token" in body else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def token_server(folder: Path, users: Mapping[str, str]) -> Iterator[TokenServer]:
    """It answers on loopback until the end of the block."""
    tokens = TokenServer(folder, users)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"tokens": tokens}))
    server.daemon_threads = True
    tokens.realm = f"http://127.0.0.1:{server.server_address[1]}/token"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
