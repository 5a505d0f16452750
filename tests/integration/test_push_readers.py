"""What we push compressed, others read: skopeo and podman from Debian's docker-registry."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.oci import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, digest_of
from scow.testing.fakes_registry import SmallImage, make_image, make_index
from tests.daemon import DOCKER, Daemon
from tests.registry import HAVE_REGISTRY, HAVE_SKOPEO, RunningRegistry, running_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry"),
]
PLAIN = make_image(
    {"etc/": None, "etc/a": "1", "gone": "x", "bin/": None, "bin/tool": b"#!" + os.urandom(100_000)},
    {".wh.gone": "", "b": b"many words " * 30_000},
    compression="none",
)
FILES = {"etc/a": b"1", "b": b"many words " * 30_000}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        put_index(running, "plain", PLAIN)
        yield running


@pytest.fixture(scope="module", params=["gzip", "zstd"])
def pushed(
    request: pytest.FixtureRequest, registry: RunningRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """How the layers were compressed, and the name of what an engine with that configuration pushed."""
    daemon = Daemon(tmp_path_factory.mktemp("engine"), push_compression=request.param).start()
    try:
        name = f"{registry.host}/pushed-{request.param}:1"
        daemon.out("pull", f"{registry.host}/plain:1")
        daemon.out("tag", f"{registry.host}/plain:1", name)
        daemon.out("push", name)
        yield request.param, name
    finally:
        daemon.cleanup()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """podman refuses a run root of more than 50 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def put_index(registry: RunningRegistry, repository: str, image: SmallImage) -> None:
    """*image* below an index: what the engine keeps then is not the manifest that the tag names."""
    registry.put(repository, image.manifest.descriptor.digest, image)
    index = make_index(image)
    headers = {"Content-Type": index.descriptor.media_type}
    registry.request("PUT", f"/v2/{repository}/manifests/1", index.data, headers)


def skopeo(*words: str) -> bytes:
    command = ["skopeo", "--insecure-policy", *words]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.skipif(not HAVE_SKOPEO, reason="needs skopeo")
def test_skopeo_reads_the_manifest_and_unpacks_the_layers(pushed: tuple[str, str], tmp_path: Path) -> None:
    format, name = pushed
    document = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}"))
    kind = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}[format]
    assert [layer["mediaType"] for layer in document["layers"]] == [kind, kind]
    assert document["layers"][1]["size"] < 10_000
    skopeo("copy", "--src-tls-verify=false", "--dest-decompress", f"docker://{name}", f"dir:{tmp_path / 'out'}")
    found = {digest_of(path.read_bytes()) for path in (tmp_path / "out").iterdir()}
    assert found >= {PLAIN.id, *PLAIN.diff_ids}


@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_podman_pulls_it(pushed: tuple[str, str], short_path: Path) -> None:
    _, name = pushed
    roots = ["--root", str(short_path / "root"), "--runroot", str(short_path / "run"), "--storage-driver", "vfs"]
    policy = short_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def podman(*words: str) -> bytes:
        done = subprocess.run(["podman", *roots, *words], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    podman("pull", "--tls-verify=false", "--signature-policy", str(policy), name)
    assert podman("image", "inspect", "-f", "{{.Id}}", name).decode().strip() == PLAIN.id.removeprefix("sha256:")
    container = podman("create", "--network", "none", name, "/bin/tool").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(podman("export", container))) as tar:
        for path, content in FILES.items():
            member = tar.extractfile(path)
            assert member is not None
            assert member.read() == content
        assert "gone" not in tar.getnames()
    podman("rm", container)


def test_a_base_image_is_mounted_and_not_sent_again(registry: RunningRegistry, tmp_path: Path) -> None:
    base = make_image({"etc/": None, "etc/base": os.urandom(200_000)})
    registry.put("base", "1", base)
    daemon = Daemon(tmp_path / "engine").start()
    try:
        daemon.out("pull", f"{registry.host}/base:1")
        daemon.out("tag", f"{registry.host}/base:1", f"{registry.host}/mine:1")
        assert "Layer already exists" in daemon.out("push", f"{registry.host}/mine:1")
    finally:
        daemon.cleanup()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path / "engine").start()
    try:
        yield running
    finally:
        running.cleanup()


def raw_manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}"))
    return document


@pytest.mark.skipif(not HAVE_SKOPEO, reason="needs skopeo")
def test_a_committed_image_is_pushed_with_the_base_as_it_came(registry: RunningRegistry, daemon: Daemon) -> None:
    daemon.import_busybox()
    base, mine = f"{registry.host}/box:1", f"{registry.host}/committed:1"
    daemon.out("tag", "busybox", base)
    daemon.out("push", base)
    daemon.out("rmi", "-f", base, "busybox")
    daemon.out("pull", base)
    daemon.out(
        "run", "--name", "made", "--network", "none", base, "sh", "-c", "yes some words | head -c 300000 > /made"
    )
    daemon.out("commit", "made", mine)
    daemon.out("push", mine)
    below, pushed = raw_manifest(base)["layers"], raw_manifest(mine)["layers"]
    assert pushed[:-1] == below
    assert pushed[-1]["mediaType"] == OCI_LAYER_GZIP
    assert pushed[-1]["size"] < 10_000
    daemon.out("rm", "made")
    daemon.out("rmi", "-f", mine)
    read = ("run", "--rm", "--network", "none", mine, "wc", "-c", "/made")
    assert daemon.out(*read).split() == ["300000", "/made"]


@pytest.mark.skipif(not HAVE_SKOPEO, reason="needs skopeo")
def test_a_loaded_archive_is_pushed_compressed_and_loads_elsewhere(
    registry: RunningRegistry, daemon: Daemon, tmp_path: Path
) -> None:
    name = f"{registry.host}/loaded:1"
    archive, pulled = tmp_path / "image.tar", tmp_path / "pulled.tar"
    source = f"docker://{registry.host}/plain:1"
    skopeo("copy", "--src-tls-verify=false", source, f"docker-archive:{archive}:{name}")
    daemon.out("load", input=archive.read_bytes())
    daemon.out("push", name)
    assert all(layer["mediaType"] == OCI_LAYER_GZIP for layer in raw_manifest(name)["layers"])
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"docker-archive:{pulled}:{name}")
    for path in (archive, pulled):
        with tarfile.open(path) as tar:
            names = [member.name for member in tar if member.name.endswith(".tar") and member.isreg()]
        assert sorted(names) == sorted(f"{diff_id.removeprefix('sha256:')}.tar" for diff_id in PLAIN.diff_ids)
