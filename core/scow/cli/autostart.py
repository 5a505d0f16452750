"""Starts ``scowd`` when nobody listens on the default socket, as ``adb`` starts its server.

Only as root, and only where the user chose no host (`scow.cli.hosts.Host.is_default`).
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from scow.cli.session import note
from scow.errors import Unavailable

TIMEOUT_S = 20.0
POLL_S = 0.01
LOG_TAIL = 4096
started_pid = 0  # of the daemon that this command started
_CGROUPS = ("/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/systemd/cgroup.procs")


def start(path: str) -> bool:
    """A daemon listens on *path* when this answers true; false where we are not allowed to start one."""
    if os.geteuid() != 0:
        return False
    global started_pid  # one command, one daemon at most
    started_pid = ensure(path, daemon_program(), prepare=_own_cgroup)
    return True


def ensure(path: str, program: str, *, prepare: Callable[[], None] | None = None, timeout_s: float = TIMEOUT_S) -> int:
    """A daemon listens on *path*: the one that did (0 is answered), or *program*, which is started once however many
    ask (its pid is answered).

    *prepare* runs in the child before the program. Raises `Unavailable` with the daemon's own words when it ended, or
    did not listen within *timeout_s*.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o711, exist_ok=True)
    lock = os.open(os.path.join(directory, "autostart.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if listens(path):  # another one was quicker
            return 0
        return _launch(path, program, os.path.join(directory, "scowd.log"), prepare, timeout_s)
    finally:
        os.close(lock)


def listens(path: str) -> bool:
    """Whether a connection to *path* is accepted."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
        return True


def _launch(path: str, program: str, log_path: str, prepare: Callable[[], None] | None, timeout_s: float) -> int:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    begin = os.fstat(log).st_size
    try:
        daemon = subprocess.Popen(
            [program],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            preexec_fn=prepare,
        )
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Unavailable(f"cannot start {program}: {reason}", hint="is scow installed completely?") from error
    finally:
        os.close(log)
    deadline = time.monotonic() + timeout_s
    while not listens(path):
        if daemon.poll() is not None:
            raise Unavailable(f"scowd could not start: {_last_words(log_path, begin)}", hint=f"its log is {log_path}")
        if time.monotonic() > deadline:
            daemon.kill()
            daemon.wait()
            raise Unavailable(f"scowd does not listen on {path} after {timeout_s:.0f} s", hint=f"its log is {log_path}")
        time.sleep(POLL_S)
    daemon.returncode = 0  # it outlives us: nothing to wait for
    if sys.stderr.isatty():
        note(f"scow: started scowd (pid {daemon.pid}, log {log_path})")
    return daemon.pid


def daemon_program() -> str:
    """The ``scowd`` that was installed with this ``scow``."""
    return os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "scowd")


def _last_words(log_path: str, begin: int) -> str:
    """What the daemon wrote since *begin*, on one line."""
    with open(log_path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - LOG_TAIL))
        lines = file.read().decode(errors="replace").strip().splitlines()
    words = "; ".join(line.strip() for line in lines[-3:])
    return words.removeprefix("scowd: ") or "it wrote nothing"


def _own_cgroup() -> None:
    """In the child: leave the cgroup of the user's session, which systemd may kill at logout.

    Writing 0 moves the writer itself, which is cheap; on a host where it cannot be done the daemon stays where it is.
    """
    for probe in _CGROUPS:
        parent = os.path.join(os.path.dirname(probe), "scowd")
        try:
            if not os.path.exists(probe):
                continue
            os.makedirs(parent, exist_ok=True)
            file = os.open(os.path.join(parent, "cgroup.procs"), os.O_WRONLY)
            os.write(file, b"0")
            os.close(file)
        except OSError:
            continue
        return
