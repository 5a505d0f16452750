"""The docker CLI on a terminal: detach keys, attach again, signals, and input for a container that is started."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]
NONE = ("--network", "none")
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


class Terminal:
    """The docker CLI on a terminal of its own."""

    def __init__(self, daemon: Daemon, *words: str) -> None:
        assert DOCKER is not None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(DOCKER, [DOCKER, "-H", f"unix://{daemon.socket}", *words])
        self.output = ""

    def until(self, text: str) -> None:
        """Reads until *text* has come."""
        end = time.monotonic() + DEADLINE_S
        while text not in self.output and self._read(end):
            pass
        assert text in self.output, self.output

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def exit_code(self) -> int:
        """How the client ended, after the rest of its output."""
        end = time.monotonic() + DEADLINE_S
        while self._read(end):
            pass
        if time.monotonic() > end:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, end: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
        try:
            data = os.read(self.fd, 65536) if ready else b""
        except OSError:  # the other side is closed
            return False
        self.output += data.decode(errors="replace")
        return bool(data)


def test_detach_keys_leave_the_container_running(daemon: Daemon) -> None:
    first = Terminal(daemon, "run", "-it", "--name", "term", *NONE, "busybox", "sh")
    try:
        first.until("# ")
        first.send(b"\x10\x11")
        assert first.exit_code() == 0
        for keys, typed in (("", b"\x10\x11"), ("ctrl-a,b", b"\x01b")):
            again = Terminal(daemon, "attach", *(["--detach-keys", keys] if keys else []), "term")
            again.send(b"echo $((40+2))\n")
            again.until("42")
            again.send(typed)
            assert again.exit_code() == 1  # the docker CLI's own: "read escape sequence"
            assert "read escape sequence" in again.output
        inside = Terminal(daemon, "exec", "-it", "term", "sh")
        inside.until("# ")
        inside.send(b"tty; exit 5\n")
        assert inside.exit_code() == 5
        assert "/dev/pts/1" in inside.output
        last = Terminal(daemon, "attach", "term")
        last.send(b"exit 6\n")
        assert last.exit_code() == 6
        started = Terminal(daemon, "start", "-ai", "term")
        started.until("# ")
        started.send(b"exit 8\n")
        assert started.exit_code() == 8
    finally:
        daemon.docker("rm", "-f", "term", check=False)


def test_without_sig_proxy_a_signal_does_not_reach_the_program(daemon: Daemon) -> None:
    assert DOCKER is not None
    command = [DOCKER, "-H", f"unix://{daemon.socket}", "run", "--name", "sig", "--sig-proxy=false", *NONE, "busybox"]
    client = subprocess.Popen([*command, "sh", "-c", "echo up; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert daemon.out("inspect", "-f", "{{.State.Running}}", "sig") == "true"
    finally:
        client.kill()
        client.communicate()
        daemon.docker("rm", "-f", "sig", check=False)


def test_start_attached_gives_input_and_the_exit_code(daemon: Daemon) -> None:
    daemon.out("create", "-i", "--name", "ask", *NONE, "busybox", "sh", "-c", "read x; echo got $x; exit 2")
    done = daemon.docker("start", "-ai", "ask", input=b"word\n", check=False)
    assert (done.returncode, done.stdout) == (2, "got word\n")
    daemon.out("rm", "ask")
