"""The daemon is started once, in a session of its own, and its own words are shown when it cannot."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.cli import autostart
from scow.errors import Unavailable

DAEMON = """#!{python}
import os, socket, time
open({pids!r}, "a").write(f"{{os.getpid()}} {{os.getsid(0)}} {{os.getcwd()}}\\n")
time.sleep({delay})
sock = socket.socket(socket.AF_UNIX)
sock.bind({path!r})
sock.listen(64)
while True:
    sock.accept()
"""


class Site:
    """A run root, and a program that plays the daemon."""

    def __init__(self, root: Path) -> None:
        self.path = str(root / "run" / "s")
        self.program = str(root / "fake-scowd")
        self.pids = root / "pids"
        self.pids.touch()

    def write(self, text: str) -> str:
        Path(self.program).write_text(text)
        os.chmod(self.program, 0o755)
        return self.program

    def daemon(self, delay: float = 0.0) -> str:
        return self.write(DAEMON.format(python=sys.executable, pids=str(self.pids), path=self.path, delay=delay))

    def started(self) -> list[list[str]]:
        return [line.split() for line in self.pids.read_text().splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for pid, *_ in site.started():
        try:
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def test_many_starters_start_one_daemon(site: Site) -> None:
    program = site.daemon(delay=0.2)
    threads = [threading.Thread(target=autostart.ensure, args=(site.path, program)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert autostart.listens(site.path)
    assert len(site.started()) == 1


def test_the_daemon_has_a_session_of_its_own_and_holds_no_folder(site: Site) -> None:
    autostart.ensure(site.path, site.daemon())
    ((pid, session, folder),) = site.started()
    assert (session, folder) == (pid, "/")


def test_a_daemon_that_runs_is_left_alone(site: Site) -> None:
    program = site.daemon()
    autostart.ensure(site.path, program)
    autostart.ensure(site.path, program)
    assert len(site.started()) == 1


def test_a_daemon_that_ends_is_quoted(site: Site) -> None:
    program = site.write("#!/bin/sh\necho 'scowd: no space left on the moon' >&2\nexit 1\n")
    with pytest.raises(Unavailable, match="scowd could not start: no space left on the moon") as caught:
        autostart.ensure(site.path, program)
    assert "scowd.log" in (caught.value.hint or "")


def test_a_daemon_that_never_listens_is_given_up(site: Site) -> None:
    program = site.write("#!/bin/sh\nexec sleep 60\n")
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="does not listen on"):
        autostart.ensure(site.path, program, timeout_s=0.3)
    assert time.monotonic() - begin < 5


def test_a_program_that_is_missing_is_named(site: Site) -> None:
    with pytest.raises(Unavailable, match="cannot start .*fake-scowd"):
        autostart.ensure(site.path, site.program)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may start the daemon")
def test_only_root_starts_a_daemon(site: Site) -> None:
    assert autostart.start(site.path) is False
