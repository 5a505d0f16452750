"""Images through the real docker CLI, with a real registry on loopback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, Daemon
from tests.registry import HAVE_REGISTRY, RunningRegistry, running_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def test_push_remove_and_pull_again(daemon: Daemon, registry: RunningRegistry) -> None:
    name = f"{registry.host}/team/box:v1"
    daemon.out("tag", "busybox", name)
    pushed = daemon.out("push", name)
    assert "v1: digest: sha256:" in pushed
    id = daemon.out("image", "inspect", "-f", "{{.Id}}", name)
    daemon.out("rmi", name, "busybox")
    assert daemon.docker("image", "inspect", name, check=False).returncode == 1
    pulled = daemon.out("pull", name)
    assert f"Status: Downloaded newer image for {name}" in pulled
    assert "Pull complete" in pulled
    assert daemon.out("image", "inspect", "-f", "{{.Id}}", name) == id
    assert f"Status: Image is up to date for {name}" in daemon.out("pull", name)
    assert daemon.out("run", "--rm", "--network", "none", name, "echo", "pulled") == "pulled"
    digest = daemon.out("image", "inspect", "-f", "{{index .RepoDigests 0}}", name)
    assert daemon.out("run", "--rm", "--network", "none", digest, "echo", "by digest") == "by digest"
    daemon.out("tag", name, "busybox")
    daemon.out("rmi", name)


def test_run_pulls_what_is_missing(daemon: Daemon, registry: RunningRegistry) -> None:
    name = f"{registry.host}/auto:latest"
    daemon.out("tag", "busybox", name)
    daemon.out("push", name)
    daemon.out("rmi", name)
    done = daemon.docker("run", "--rm", "--network", "none", name, "echo", "there")
    assert done.stdout == "there\n"
    assert f"Unable to find image '{name}' locally" in done.stderr
    daemon.out("rmi", name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("{host}/team/nothing:v1", "not found"),
        ("{host}/team/box:nosuchtag", "manifest"),
        ("Bad_Name:x:y", "invalid reference format"),
        ("127.0.0.1:1/x", "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_pulled_says_why_and_leaves_nothing(
    daemon: Daemon, registry: RunningRegistry, name: str, text: str
) -> None:
    before = daemon.out("images", "-q")
    done = daemon.docker("pull", name.format(host=registry.host), check=False)
    assert done.returncode == 1
    assert text in done.stderr
    assert daemon.out("images", "-q") == before


def test_the_wrong_platform_is_refused(daemon: Daemon, registry: RunningRegistry) -> None:
    words = ("create", "--pull", "never", "--platform", "linux/s390x", "busybox", "true")
    done = daemon.docker(*words, check=False)
    assert done.returncode == 1
    assert "s390x" in done.stderr


def test_history_tags_and_removal_of_what_is_in_use(daemon: Daemon) -> None:
    daemon.out("tag", "busybox", "second:tag")
    assert "second:tag" in daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert "import" in daemon.out("history", "busybox").lower()
    daemon.out("create", "--name", "user", "--network", "none", "second:tag", "true")
    try:
        id = daemon.out("image", "inspect", "-f", "{{.Id}}", "busybox")
        done = daemon.docker("rmi", id, check=False)
        assert done.returncode == 1
        assert "unable to" in done.stderr
    finally:
        daemon.out("rm", "user")
    assert "Untagged: second:tag" in daemon.out("rmi", "second:tag")


def test_import_applies_changes(daemon: Daemon) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("hello")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"hey"))
    daemon.docker("import", "-c", "ENV A=b", "-c", "LABEL x=y", "-m", "made here", "-", "made:v2", input=out.getvalue())
    shown = json.loads(daemon.out("image", "inspect", "made:v2"))[0]
    assert shown["Config"]["Env"] == ["A=b"]
    assert shown["Config"]["Labels"] == {"x": "y"}
    daemon.out("rmi", "made:v2")


def hostile(kind: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        if kind == "symlink":
            link = tarfile.TarInfo("out")
            link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
            tar.addfile(link)
        info = tarfile.TarInfo({"parent": "../../escape", "absolute": "/escape", "symlink": "out/escape"}[kind])
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink"])
def test_a_hostile_layer_escapes_nowhere(daemon: Daemon, kind: str) -> None:
    done = daemon.docker("import", "-", f"hostile:{kind}", input=hostile(kind), check=False)
    assert not os.path.exists("/tmp/escape")
    assert not os.path.exists("/escape")
    assert not list(daemon.root.rglob("escape")) or done.returncode == 0
    if done.returncode == 0:  # contained: it lies inside the image
        found = [path for path in daemon.root.rglob("escape") if "storage" in path.parts]
        assert found
        daemon.out("rmi", f"hostile:{kind}")


def test_login_is_checked_by_the_registry(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    with running_registry(folder, users={"reader": "secret"}) as private:
        config = ["--config", str(tmp_path / "client")]
        bad = daemon.docker(*config, "login", "-u", "reader", "-p", "wrong", private.host, check=False)
        assert bad.returncode == 1
        assert "unauthorized" in bad.stderr.lower()
        daemon.out(*config, "login", "-u", "reader", "-p", "secret", private.host)
        name = f"{private.host}/mine:1"
        daemon.out("tag", "busybox", name)
        assert daemon.docker("push", name, check=False).returncode == 1
        daemon.out(*config, "push", name)
        daemon.out("rmi", name)
        daemon.out(*config, "pull", name)
        daemon.out("rmi", name)
        assert "secret" not in daemon.log.read_text()


def test_a_blob_with_the_wrong_digest_is_refused_and_leaves_nothing(daemon: Daemon, registry: RunningRegistry) -> None:
    name = f"{registry.host}/corrupt:v1"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("only-here")
        info.size = 4096
        tar.addfile(info, io.BytesIO(os.urandom(4096)))
    daemon.docker("import", "-", name, input=out.getvalue())
    daemon.out("push", name)
    daemon.out("rmi", name)
    blobs = registry.folder / "registry/docker/registry/v2/blobs/sha256"
    layer = max(blobs.glob("*/*/data"), key=lambda path: path.stat().st_mtime_ns * (path.stat().st_size > 4096))
    content = bytearray(layer.read_bytes())
    content[len(content) // 2] ^= 1
    layer.write_bytes(content)
    before = snapshots(daemon)
    done = daemon.docker("pull", name, check=False)
    assert done.returncode == 1
    assert "digest" in done.stderr
    assert name not in daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert snapshots(daemon) == before
    assert not (daemon.root / "data/content/blobs/sha256" / layer.parent.name).exists()


def snapshots(daemon: Daemon) -> set[str]:
    """The folders of the storage driver; a verified blob may stay, to be found by the next pull."""
    return {str(path) for path in (daemon.root / "data" / "storage").glob("**/*") if path.is_dir()}


def test_a_full_disk_while_unpacking_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "small", str(root)], check=True)
    try:
        daemon = Daemon(root / "engine").start()
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("big")
            info.size = 5 << 20
            tar.addfile(info, io.BytesIO(os.urandom(5 << 20)))
        done = daemon.docker("import", "-", "big", input=out.getvalue(), check=False)
        assert done.returncode == 1
        assert "no space left on device" in done.stderr
        assert daemon.out("images", "-aq") == ""
        assert not list((root / "engine" / "data").rglob("big"))
        daemon.cleanup()
    finally:
        subprocess.run(["umount", str(root)], check=True)
