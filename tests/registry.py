"""A real registry (Debian's ``docker-registry``) on a free loopback port, for tests that push and pull.

::

    from tests.registry import running_registry

    with running_registry(tmp_path) as registry:
        registry.host                                # "127.0.0.1:40321"

It is open, or asks for passwords (*users*), for tokens of a `tests.token_server.TokenServer` (*tokens*) or for client
certificates (*clients*, with TLS by *authority*).
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.token_server import ISSUER, SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from scow.testing.fakes_registry import SmallImage
    from tests.certificates import Authority
    from tests.token_server import TokenServer

HAVE_REGISTRY = shutil.which("docker-registry") is not None
HAVE_SKOPEO = shutil.which("skopeo") is not None


@dataclass(frozen=True, slots=True)
class RunningRegistry:
    """*host* is what stands before the ``/`` of a reference; *log* what the registry wrote; *users* may log in. With
    *context* it speaks TLS; *tokens* are who it believes."""

    host: str
    folder: Path
    log: Path
    users: Mapping[str, str]
    context: ssl.SSLContext | None = None
    tokens: TokenServer | None = None

    def put(self, repository: str, tag: str, image: SmallImage) -> None:
        """*repository* has *image* under *tag*; pushed with nothing but urllib."""
        for digest, blob in image.blobs.items():
            location = self.request("POST", f"/v2/{repository}/blobs/uploads/", b"")["Location"]
            mark = "&" if "?" in location else "?"
            self.request("PUT", f"{location}{mark}digest={digest}", blob)
        headers = {"Content-Type": image.manifest.descriptor.media_type}
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", image.manifest.data, headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """The headers of the answer; raises `urllib.error.HTTPError`."""
        scheme = "http" if self.context is None else "https"
        url = path if path.startswith("http") else f"{scheme}://{self.host}{path}"
        request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))
        request.add_header("Content-Type", "application/octet-stream") if not headers else None
        if self.tokens is not None:
            repository = path.partition("/v2/")[2].partition("/blobs/")[0].partition("/manifests/")[0]
            token = self.tokens.token("the test", [f"repository:{repository}:pull,push"])
            request.add_header("Authorization", f"Bearer {token}")
        for name, password in list(self.users.items())[: 0 if self.tokens else 1]:
            secret = base64.b64encode(f"{name}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {secret}")
        with urllib.request.urlopen(request, timeout=20, context=self.context) as response:
            return dict(response.headers.items())


@contextmanager
def running_registry(
    folder: Path,
    users: Mapping[str, str] | None = None,
    *,
    tokens: TokenServer | None = None,
    authority: Authority | None = None,
    clients: Authority | None = None,
) -> Iterator[RunningRegistry]:
    """A registry that keeps its files below *folder*; with *users* (name to password), only they may use it."""
    port = _free_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "a test"},
    }
    if users:
        (folder / "htpasswd").write_text("".join(f"{name}:{_bcrypt(secret)}\n" for name, secret in users.items()))
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if tokens is not None:
        config["auth"] = {"token": {"realm": tokens.realm, "service": SERVICE, "issuer": ISSUER}}
        config["auth"]["token"]["rootcertbundle"] = str(tokens.roots)
        users = tokens.users
    context = None
    if authority is not None:
        files = {"certificate": str(authority.folder / "server.pem"), "key": str(authority.folder / "server.key")}
        config["http"]["tls"] = {**files, "clientcas": [str(clients.folder / "ca.pem")] if clients else []}
        context = authority.client(clients)
    (folder / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "registry.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "registry.yml")], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _wait(port, process, log, context)
        yield RunningRegistry(f"127.0.0.1:{port}", folder, log, dict(users or {}), context, tokens)
    finally:
        process.terminate()
        process.wait(10)


def digest_of_file(path: Path) -> str:
    """The sha256 digest of *path*'s bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes], log: Path, context: ssl.SSLContext | None) -> None:
    scheme = "http" if context is None else "https"
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"docker-registry ended: {log.read_text()}")
        try:
            urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}/v2/", timeout=2, context=context).close()
        except urllib.error.HTTPError as error:
            error.close()
            return  # it answers, if only 401
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"docker-registry does not answer: {log.read_text()}")


def _bcrypt(password: str) -> str:
    """The registry takes bcrypt only; crypt(3) of glibc's libcrypt makes it (``$2b$``)."""
    import ctypes
    import ctypes.util

    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    return str(library.crypt(password.encode(), b"$2b$05$" + b"abcdefghijklmnopqrstuu").decode())
