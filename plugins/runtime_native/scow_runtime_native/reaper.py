"""``--init``: the container's PID 1 reaps orphans and forwards signals, the program is its child (as tini does).

It stays in the monitor's frozen image, a sealed copy of the interpreter, with no descriptor but stdio.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from typing import NoReturn

from scow.linux import signals
from scow.linux import syscalls as sys

_NOT_FORWARDED = {signals.SIGCHLD, signals.SIGKILL, signals.SIGSTOP, signals.SIGTTIN, signals.SIGTTOU}
_SYNCHRONOUS = {signals.SIGFPE, signals.SIGILL, signals.SIGSEGV, signals.SIGBUS, signals.SIGABRT, signals.SIGTRAP}


def split(tty: bool, status_fd: int) -> None:
    """Forks. Returns in the child, which has a session and the terminal of its own; the parent stays and reaps."""
    mask = signals.valid_signals() - _SYNCHRONOUS
    signals.mask(signals.SIG_BLOCK, mask)
    pid = os.fork()
    if pid:
        _serve(pid, mask, status_fd)
    if tty:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    else:
        os.setpgid(0, 0)
    signals.mask(signals.SIG_SETMASK, ())


def _serve(child: int, mask: set[int], status_fd: int) -> NoReturn:
    sys.set_name(b"scow-init")
    os.close(status_fd)  # the child's copy tells of a failed execve
    for fd in (0, 1, 2):
        os.close(fd)
    while True:
        info = signals.wait(mask)
        if info.si_signo == signals.SIGCHLD:
            _reap(child)
        elif info.si_signo not in _NOT_FORWARDED:
            try:
                os.kill(child, info.si_signo)
            except ProcessLookupError:
                _reap(child)


def _reap(child: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except OSError as error:
            if error.errno == errno.ECHILD:
                return
            raise
        if pid == 0:
            return
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
