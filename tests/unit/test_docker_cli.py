"""The real docker command line against the API (on an engine in memory)."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.testing.fakes_daemon import FakeDaemon

DOCKER = shutil.which("docker")
pytestmark = pytest.mark.skipif(DOCKER is None, reason="no docker command line on PATH")


class Docker:
    """Runs docker commands against one daemon."""

    def __init__(self, daemon: FakeDaemon, config: Path) -> None:
        self.command = [DOCKER or "docker", "--config", str(config), "-H", daemon.host]
        self.env = {"PATH": os.environ["PATH"], "HOME": str(config)}

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.command, *arguments], input=stdin, capture_output=True, timeout=20, env=self.env, check=False
        )

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done
        return done.stdout.decode()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def docker(daemon: FakeDaemon, tmp_path: Path) -> Docker:
    config = tmp_path / "config"
    config.mkdir()
    return Docker(daemon, config)


def test_version_and_info(docker: Docker) -> None:
    assert "API version:      1.56 (minimum version 1.24)" in docker.ok("version")
    assert "Storage Driver: overlay" in docker.ok("info")


def test_run_shows_output_and_keeps_the_streams_apart(docker: Docker) -> None:
    assert docker.ok("run", "--rm", "busybox", "echo", "hello", "world") == "hello world\n"
    done = docker.run("run", "--rm", "busybox", "err", "oops")
    assert (done.stdout, done.stderr) == (b"", b"oops\n")
    assert docker.ok("ps", "-aq") == ""


@pytest.mark.parametrize("code", [0, 3, 255])
def test_run_ends_with_the_code_of_the_container(docker: Docker, code: int) -> None:
    assert docker.run("run", "--rm", "busybox", "exit", str(code)).returncode == code


@pytest.mark.parametrize("size", [6, 3_000_000])
def test_input_comes_back_whole(docker: Docker, size: int) -> None:
    data = os.urandom(size)
    assert docker.run("run", "-i", "--rm", "busybox", "cat", stdin=data).stdout == data


def test_run_of_a_program_that_is_not_there_ends_with_127(docker: Docker) -> None:
    done = docker.run("run", "--rm", "busybox", "nosuch")
    assert done.returncode == 127
    assert b"executable file not found" in done.stderr


def test_run_pulls_an_image_that_is_not_here(docker: Docker) -> None:
    done = docker.run("run", "--rm", "alpine", "echo", "pulled")
    assert (done.returncode, done.stdout) == (0, b"pulled\n")
    assert b"Downloaded newer image for alpine:latest" in done.stderr


def test_run_of_an_image_that_cannot_be_had_ends_with_125(docker: Docker) -> None:
    done = docker.run("run", "--rm", "nothing")
    assert done.returncode == 125
    assert b"pull access denied for nothing" in done.stderr


def test_exec_passes_input_output_and_code(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "c", "busybox", "sleep", "60")
    assert docker.ok("exec", "c", "echo", "inside") == "inside\n"
    assert docker.ok("exec", "-i", "c", "cat", stdin=b"through") == "through"
    assert docker.run("exec", "c", "exit", "9").returncode == 9
    assert docker.run("exec", "c", "nosuch").returncode == 127
    docker.ok("exec", "-d", "c", "echo", "unseen")


def test_a_terminal_is_passed_with_its_size(docker: Docker) -> None:
    parent, child = pty.openpty()
    os.set_blocking(parent, True)

    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    command = [*docker.command, "run", "--rm", "-it", "busybox", "size"]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=docker.env) as process:
        os.close(child)
        output = b""
        while True:
            try:
                part = os.read(parent, 4096)
            except OSError:  # EIO: the terminal's last user is gone
                break
            output += part
            if not part:
                break
        os.close(parent)
        assert process.wait(10) == 0
    assert b"33 77" in output


def test_ps_and_inspect(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "web", "-p", "8080:80", "-l", "tier=front", "busybox", "sleep", "60")
    assert docker.run("run", "--name", "done", "busybox", "exit", "2").returncode == 2
    lines = docker.ok("ps", "-a", "--format", "{{.Names}}|{{.Image}}|{{.Ports}}|{{.Status}}").splitlines()
    assert lines[0].startswith("done|busybox||Exited (2) ")
    assert lines[1].startswith("web|busybox|0.0.0.0:8080->80/tcp|Up ")
    assert docker.ok("ps", "-q", "--filter", "label=tier=front").strip()
    value = json.loads(docker.ok("inspect", "web"))[0]
    assert value["NetworkSettings"]["Ports"]["80/tcp"] == [{"HostIp": "0.0.0.0", "HostPort": "8080"}]
    assert docker.ok("port", "web") == "80/tcp -> 0.0.0.0:8080\n"


def test_the_life_of_a_container(docker: Docker) -> None:
    docker.ok("create", "--name", "c", "busybox", "sleep", "60")
    docker.ok("start", "c")
    docker.ok("pause", "c")
    assert "(Paused)" in docker.ok("ps", "--format", "{{.Status}}")
    docker.ok("unpause", "c")
    docker.ok("rename", "c", "d")
    docker.ok("update", "--memory", "64m", "d")
    assert "sleep 60" in docker.ok("top", "d")
    docker.ok("restart", "-t", "1", "d")
    docker.ok("stop", "-t", "1", "d")
    assert docker.ok("wait", "d") == "143\n"
    docker.ok("rm", "d")
    assert docker.run("container", "inspect", "d").returncode == 1


def test_logs_and_followed_logs(docker: Docker) -> None:
    docker.ok("run", "--name", "c", "busybox", "echo", "kept")
    assert docker.ok("logs", "c") == "kept\n"
    assert docker.ok("logs", "-f", "c") == "kept\n"


def test_attach_and_kill_of_the_client_leaves_the_container(docker: Docker, daemon: FakeDaemon) -> None:
    docker.ok("run", "-d", "--name", "c", "busybox", "sleep", "60")
    with subprocess.Popen(
        [*docker.command, "attach", "--no-stdin", "c"], env=docker.env, stdout=subprocess.DEVNULL
    ) as process:
        end = time.monotonic() + 10
        while not daemon.engine.containers.sessions:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (session,) = daemon.engine.containers.sessions
    end = time.monotonic() + 5
    while not session.aborted:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert docker.ok("inspect", "-f", "{{.State.Running}}", "c") == "true\n"


def test_statistics_of_a_running_container(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "c", "busybox", "sleep", "60")
    assert docker.ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").startswith("c 4KiB")


def test_events_are_printed(docker: Docker) -> None:
    docker.ok("run", "--rm", "--name", "c", "busybox", "exit", "0")
    lines = docker.ok("events", "--since", "1", "--until", "0s", "--format", "{{.Action}} {{.Actor.Attributes.name}}")
    assert lines.splitlines() == ["create c", "start c", "die c", "destroy c"]


def test_images(docker: Docker) -> None:
    assert "busybox" in docker.ok("images")
    docker.ok("pull", "-q", "alpine:3")
    docker.ok("tag", "alpine:3", "localhost:5000/a:1")
    assert "The push refers to" in docker.ok("push", "localhost:5000/a:1")
    assert "/bin/sh" in docker.ok("history", "alpine:3")
    assert docker.ok("image", "inspect", "-f", "{{.Architecture}}", "alpine:3") == "amd64\n"
    assert "Untagged: alpine:3" in docker.ok("rmi", "alpine:3")
    assert docker.ok("import", "-", "mine:1", stdin=b"tar").startswith("sha256:")


def test_a_pull_that_fails_half_way_fails(docker: Docker) -> None:
    done = docker.run("pull", "broken")
    assert done.returncode == 1
    assert b"the layer ended early\ntry again" in done.stderr


def test_networks_and_volumes(docker: Docker) -> None:
    assert docker.ok("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines() == [
        "bridge bridge",
        "host host",
        "none null",
    ]
    assert json.loads(docker.ok("network", "inspect", "bridge"))[0]["Name"] == "bridge"
    assert docker.ok("volume", "create", "v") == "v\n"
    assert docker.ok("volume", "ls", "-q") == "v\n"
    assert json.loads(docker.ok("volume", "inspect", "v"))[0]["Driver"] == "local"
    assert docker.ok("volume", "rm", "v") == "v\n"


def test_what_is_not_built_is_said(docker: Docker) -> None:
    done = docker.run("plugin", "ls")
    assert done.returncode == 1
    assert b"is not supported by this version of scow" in done.stderr


def test_errors_are_shown_with_their_hint(docker: Docker) -> None:
    docker.ok("run", "-d", "--name", "c", "busybox", "sleep", "60")
    done = docker.run("rm", "c")
    assert done.returncode == 1
    assert b"container is running\nstop the container before removing or force remove" in done.stderr
