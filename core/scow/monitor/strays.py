"""Children that the monitor did not make: orphans of an indirect runtime, which come to the subreaper, prctl(2).

They are the container's process that a maker leaves behind, the makers themselves, and what they or a container without
a PID namespace of its own orphan. Used with child modules that are ``INDIRECT`` only (`scow.ports.runtime`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from scow.linux import syscalls
from scow.monitor import loop as ev
from scow.monitor.process import Process


class Strays:
    """From here on the process is a subreaper and reaps every child that is none of *processes*."""

    def __init__(self, loop: ev.Loop, processes: Callable[[], Sequence[Process]]) -> None:
        self._processes = processes
        self._wake, wake = os.pipe()
        for fd in (self._wake, wake):
            os.set_blocking(fd, False)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # SIGCHLD has a handler that does nothing
        loop.watch(self._wake, ev.IN, self._woken)

    def _woken(self, _events: int) -> None:
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass
        self.reap()

    def reap(self) -> None:
        """Every stray that has ended is reaped; none while one of the processes may be any of them."""
        processes = self._processes()
        if any(process.unnamed for process in processes):
            return
        mine = {process.pid: process for process in processes}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            process = mine.pop(ended.si_pid, None)
            if process is None:
                os.waitpid(ended.si_pid, 0)
            elif not process.reap():  # it stays the first that is found
                return
