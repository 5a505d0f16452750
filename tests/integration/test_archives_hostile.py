"""export and commit of containers that change their files meanwhile; daemons killed amid a load or commit."""

from __future__ import annotations

import io
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]

RUN = ("run", "--rm", "--network", "none")
SECRET = "a secret of the host"

# a folder is a link to the host's folder every other moment, and a file a pipe, a device or a link to the host's file
SWAPPER = """
mkdir -p /a/dir /a/spare; echo inside > /a/dir/secret; ln -s {outside} /a/spare/link; mkfifo /a/spare/pipe
cp /a/dir/secret /a/spare/file; ln -s {outside}/secret /a/spare/filelink; cp /a/spare/file /a/file
i=0
while :; do
    mv /a/dir /a/spare/dir; mv /a/spare/link /a/dir
    mv /a/file /a/spare/file2; mv /a/spare/pipe /a/file
    mv /a/dir /a/spare/link; mv /a/spare/dir /a/dir
    mv /a/file /a/spare/pipe; mv /a/spare/filelink /a/file
    mv /a/file /a/spare/filelink; mv /a/spare/file2 /a/file
done
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def contents(data: bytes) -> bytes:
    found = b""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            found += file.read() if file is not None else b""
    return found


def test_a_container_that_swaps_its_files_for_links_gets_nothing_of_the_host(daemon: Daemon, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    script = SWAPPER.format(outside=outside)
    daemon.out("run", "-d", "--name", "swapper", "--network", "none", "busybox", "sh", "-c", script)
    try:
        whole = tmp_path / "root.tar"
        until = time.monotonic() + 6
        done = 0
        while time.monotonic() < until:
            exported = daemon.docker("export", "-o", str(whole), "swapper", check=False, timeout_s=30)
            if not exported.returncode:
                done += 1
                assert SECRET.encode() not in contents(whole.read_bytes())
            committed = daemon.docker("commit", "--pause=false", "swapper", "swapped:1", check=False, timeout_s=30)
            if not committed.returncode:
                done += 1
                daemon.out("save", "-o", str(whole), "swapped:1")
                assert SECRET.encode() not in whole.read_bytes()
        assert done  # what changes under our hands may fail: most do not
    finally:
        daemon.docker("rm", "-f", "swapper", check=False)
        daemon.docker("rmi", "-f", "swapped:1", check=False)


def test_a_deep_tree_is_exported_and_committed(daemon: Daemon, tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; echo deep > bottom"
    daemon.out("run", "--name", "deep", "--network", "none", "busybox", "sh", "-c", script)
    try:
        daemon.out("commit", "deep", "deep:1")
        whole = tmp_path / "root.tar"
        daemon.out("export", "-o", str(whole), "deep")
        with tarfile.open(whole) as tar:
            assert max(name.count("/") for name in tar.getnames()) == 1500
        daemon.out("save", "-o", str(tmp_path / "image.tar"), "deep:1")
    finally:
        daemon.docker("rm", "-f", "deep", check=False)
        daemon.docker("rmi", "-f", "deep:1", check=False)


def test_a_container_that_is_removed_meanwhile_ends_the_commit(daemon: Daemon) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo $i > /f$i; i=$((i+1)); done"
    for _ in range(3):
        daemon.out("run", "--name", "short", "--network", "none", "busybox", "sh", "-c", script)
        words = [str(DOCKER), "-H", f"unix://{daemon.socket}", "commit", "short", "short:1"]
        commit = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.03)
        daemon.docker("rm", "-f", "short")
        _, told = commit.communicate(timeout=60)
        if commit.returncode:
            assert b"short" in told or b"container" in told
        else:
            assert daemon.out(*RUN, "short:1", "cat", "/f2999") == "2999"
            daemon.out("rmi", "short:1")
        assert not list((daemon.root / "data" / "content" / "ingest").iterdir())


# Killed in the middle


def kill(daemon: Daemon) -> None:
    daemon.stop(signal.SIGKILL)


def left(daemon: Daemon) -> list[str]:
    """Staged files and snapshots that nobody needs."""
    data = daemon.root / "data"
    return [path.name for path in (data / "content" / "ingest").iterdir()]


def settled(daemon: Daemon) -> None:
    deadline = time.monotonic() + 20
    while left(daemon) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(daemon) == []


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.4, 0.7])
def test_a_daemon_killed_while_it_loads_has_the_image_or_nothing(
    daemon: Daemon, tmp_path: Path, after_s: float
) -> None:
    big = tmp_path / "root.tar"
    with tarfile.open(big, "w") as tar:
        for number in range(400):
            info = tarfile.TarInfo(f"d{number % 20}/f{number}")
            info.size = 100_000
            tar.addfile(info, io.BytesIO(bytes([number % 256]) * info.size))
    daemon.out("import", str(big), "big:1")
    archive = tmp_path / "image.tar"
    daemon.out("save", "-o", str(archive), "big:1")
    daemon.out("rmi", "big:1")
    killer = threading.Timer(after_s, kill, [daemon])
    killer.start()
    loaded = daemon.docker("load", "-i", str(archive), check=False)
    killer.join()
    daemon.start()
    settled(daemon)
    there = daemon.docker("image", "inspect", "big:1", check=False).returncode == 0
    assert there or loaded.returncode
    daemon.out("load", "-i", str(archive))
    daemon.out("create", "--name", "look", "--network", "none", "big:1", "x")
    exported = tmp_path / "again.tar"
    daemon.out("export", "-o", str(exported), "look")
    daemon.out("rm", "look")
    with tarfile.open(exported) as tar:
        assert len([info for info in tar if info.isreg()]) == 400
    daemon.out("rmi", "big:1")


def test_a_daemon_killed_while_it_commits_lets_the_container_go_on(daemon: Daemon) -> None:
    script = "i=0; while [ $i -lt 4000 ]; do echo $i > /f$i; i=$((i+1)); done; touch /ready; sleep 300"
    daemon.out("run", "-d", "--name", "busy", "--network", "none", "busybox", "sh", "-c", script)
    try:
        daemon.out("exec", "busy", "sh", "-c", "until [ -e /ready ]; do sleep 0.1; done")
        words = [str(DOCKER), "-H", f"unix://{daemon.socket}", "commit", "busy", "busy:1"]
        for after_s in (0.03, 0.06, 0.1):
            commit = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(after_s)
            kill(daemon)
            commit.wait(20)
            daemon.start()
            deadline = time.monotonic() + 10
            while daemon.out("inspect", "-f", "{{.State.Status}}", "busy") != "running" and time.monotonic() < deadline:
                time.sleep(0.05)
            assert daemon.out("exec", "busy", "echo", "goes on") == "goes on"
            settled(daemon)
        daemon.out("commit", "busy", "busy:2")
        assert daemon.out(*RUN, "busy:2", "cat", "/f3999") == "3999"
    finally:
        daemon.docker("rm", "-f", "busy", check=False)
        daemon.docker("rmi", "-f", "busy:1", "busy:2", check=False)
