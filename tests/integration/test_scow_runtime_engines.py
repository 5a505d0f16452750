"""podman and docker with ``scow-runtime`` as their runtime (docs/how-to/use-scow-runtime-with-podman.md)."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.daemon import DOCKER, busybox_tar
from tests.runtime_command import PROGRAM

pytestmark = pytest.mark.root

Run: TypeAlias = "Callable[..., subprocess.CompletedProcess[str]]"

# namespaces of their own, so that what the engines mount and configure goes with the test; an almost empty cgroup2
# beside version 1 confuses podman
_ENTER = """
ip link set lo up
[ "$1" = docker ] || ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
shift
exec "$@"
"""
_CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/net"
"""
_STORAGE_CONF = '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/data"\nrunroot = "{folder}/run"\n'


def _enter(engine: str, log: Path, *words: str) -> subprocess.Popen[bytes]:
    enter = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", _ENTER, "enter", engine, *words]
    with log.open("wb") as out:
        return subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def _client(command: list[str]) -> Run:
    def run(*words: str, input: bytes | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*command, *words], input=input, capture_output=True, timeout=60)
        shown = subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert shown.returncode == code, f"{words}: {shown.returncode}: {shown.stdout}{shown.stderr}"
        return shown

    return run


def _remove_all(run: Run, *more: str) -> None:
    if ids := run("ps", "-aq").stdout.split():
        run("rm", "-f", *more, *ids)


@pytest.fixture
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    tmp_path = tmp_path_factory.mktemp("p")  # podman waits 20 s a container where its sockets' paths are too long
    program = shutil.which("podman")
    if program is None:
        pytest.skip("podman is not installed")
    for name, text in (("containers", _CONTAINERS_CONF), ("storage", _STORAGE_CONF)):
        (tmp_path / f"{name}.conf").write_text(text.format(folder=tmp_path))
    holder = _enter("podman", tmp_path / "holder.log", "/bin/sleep", "infinity")
    try:
        deadline = time.monotonic() + 20
        while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n":
            assert holder.poll() is None and time.monotonic() < deadline, (tmp_path / "holder.log").read_text()
            time.sleep(0.02)
        env = [f"CONTAINERS_CONF={tmp_path}/containers.conf", f"CONTAINERS_STORAGE_CONF={tmp_path}/storage.conf"]
        inside = ["nsenter", "-t", str(holder.pid), "-m", "-n", "--", "env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", *env]
        run = _client([*inside, program, "--runtime", str(PROGRAM)])
        done = subprocess.run([*inside, program, "version"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"podman does not work here: {done.stderr.strip()[-200:]}")
        run("import", "--change", "ENV PATH=/bin", "-", "busybox", input=busybox_tar())
        yield run
        _remove_all(run, "-t", "0")
    finally:
        holder.terminate()
        holder.wait(20)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Run]:
    program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/usr/local/sbin")
    if program is None or DOCKER is None:
        pytest.skip("dockerd or the docker CLI is not installed")
    socket = f"unix://{tmp_path}/docker.sock"
    state = [f"--data-root={tmp_path}/data", f"--exec-root={tmp_path}/run", f"--pidfile={tmp_path}/docker.pid"]
    words = [program, "-H", socket, *state, f"--add-runtime=scow={PROGRAM}"]
    daemon = _enter("docker", tmp_path / "dockerd.log", *words)
    try:
        deadline = time.monotonic() + 40
        while subprocess.run([DOCKER, "-H", socket, "version"], capture_output=True).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {(tmp_path / 'dockerd.log').read_text()[-300:]}")
            time.sleep(0.1)
        run = _client([DOCKER, "-H", socket])
        run("import", "--change", "ENV PATH=/bin", "-", "busybox", input=busybox_tar())
        yield run
        _remove_all(run)
    finally:
        daemon.terminate()
        daemon.wait(60)


def _eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_podman_runs_and_removes(podman: Run) -> None:
    assert podman("run", "--rm", "busybox", "echo", "hello").stdout == "hello\n"
    podman("run", "--rm", "busybox", "sh", "-c", "exit 5", code=5)
    assert podman("run", "--rm", "-t", "busybox", "tty").stdout.strip() == "/dev/pts/0"
    assert podman("run", "--rm", "-i", "busybox", "cat", input=b"piped").stdout == "piped"
    assert "uid=8(mail)" in podman("run", "--rm", "-u", "mail", "busybox", "id").stdout
    podman("run", "--rm", "busybox", "nothere", code=127)
    podman("run", "--rm", "busybox", "/etc", code=126)


def test_podman_execs_logs_pauses_and_limits(podman: Run) -> None:
    podman("run", "-d", "--name", "c", "-m", "64m", "--pids-limit", "30", "busybox", "sh", "-c", "echo up; sleep 1000")
    _eventually(lambda: podman("logs", "c").stdout == "up\n")
    podman("exec", "c", "sh", "-c", "exit 4", code=4)
    assert podman("exec", "-t", "c", "tty").stdout.strip() == "/dev/pts/0"
    podman("exec", "c", "nothere", code=127)
    podman("pause", "c")
    assert podman("inspect", "-f", "{{.State.Status}}", "c").stdout == "paused\n"
    podman("unpause", "c")
    assert "67.11MB" in podman("stats", "--no-stream", "c").stdout
    assert "sleep 1000" in podman("top", "c").stdout
    podman("kill", "c")
    assert podman("wait", "c").stdout == "137\n"


def test_docker_and_containerd_run_exec_kill_and_count(docker: Run) -> None:
    run = ("run", "--runtime", "scow")
    assert docker(*run, "--rm", "busybox", "echo", "hello").stdout == "hello\n"
    # a prestart hook of docker puts this interface into the container's namespace
    assert "inet 172." in docker(*run, "--rm", "busybox", "ip", "address", "show", "eth0").stdout
    docker(*run, "--rm", "busybox", "sh", "-c", "exit 5", code=5)
    assert docker(*run, "--rm", "-t", "busybox", "tty").stdout == "/dev/pts/0\r\n"
    assert docker(*run, "--rm", "-i", "busybox", "cat", input=b"piped").stdout == "piped"
    docker(*run, "--rm", "busybox", "nothere", code=127)
    waits = 'echo up; trap "exit 9" TERM; while :; do sleep 0.1; done'
    docker(*run, "-d", "--name", "c1", "-m", "64m", "busybox", "sh", "-c", waits)
    _eventually(lambda: docker("logs", "c1").stdout == "up\n")
    docker("exec", "c1", "sh", "-c", "exit 4", code=4)
    assert docker("exec", "-t", "c1", "tty").stdout == "/dev/pts/0\r\n"
    docker("pause", "c1")
    assert docker("inspect", "-f", "{{.State.Status}}", "c1").stdout == "paused\n"
    docker("unpause", "c1")
    assert re.search(r"/ 64MiB", docker("stats", "--no-stream", "c1").stdout)
    docker("update", "--memory", "100m", "--memory-swap", "200m", "c1")
    docker("kill", "-s", "TERM", "c1")
    assert docker("wait", "c1").stdout == "9\n"
