"""A process of the child module, until it is set up and until it runs (the protocol: `scow.ports.runtime`)."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from typing import TYPE_CHECKING, Any

from scow.errors import CannotRun, CommandNotFound, ScowError, Unavailable
from scow.linux import signals, syscalls
from scow.plain_json import decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow_runtime_native.child import Spawned

_KINDS: dict[str, type[ScowError]] = {"not_found": CommandNotFound, "cannot_run": CannotRun}
_CODE_LOST = 70


def guarded(fork: Callable[[], Spawned]) -> Spawned:
    """What *fork* answers; signals wait meanwhile, and come afterwards even where the caller of the command had blocked
    them: the end of a child is told by one. It never returns in the child."""
    caller = os.getpid()
    syscalls.set_signal_mask((1 << 64) - 1)
    try:
        return fork()
    except BaseException:
        if os.getpid() != caller:  # the child's own code is at fault: it must not go on as a second command
            sys.excepthook(*sys.exc_info())
            os._exit(_CODE_LOST)
        raise
    finally:
        syscalls.set_signal_mask(0)


class Reports:
    """The lines that a process writes to its status pipe, whose read end is *fd*."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def next(self) -> dict[str, Any] | None:
        """The next line; None when nobody holds the pipe: the process runs its program, or is gone. A line that tells
        of a failure is raised."""
        while b"\n" not in self._rest:
            data = os.read(self._fd, 65536)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        record: dict[str, Any] = decode_json(line.decode())
        if "error" in record:
            raise failure(record)
        return record

    def wait_ready(self, run_hooks: Callable[[], None] | None = None) -> int:
        """Returns when the process is set up: the descriptor that it has of its terminal's master, or -1. *run_hooks*
        is called when it waits for hooks."""
        record = self.next()
        if record is not None and "hooks" in record and run_hooks:
            run_hooks()
            record = self.next()
        if record is None:
            raise Unavailable("the process ended before it was set up")
        return int(record.get("console_fd", -1))

    def wait_executed(self) -> None:
        """Returns when the process runs its program."""
        while self.next() is not None:
            continue

    def close(self) -> None:
        """The pipe is closed."""
        os.close(self._fd)


def failure(record: dict[str, Any]) -> ScowError:
    """What a process says of its own failure, as an error."""
    message, kind = str(record["error"]), record.get("kind", "setup")
    if record.get("stage") and kind == "setup":
        message = f"{record['stage']}: {message}"
    return _KINDS.get(kind, ScowError)(message)


class Terminal:
    """The terminal of a process: one of the host's until the process has made one in its own devpts. *size* is the
    OCI ``consoleSize``."""

    def __init__(self, size: dict[str, Any] | None) -> None:
        self._master, self._slave = os.openpty()
        self._size = size

    def stdio(self) -> tuple[int, int, int]:
        """What the process is spawned with."""
        return self._slave, self._slave, self._slave

    def ready(self, pid: int, console_fd: int) -> int:
        """The master of the terminal that the process *pid*, which is set up, uses; it has its size."""
        os.close(self._slave)
        if console_fd >= 0:
            os.close(self._master)
            pidfd = os.pidfd_open(pid)
            try:
                self._master = syscalls.pidfd_getfd(pidfd, console_fd)
            finally:
                os.close(pidfd)
        if self._size:
            size = struct.pack("HHHH", self._size.get("height", 0), self._size.get("width", 0), 0, 0)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        return self._master


def send_terminal(master: int, path: str) -> None:
    """The socket at *path* got the descriptor *master*, as runc's ``--console-socket`` has it; it is closed here."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            socket.send_fds(connection, [b"/dev/ptmx"], [master])
    except OSError as error:
        raise Unavailable(
            f"cannot send the terminal to the console socket {path}: {error.strerror or error}"
        ) from error
    finally:
        os.close(master)


def inside(spawned: Spawned) -> Spawned:
    """*spawned*, or what it has left behind in the container's PID namespace (`scow_runtime_native.handover`): the one
    between is gone."""
    if spawned.birth is None:
        return spawned
    os.waitpid(spawned.pid, 0)
    pid = spawned.birth.pid()
    if not pid:
        raise Unavailable("the process ended before it was in the container")
    spawned.birth.close()
    return spawned._replace(pid=pid, birth=None)


def reap(spawned: Spawned) -> None:
    """The process is killed and gone, and what it may have left behind."""
    kill(spawned.pid)
    if spawned.birth is not None and spawned.birth.pid():
        kill(spawned.birth.pid())


def kill(pid: int) -> None:
    """The child *pid* is killed and gone, where it was not gone before."""
    try:
        if not os.waitpid(pid, os.WNOHANG)[0]:
            os.kill(pid, signals.SIGKILL)
            os.waitpid(pid, 0)
    except ChildProcessError:
        return
