"""``scow`` itself runs containers on a scowd of its own; what it lists is what the docker CLI lists."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="the daemon's fixture needs the docker CLI")]
SCOW = [sys.executable, "-m", "scow.cli.main"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def scow(daemon: Daemon, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [*SCOW, "-H", f"unix://{daemon.socket}", *words]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


def out(daemon: Daemon, *words: str) -> str:
    done = scow(daemon, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def run(daemon: Daemon, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return scow(daemon, "run", "--rm", "--network", "none", *words, **options)


def test_streams_and_exit_code_are_the_programs(daemon: Daemon) -> None:
    done = run(daemon, "-i", "busybox", "sh", "-c", "cat; echo err >&2; exit 3", input=b"in\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"in\n", b"err\n", 3)


@pytest.mark.parametrize(("program", "code"), [("nope", 127), ("/etc", 126)])
def test_a_program_that_cannot_run_has_dockers_exit_code(daemon: Daemon, program: str, code: int) -> None:
    assert run(daemon, "busybox", program).returncode == code


def test_a_name_in_use_ends_with_125(daemon: Daemon) -> None:
    out(daemon, "create", "--name", "twice", "busybox")
    again = scow(daemon, "create", "--name", "twice", "busybox")
    assert again.returncode == 125
    assert b"twice" in again.stderr
    out(daemon, "rm", "twice")


def test_much_output_arrives_whole(daemon: Daemon) -> None:
    done = run(daemon, "busybox", "dd", "if=/dev/zero", "bs=1M", "count=64")
    assert len(done.stdout) == 64 << 20


def test_what_is_listed_is_what_docker_lists(daemon: Daemon) -> None:
    out(daemon, "run", "-d", "--name", "listed", "--network", "none", "-l", "a=b", "busybox", "sleep", "60")
    forms = (
        "{{.ID}}|{{.Image}}|{{.Command}}|{{.Names}}|{{.Ports}}|{{.State}}|{{.Labels}}|{{.Networks}}",
        '{{.Label "a"}}',
    )
    for form in forms:
        assert out(daemon, "ps", "--format", form) == daemon.out("ps", "--format", form)
    for words in (
        ["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"],
        ["network", "ls"],
        ["ps", "-aq"],
    ):
        assert out(daemon, *words) == daemon.out(*words)
    form = "{{.State.Running}} {{json .Config.Labels}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}"
    assert out(daemon, "inspect", "-f", form, "listed") == daemon.out("inspect", "-f", form, "listed")
    out(daemon, "rm", "-f", "listed")


def test_the_life_of_a_container(daemon: Daemon) -> None:
    out(daemon, "run", "-d", "--name", "life", "--network", "none", "busybox", "sh", "-c", "echo hello; sleep 60")
    assert scow(daemon, "exec", "life", "sh", "-c", "exit 5").returncode == 5
    assert out(daemon, "logs", "life") == "hello"
    for verb in ("pause", "unpause"):
        assert out(daemon, verb, "life") == "life"
    assert "sleep 60" in out(daemon, "top", "life")
    assert out(daemon, "stats", "--no-stream", "--format", "{{.Name}}", "life") == "life"
    out(daemon, "rename", "life", "afterlife")
    assert out(daemon, "stop", "-t", "0", "afterlife") == "afterlife"
    assert out(daemon, "wait", "afterlife") == "137"
    assert out(daemon, "rm", "afterlife") == "afterlife"


def test_signals_are_proxied(daemon: Daemon) -> None:
    script = "trap 'echo caught; exit 4' USR1; echo ready; while :; do sleep 0.1; done"
    command = [
        *SCOW,
        "-H",
        f"unix://{daemon.socket}",
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b"caught\n"
    assert process.returncode == 4


class Terminal:
    """``scow`` on a terminal of our own."""

    def __init__(self, daemon: Daemon, *words: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.execv(SCOW[0], [*SCOW, "-H", f"unix://{daemon.socket}", *words])
            finally:
                os._exit(99)
        import fcntl
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def until(self, words: bytes) -> None:
        """Read until *words* were shown."""
        shown, deadline = b"", time.monotonic() + 20
        while words not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([self.master], [], [], 0.1)[0]:
                shown += os.read(self.master, 65536)

    def end(self) -> int:
        """The exit code; what is still shown is read away."""
        while True:
            try:
                if not os.read(self.master, 65536):
                    break
            except OSError:
                break
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.master)
        return code


def test_a_terminal_is_sized_interrupted_and_detached(daemon: Daemon) -> None:
    terminal = Terminal(daemon, "run", "-it", "--name", "term", "--network", "none", "busybox", "sh")
    terminal.until(b"# ")
    terminal.type(b"stty size\n")
    terminal.until(b"31 97")
    terminal.type(b"sleep 60\n")
    terminal.until(b"sleep 60")
    time.sleep(0.2)
    terminal.type(b"\x03")
    terminal.until(b"# ")
    terminal.type(b"\x10\x11")
    assert terminal.end() == 0
    assert out(daemon, "inspect", "-f", "{{.State.Running}}", "term") == "true"
    again = Terminal(daemon, "attach", "term")
    time.sleep(0.3)
    again.type(b"exit 9\n")
    assert again.end() == 9
    out(daemon, "rm", "term")
