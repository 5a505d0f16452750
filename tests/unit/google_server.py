"""A stand-in for Google's token endpoint and metadata server on loopback. It checks what it is sent as Google does: the
signature, audience, scope and age of a service account's JSON web token (RFC 7523)."""

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
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

EMAIL = "puller@scow.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Google:
    """*life_s*: how long an access token is good. *public*: the key that it knows of `EMAIL`. *asked* names the grant
    of each token that was given out, *refused* why others were not."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public = self.key.public_key()
        self.host = ""
        self.life_s = 3599
        self.asked: list[str] = []
        self.refused: list[str] = []

    def write_key(self, path: Path) -> Path:
        """The key file of the service account, as the console hands it out."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        document = {
            "type": "service_account",
            "project_id": "scow",
            "private_key_id": "k1",
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "token_uri": f"http://{self.host}/token",
        }
        path.write_text(json.dumps(document))
        return path

    def write_user(self, path: Path) -> Path:
        """What ``gcloud auth application-default login`` writes."""
        document = {"type": "authorized_user", "client_id": "c", "client_secret": "x", "refresh_token": "y"}
        path.write_text(json.dumps(document))
        return path

    def check(self, assertion: str) -> str:
        """Why the token *assertion* is not accepted; ``""`` where it is."""
        signed, _, signature = assertion.rpartition(".")
        try:
            self.public.verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return "Invalid JWT Signature."
        header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
        now = time.time()
        wrong = [
            name
            for name, right in (
                ("alg", header["alg"] == "RS256" and header["kid"] == "k1"),
                ("iss", claims["iss"] == EMAIL),
                ("aud", claims["aud"] in (f"http://{self.host}/token", "https://oauth2.googleapis.com/token")),
                ("scope", claims["scope"] == SCOPE),
                ("exp", claims["iat"] <= now + 60 and now < claims["exp"] <= claims["iat"] + 3600),
            )
            if not right
        ]
        return f"Invalid JWT: {', '.join(wrong)}" if wrong else ""


class _Handler(BaseHTTPRequestHandler):
    google: Google

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        grant = body["grant_type"][0]
        assert grant == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        reason = self.google.check(body["assertion"][0])
        if reason:
            self.google.refused.append(reason)
            return self.answer(400, {"error": "invalid_grant", "error_description": reason})
        return self.token(grant.rpartition(":")[2])

    def do_GET(self) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            return self.answer(403, {})
        path = urlsplit(self.path).path
        account = "/computeMetadata/v1/instance/service-accounts/"
        if path == "/computeMetadata/v1/project/project-id":
            return self.answer(200, "scow")
        if path.startswith(account) and path.endswith("/token"):
            return self.token("metadata")
        if path.startswith(account):
            return self.answer(200, {"email": EMAIL, "scopes": [SCOPE], "aliases": ["default"]})
        return self.answer(200, "")

    def token(self, grant: str) -> None:
        self.google.asked.append(grant)
        value = f"ya29.{len(self.google.asked)}"
        return self.answer(200, {"access_token": value, "expires_in": self.google.life_s, "token_type": "Bearer"})

    def answer(self, status: int, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@contextmanager
def serving_google() -> Iterator[Google]:
    """Serves until the end of the block."""
    google = Google()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"google": google}))
    server.daemon_threads = True
    google.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield google
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
