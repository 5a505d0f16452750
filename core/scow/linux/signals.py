"""As much of `signal` as forks and short commands need, in plain numbers: its enumerations cost 80 pages and two
milliseconds (measured)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from signal import struct_siginfo
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

SIG_BLOCK: int = _signal.SIG_BLOCK
SIG_SETMASK: int = _signal.SIG_SETMASK
SIG_DFL: int = _signal.SIG_DFL
SIGABRT: int = _signal.SIGABRT
SIGBUS: int = _signal.SIGBUS
SIGCHLD: int = _signal.SIGCHLD
SIGFPE: int = _signal.SIGFPE
SIGILL: int = _signal.SIGILL
SIGKILL: int = _signal.SIGKILL
SIGPIPE: int = _signal.SIGPIPE
SIGSEGV: int = _signal.SIGSEGV
SIGSTOP: int = _signal.SIGSTOP
SIGSYS: int = _signal.SIGSYS
SIGTRAP: int = _signal.SIGTRAP
SIGTSTP: int = _signal.SIGTSTP
SIGTTIN: int = _signal.SIGTTIN
SIGTTOU: int = _signal.SIGTTOU
SIGURG: int = _signal.SIGURG
SIGWINCH: int = _signal.SIGWINCH


def valid_signals() -> set[int]:
    """See `signal.valid_signals`."""
    return set(_signal.valid_signals())


def set_wakeup_fd(fd: int) -> None:
    """See `signal.set_wakeup_fd`; nothing is said of a full pipe."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def handle(signum: int, handler: Handler) -> Handler:
    """See `signal.signal`."""
    before: Handler = _signal.signal(signum, handler)
    return before


def mask(how: int, signums: Iterable[int]) -> None:
    """See `signal.pthread_sigmask`."""
    _signal.pthread_sigmask(how, signums)


def wait(signums: Iterable[int]) -> struct_siginfo:
    """See `signal.sigwaitinfo`."""
    found: struct_siginfo = _signal.sigwaitinfo(signums)
    return found
