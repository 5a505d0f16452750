"""A process that the command stays with: its signals, its terminal, its end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import termios
import tty
from typing import TYPE_CHECKING

from scow.linux import signals, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_CHUNK = 65536
_SIZE = b"\0" * 8
_NOT_FORWARDED = {
    signals.SIGKILL, signals.SIGSTOP, signals.SIGCHLD, signals.SIGWINCH, signals.SIGURG, signals.SIGTTIN,
    signals.SIGTTOU, signals.SIGTSTP, signals.SIGPIPE, signals.SIGSEGV, signals.SIGBUS, signals.SIGFPE,
    signals.SIGILL, signals.SIGABRT, signals.SIGTRAP, signals.SIGSYS,
}  # fmt: skip


def become_subreaper() -> None:
    """Orphans of the container's processes are this process's children, so that `wait` reaps them."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)


def wait(pid: int, master: int) -> int:
    """The exit code of the child *pid* (128 + signal of a killed one) when it has ended. It gets the signals that
    this process gets; its terminal, if *master* is not -1, is joined with this process's stdin and stdout."""
    with _wakeups() as wakeup:
        if master < 0:
            while (code := _serve(pid, wakeup, -1)) is None:
                select.select([wakeup], [], [])
            return code
        with _raw_stdin():
            return _Relay(pid, master, wakeup).run()


@contextlib.contextmanager
def _wakeups() -> Iterator[int]:
    """A descriptor from which the numbers of the signals can be read that have come."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signals.set_wakeup_fd(write)
    wanted = (signals.valid_signals() - _NOT_FORWARDED) | {signals.SIGCHLD, signals.SIGWINCH}
    before = {number: signals.handle(number, _noted) for number in wanted}
    try:
        yield read
    finally:
        for number, handler in before.items():
            signals.handle(number, handler if handler is not None else signals.SIG_DFL)
        signals.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)


def _noted(_signum: int, _frame: FrameType | None) -> None:
    """The wakeup descriptor has the number."""


def _serve(pid: int, wakeup: int, master: int) -> int | None:
    """The signals that have come are dealt with: the exit code when the child has ended."""
    try:
        numbers = set(os.read(wakeup, 4096))
    except BlockingIOError:
        numbers = set()
    code = _reap(pid)
    for number in numbers:
        if number == signals.SIGWINCH and master >= 0:
            copy_size(master)
        elif code is None and number not in _NOT_FORWARDED:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    return code


def _reap(wanted: int) -> int | None:
    """All children that have ended are reaped: the exit code of *wanted*, if it is one of them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == wanted:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def copy_size(master: int) -> None:
    """The terminal of *master* has the window size of this process's stdin, if that is a terminal."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, _SIZE))


@contextlib.contextmanager
def _raw_stdin() -> Iterator[None]:
    """The caller's terminal passes every byte on."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Relay:
    """Bytes between stdin, stdout and *master* until the child *pid* has ended and its output is through."""

    def __init__(self, pid: int, master: int, wakeup: int) -> None:
        self._pid = pid
        self._master = master
        self._wakeup = wakeup
        self._waiting = b""  # of stdin, for the terminal
        self._stdin = True
        os.set_blocking(master, False)
        if os.isatty(0):
            copy_size(master)

    def run(self) -> int:
        """The exit code."""
        code = None
        open_ = True
        while code is None or open_:
            code = code if code is not None else _serve(self._pid, self._wakeup, self._master)
            if open_:
                open_ = self._turn(wait=code is None)
                if code is not None and not self._readable():
                    break
            elif code is None:
                select.select([self._wakeup], [], [])
        os.close(self._master)
        return code if code is not None else 0

    def _readable(self) -> bool:
        return bool(select.select([self._master], [], [], 0)[0])

    def _turn(self, *, wait: bool) -> bool:
        """Whatever is ready is passed on; False when the terminal is at its end."""
        sources = [self._master, self._wakeup] + ([0] if self._stdin and not self._waiting else [])
        targets = [self._master] if self._waiting else []
        readable, writable, _ = select.select(sources, targets, [], None if wait else 0)
        if 0 in readable:
            self._waiting = _read(0)
            self._stdin = bool(self._waiting)
        if writable:
            self._waiting = self._waiting[os.write(self._master, self._waiting) :]
        if self._master not in readable:
            return True
        data = _read(self._master)
        while data:
            data = data[os.write(1, data) :]
            if not data:
                return True
        return False


def _read(fd: int) -> bytes:
    """What is there; nothing at the end, which a terminal tells by EIO."""
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""
