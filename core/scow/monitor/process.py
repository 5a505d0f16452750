"""One process of a container, init or exec: from the runtime's child module to its exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from scow.linux import syscalls
from scow.monitor import loop as ev
from scow.monitor.protocol import start_ticks
from scow.monitor.streams import Stdio
from scow.plain_json import decode_json

Failure = dict[str, Any]  # "message", "kind", "errno"
_LONGEST_REPORT = 64 << 10


class Birth(Protocol):
    """See `scow.ports.runtime`."""

    def pid(self) -> int: ...
    def close(self) -> None: ...


class Spawned(Protocol):
    """What a child module answers (see `scow.ports.runtime`); it may have a ``birth`` too."""

    @property
    def pid(self) -> int: ...
    @property
    def start_fd(self) -> int: ...
    @property
    def status_fd(self) -> int: ...


class Observer(Protocol):
    """Who wants to know how a process gets on."""

    def ready(self) -> None:
        """It is set up and waits for `Process.begin`."""

    def started(self) -> None:
        """Its program runs."""

    def failed(self, failure: Failure) -> None:
        """Its program will never run; `ended` follows."""

    def ended(self, exit_code: int, signal: int) -> None:
        """It is reaped. *exit_code* is 128 + *signal* of a killed one; its output is not drained yet."""


class Process:
    """A child of the monitor. States: new, created, ready, running, failed, ended.

    An *indirect* one is made by another child, its maker, which names it when it is ready (`scow.ports.runtime`): `pid`
    is the maker's until then.
    """

    def __init__(self, loop: ev.Loop, stdio: Stdio, observer: Observer) -> None:
        self.stdio = stdio
        self.indirect = False
        self.state = "new"
        self.pid = 0
        self.start_ticks = 0
        self.exit_code = 0
        self.signal = 0
        self.observer = observer
        self.held = False  # its start byte waits until it is ready, whatever else it reads from the start pipe before
        self.on_pause: Callable[[], None] | None = None  # it waits for `go_on` or `abandon`
        self._loop = loop
        self._start_fd = -1
        self._status_fd = -1
        self._pidfd = -1
        self._birth: Birth | None = None
        self._status = b""
        self._begun = False
        self._over = False

    def spawn(
        self, fork: Callable[[tuple[int, int, int]], Spawned], tty: bool, open_stdin: bool, indirect: bool = False
    ) -> None:
        """The process exists and sets itself up. Raises what *fork* raises; it has ended then, as its streams have."""
        self.indirect = indirect
        ends = self.stdio.open(tty, open_stdin)
        if indirect:
            self.stdio.hold()
        monitor = os.getpid()
        try:
            spawned = fork(ends)
        except BaseException:
            if os.getpid() != monitor:  # the child's own code is at fault: it must not go on as a second monitor
                sys.excepthook(*sys.exc_info())
                os._exit(70)
            self.state, self.exit_code = "ended", 126
            self.stdio.finish()
            raise
        finally:
            self.stdio.close_child_ends(ends)
        self._start_fd, self._status_fd = spawned.start_fd, spawned.status_fd
        self._birth = getattr(spawned, "birth", None)
        self.state = "created"
        os.set_blocking(self._status_fd, False)
        self._loop.watch(self._status_fd, ev.IN, self._status_ready)
        self._follow(spawned.pid)

    def _follow(self, pid: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks(pid)
        self._pidfd = os.pidfd_open(pid)
        self._loop.watch(self._pidfd, ev.IN, self._ended)

    def _follow_born(self) -> bool:
        """Whether the process left another one behind, which is this one from now on. It is about to end, or has."""
        birth, self._birth = self._birth, None
        if birth is None:
            return False
        pid = birth.pid()
        birth.close()
        if pid:
            self._reap_later(self.pid, self._pidfd)
            self._follow(pid)
        return bool(pid)

    def _reap_later(self, pid: int, pidfd: int) -> None:
        """*pid* need not be gone yet: to take its memory down takes a while."""

        def gone(_events: int) -> None:
            self._reap(pid, pidfd)

        self._loop.unwatch(pidfd)
        self._loop.watch(pidfd, ev.IN, gone)

    def _reap(self, pid: int, pidfd: int) -> int:
        """The process *pid*, which has ended, is gone: its wait status."""
        _pid, status = os.waitpid(pid, 0)
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        return status

    def begin(self) -> None:
        """It executes its program as soon as it is set up. One with a terminal is held until that was taken from it."""
        self._begun = True
        if self._start_fd >= 0 and (self.state == "ready" or not (self.stdio.tty or self.held)):
            self.go_on()
            self._close_start()

    def go_on(self) -> None:
        """It waits no longer, where it does."""
        try:
            if self._start_fd >= 0:
                os.write(self._start_fd, b"\n")
        except BrokenPipeError:
            pass  # it ended meanwhile, which its status tells

    def abandon(self, failure: Failure) -> None:
        """It ends without ever executing its program, for a reason that the observer is told."""
        self._fail(failure)

    def cancel(self) -> None:
        """It ends without ever executing its program."""
        self._close_start()

    def kill(self, signum: int) -> bool:
        """It got the signal; False where it is not there (any more). It is not reaped yet, so the pid is its own. An
        indirect one that is still being made is cancelled, whatever the signal."""
        if self.state not in ("created", "ready", "running"):
            return False
        if self.unnamed:
            self.cancel()
            return True
        os.kill(self.pid, signum)
        return True

    @property
    def alive(self) -> bool:
        """Whether it is there and not reaped."""
        return self._pidfd >= 0

    def identity(self) -> dict[str, int]:
        """``pid`` and ``start_ticks`` of now: an exec is another process once its program runs."""
        return {"pid": self.pid, "start_ticks": self.start_ticks}

    @property
    def unnamed(self) -> bool:
        """Whether it is being made by a maker that has not named it yet: any child of the monitor may be it."""
        return self.indirect and self.state == "created"

    def reap(self) -> bool:
        """It has ended: what `Observer.ended` tells follows. False where its maker is still to say how it started."""
        self._ended(0)
        return not self.alive

    def _status_ready(self, _events: int) -> None:
        try:
            data = os.read(self._status_fd, 4096)
        except BlockingIOError:
            return
        if data:
            self._status += data
            self._take_lines()
            return
        self._close_status()
        if self._begun and self.state == "ready":
            self._follow_born()
            self.state = "running"
            self.observer.started()
        else:
            self._fail({"message": "the process ended before its program was started", "kind": "setup"})
        if self._over:
            self._ended(0)

    def _take_lines(self) -> None:
        """What the process reports. In a container that may trace it others may have a hand in that: what makes no
        sense is a failure of this process and of nothing else."""
        while b"\n" in self._status:
            line, _, self._status = self._status.partition(b"\n")
            report = _report(line)
            if report.get("ready"):
                if self.state == "created":
                    self._ready(report.get("console_fd"), report.get("pid"))
            elif "hooks" in report and self.on_pause:
                self.on_pause()
            else:
                self._fail(_failure(report))
        if len(self._status) > _LONGEST_REPORT:
            self._status = b""
            self._fail(_failure({}))

    def _ready(self, console_fd: int | None, pid: int | None) -> None:
        """It is set up. *console_fd* is where it (its maker) holds the master of a terminal that it made in its own
        devpts, *pid* what an indirect process is."""
        try:
            self.stdio.terminal_ready(-1 if console_fd is None else syscalls.pidfd_getfd(self._pidfd, console_fd))
        except OSError as error:
            self._fail({"message": f"terminal: {error}", "kind": "setup", "errno": error.errno or 0})
            return
        if self.indirect and not self._adopt(pid or 0):
            return
        self.state = "ready"
        self.observer.ready()
        if self._begun:
            self.begin()

    def _adopt(self, pid: int) -> bool:
        """The process is *pid*, an orphan that is the monitor's child now; its maker is one stray child more."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._fail({"message": f"process {pid} is no child of the monitor", "kind": "setup", "errno": error.errno})
            return False
        self._loop.unwatch(self._pidfd)
        os.close(self._pidfd)
        self.pid, self.start_ticks, self._pidfd = pid, start_ticks(pid), pidfd
        self._loop.watch(pidfd, ev.IN, self._ended)
        self.stdio.release()
        return True

    def _fail(self, failure: Failure) -> None:
        if self.state not in ("failed", "ended"):
            self.state = "failed"
            self._close_start()
            self.observer.failed(failure)

    def _ended(self, _events: int) -> None:
        pid = self.pid
        while self._status_fd >= 0:  # a program that ran and is gone already was started before it ended
            before = self._status_fd, self.state
            self._status_ready(0)
            if (self._status_fd, self.state) == before:
                break
        if self.pid != pid or not self.alive or self._follow_born():
            return  # it was the maker that ended, or a helper; or a status line told of the end, and that was seen to
        self._loop.unwatch(self._pidfd)
        if self.indirect and self._begun and self.state == "ready":
            self._over = True  # a short program is over before its maker says that it was started
            return
        code = os.waitstatus_to_exitcode(self._reap(pid, self._pidfd))
        self._pidfd = -1
        self.exit_code, self.signal = (code, 0) if code >= 0 else (128 - code, -code)
        if self._status_fd >= 0:  # a child of the child's own holds it open; the process itself is gone
            self._close_status()
        if self.state != "running":
            self._fail({"message": "the process ended before its program was started", "kind": "setup"})
        self.state = "ended"
        self._close_start()
        self.observer.ended(self.exit_code, self.signal)

    def _close_start(self) -> None:
        if self._start_fd >= 0:
            os.close(self._start_fd)
            self._start_fd = -1

    def _close_status(self) -> None:
        if self._status_fd >= 0:
            self._loop.unwatch(self._status_fd)
            os.close(self._status_fd)
            self._status_fd = -1


def _report(line: bytes) -> dict[str, Any]:
    try:
        report = decode_json(line.decode())
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _failure(report: dict[str, Any]) -> Failure:
    """What the ``error`` line *report* of a status pipe says (`scow.ports.runtime`)."""
    message, kind = str(report.get("error", "the process sent a report that cannot be read")), report.get("kind")
    if report.get("stage") and kind in (None, "setup"):
        message = f"{report['stage']}: {message}"
    errno = report.get("errno")
    return {"message": message, "kind": str(kind or "setup"), "errno": errno if isinstance(errno, int) else 0}
