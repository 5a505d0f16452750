"""Pull and push through scowd with Debian's docker-registry in four modes, and skopeo on the other side of each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scow.oci import Descriptor, digest_of
from scow.ports import DriverContext
from scow.reference import Reference
from scow_registry_dockerhub import DistributionBackend
from tests.certificates import Authority
from tests.daemon import DOCKER, Daemon
from tests.registry import HAVE_REGISTRY, HAVE_SKOPEO, RunningRegistry, running_registry
from tests.token_server import token_server

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry"),
    pytest.mark.skipif(not HAVE_SKOPEO, reason="needs skopeo"),
]
USERS = {"tester": "a secret"}


@dataclass
class Mode:
    """A registry in one of the modes, a scowd that is configured for it, and what skopeo is told."""

    name: str
    registry: RunningRegistry
    daemon: Daemon
    skopeo_options: list[str]

    def skopeo(self, *words: str) -> str:
        command = ["skopeo", "--insecure-policy", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def side(self, prefix: str) -> list[str]:
        """skopeo's options for the *prefix* (``src-``, ``dest-`` or none) that is the registry."""
        return [option.format(prefix) for option in self.skopeo_options]


@pytest.fixture(scope="module", params=["open", "password", "tokens", "certificates"])
def mode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mode]:
    folder = tmp_path_factory.mktemp("mode")
    certs_dir = folder / "certs.d"
    skopeo = ["--{}tls-verify=false"]
    options: dict[str, Any] = {}
    with ExitStack() as stack:
        if request.param == "tokens":
            options["tokens"] = stack.enter_context(token_server(folder, USERS))
        if request.param == "certificates":
            options["authority"] = options["clients"] = Authority(folder)
        if request.param == "password":
            options["users"] = USERS
        registry = stack.enter_context(running_registry(folder, **options))
        if registry.users:
            skopeo += [f"--{{}}creds=tester:{USERS['tester']}"]
        if request.param == "certificates":
            options["authority"].trust(certs_dir, registry.host)
            options["authority"].identify(certs_dir, registry.host)
            skopeo = [f"--{{}}cert-dir={certs_dir / registry.host}"]
        daemon = Daemon(folder / "engine", certs_dir=str(certs_dir)).start()
        stack.callback(daemon.cleanup)
        daemon.import_busybox()
        yield Mode(request.param, registry, daemon, skopeo)


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def log_in(mode: Mode) -> None:
    if mode.registry.users:
        secret = USERS["tester"].encode()
        assert "Login Succeeded" in mode.daemon.out(
            "login", "-u", "tester", "--password-stdin", mode.registry.host, input=secret
        )


def test_an_image_goes_there_and_back_and_skopeo_sees_the_same(mode: Mode) -> None:
    log_in(mode)
    name = f"{mode.registry.host}/team/box:v1"
    mode.daemon.out("tag", "busybox", name)
    digest = mode.daemon.out("push", name).rpartition("digest: ")[2].split()[0]
    seen = json.loads(mode.skopeo("inspect", *mode.side(""), f"docker://{name}"))
    assert seen["Digest"] == digest
    id = mode.daemon.out("image", "inspect", "-f", "{{.Id}}", name)
    mode.daemon.out("rmi", name)
    mode.daemon.out("pull", name)
    assert mode.daemon.out("image", "inspect", "-f", "{{.Id}}", name) == id
    mode.daemon.out("rmi", name)


def test_what_skopeo_pushed_is_pulled_and_run(mode: Mode, tmp_path: Path) -> None:
    log_in(mode)
    name = f"{mode.registry.host}/team/seed:1"
    mode.daemon.out("tag", "busybox", name)
    mode.daemon.out("push", name)
    other = f"{mode.registry.host}/public/skopeo:2"
    mode.skopeo(
        "copy", "--format=v2s2", *mode.side("src-"), *mode.side("dest-"), f"docker://{name}", f"docker://{other}"
    )
    mode.daemon.out("rmi", name)
    mode.daemon.out("pull", other)
    assert mode.daemon.out("run", "--rm", other, "/bin/busybox", "echo", "there") == "there"
    mode.daemon.out("rmi", other)


def test_who_is_nobody_is_told_so_and_leaves_nothing(mode: Mode) -> None:
    name = f"{mode.registry.host}/team/private:1"
    mode.daemon.out("tag", "busybox", name)
    if mode.registry.users:
        refused = mode.daemon.docker("push", name, check=False)
        assert refused.returncode == 1
        assert "push access denied" in refused.stderr or "authentication required" in refused.stderr
    mode.daemon.out("rmi", name)
    refused = mode.daemon.docker("pull", name, check=False)
    assert refused.returncode == 1
    assert ("pull access denied" if mode.registry.users else "not found") in refused.stderr


def test_anybody_reads_what_the_token_server_lets_anybody_read(mode: Mode) -> None:
    if mode.registry.tokens is None:
        pytest.skip("there is no token server")
    log_in(mode)
    name = f"{mode.registry.host}/public/box:1"
    mode.daemon.out("tag", "busybox", name)
    mode.daemon.out("push", name)
    mode.daemon.out("logout", mode.registry.host)
    mode.daemon.out("rmi", name)
    mode.daemon.out("pull", name)
    mode.daemon.out("tag", name, f"{name}0")
    assert "push access denied" in mode.daemon.docker("push", f"{name}0", check=False).stderr
    mode.daemon.out("rmi", name, f"{name}0")


def test_a_wrong_password_is_told_and_shown_nowhere(mode: Mode) -> None:
    if not mode.registry.users:
        pytest.skip("nobody logs in there")
    refused = mode.daemon.docker(
        "login", "-u", "tester", "--password-stdin", mode.registry.host, input=b"not-the-s3cret", check=False
    )
    assert refused.returncode == 1 and "unauthorized" in refused.stderr.lower()
    assert "not-the-s3cret" not in mode.daemon.log.read_text()


def test_a_blob_is_mounted_from_the_repository_that_has_it(mode: Mode) -> None:
    log_in(mode)
    first, second = f"{mode.registry.host}/team/origin:1", f"{mode.registry.host}/other/copy:1"
    mode.daemon.out("tag", "busybox", first)
    mode.daemon.out("push", first)
    mode.daemon.out("tag", first, second)
    assert "Pushed" not in mode.daemon.out("push", second)
    mode.daemon.out("rmi", first, second)


@contextmanager
def cutting(target: str, after_bytes: int) -> Iterator[tuple[str, list[int]]]:
    """An address that leads to *target*; the first connection on which the client sends so many bytes is cut there.
    Answers a list, too, of where it was."""
    server = socket.create_server(("127.0.0.1", 0))
    cuts: list[int] = []

    def relay(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with source, sink:
            try:
                while data := source.recv(1 << 16):
                    passed += len(data)
                    if limit is not None and passed > limit and not cuts:
                        cuts.append(passed)
                        source.shutdown(socket.SHUT_RDWR)
                        sink.shutdown(socket.SHUT_RDWR)
                        return
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            host, _, port = target.rpartition(":")
            upstream = socket.create_connection((host, int(port)))
            threading.Thread(target=relay, args=(client, upstream, after_bytes), daemon=True).start()
            threading.Thread(target=relay, args=(upstream.dup(), client.dup(), None), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", cuts
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 64 << 20])
def test_an_upload_that_is_cut_ends_well(chunk_bytes: int, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    blob = Descriptor("application/octet-stream", digest_of(data), len(data))
    (tmp_path / "blob").write_bytes(data)
    with running_registry(tmp_path) as registry, cutting(registry.host, 3_500_000) as (host, cuts):
        options = {"chunk_bytes": chunk_bytes, "retry_pause_s": 0.05}
        backend = DistributionBackend(DriverContext("dockerhub", tmp_path, tmp_path, options))
        ref = Reference.parse(f"{host}/team/cut:1")
        told: list[int] = []
        assert backend.push_blob(ref, blob, lambda: (tmp_path / "blob").open("rb"), None, told.append)
        assert sum(told) == len(data) and cuts
        with backend.fetch(ref, blob, None) as stream:
            assert stream.read() == data
        backend.close()
