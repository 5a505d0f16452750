"""The standard streams of one process: pipes or a pty, the log, and the clients that are attached.

Output is read only when every attached client has taken what was read before: a slow one holds the process back through
the full pipe, as Docker does. With no client it goes to the log by splice (`SegmentWriter.pump`), with no log either it
is thrown away, also by splice: a monitor that has nothing to look at copies nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable

from scow.monitor import loop as ev
from scow.monitor.attach import Attacher, Leftover
from scow.monitor.segments import STDERR, STDOUT, SegmentWriter, waiting

PIPE_BYTES = 1 << 20
READ_BYTES = 128 << 10
GONE_GRACE_S = 0.2  # after a client goes: is it the client, or did scowd die with all its sockets?
_DRAIN_TTY_BYTES = 1 << 20
_WINDOW = struct.Struct("HHHH")


class Output:
    """One stream that the process writes to: its read end, watched unless it is held back."""

    __slots__ = ("fd", "stream", "_stdio", "_watched")

    def __init__(self, stdio: Stdio, fd: int, stream: int) -> None:
        self.fd = fd
        self.stream = stream
        self._stdio = stdio
        self._watched = False
        self.resume()

    def resume(self) -> None:
        """It is read when there is something."""
        if self.fd >= 0 and not self._watched:
            self._stdio.loop.watch(self.fd, ev.IN, self._ready)
            self._watched = True

    def pause(self) -> None:
        """It is not read. Not watched at all: a hang-up would be told again and again."""
        if self._watched:
            self._stdio.loop.unwatch(self.fd)
            self._watched = False

    def close(self) -> None:
        """Its read end is closed."""
        if self.fd >= 0:
            self.pause()
            os.close(self.fd)
            self.fd = -1

    def _ready(self, _events: int) -> None:
        try:
            alive = self._stdio.pull(self) > 0
        except BlockingIOError:
            return
        except OSError:  # EIO of a pty: its last user closed it
            alive = False
        if not alive:
            self.close()


class Stdio:
    """Standard streams, before, while and after their process runs.

    Clients may attach before `open`. *once*: the end of the first client that gives input is the end of the process's
    input. *scowd_lives* says whether scowd is connected: its death is no client's end.
    """

    def __init__(self, loop: ev.Loop, once: bool, scowd_lives: Callable[[], bool]) -> None:
        self.loop = loop
        self.once = once
        self.log: SegmentWriter | None = None
        self.tty = False
        self._scowd_lives = scowd_lives
        self._attachers: list[Attacher] = []
        self._leftovers: list[tuple[Leftover, bool]] = []
        self._first: Attacher | None = None
        self._outputs: list[Output] = []
        self._input = -1
        self._input_watched = False
        self._pending: memoryview = memoryview(b"")
        self._input_ending = False
        self._size: tuple[int, int] | None = None
        self._null = -1
        self._held = False
        self.on_left: Callable[[], None] | None = None

    # -- opening and closing

    def open(self, tty: bool, open_stdin: bool) -> tuple[int, int, int]:
        """The process's ends of its three streams; close them with `close_child_ends` after the fork."""
        self.tty = tty
        if tty:
            return self._open_tty()
        ends: list[int] = []
        if open_stdin:
            child, self._input = os.pipe()
            os.set_blocking(self._input, False)
        else:
            child = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            self._input_ending = True
        ends.append(child)
        for stream in (STDOUT, STDERR):
            source, child = os.pipe()
            os.set_blocking(source, False)
            try:
                fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:  # EPERM: over the user's pipe-user-pages-soft, pipe(7); slower, not worse
                pass
            ends.append(child)
            self._outputs.append(Output(self, source, stream))
        self._update_input()
        return ends[0], ends[1], ends[2]

    def close_child_ends(self, ends: tuple[int, int, int]) -> None:
        """The process has them; here they are closed."""
        for fd in set(ends):
            os.close(fd)

    def _open_tty(self) -> tuple[int, int, int]:
        master, slave = os.openpty()
        self._use_terminal(master)
        return slave, slave, slave

    def _use_terminal(self, master: int) -> None:
        os.set_blocking(master, False)
        if self._size:
            fcntl.ioctl(master, termios.TIOCSWINSZ, _WINDOW.pack(*self._size, 0, 0))
        self._outputs = [Output(self, master, STDOUT)]

    def terminal_ready(self, master: int = -1) -> None:
        """The process has its terminal: *master* where it made one in a devpts of its own, else that of `open`.

        Only from here on clients' input goes to it. Nothing happens to pipes.
        """
        if not self.tty:
            return
        if master >= 0:
            for output in self._outputs:
                output.close()
            self._use_terminal(master)
        if self._outputs[0].fd >= 0:
            self._input = os.dup(self._outputs[0].fd)  # watched apart from the output side
        self._update_input()

    def hold(self) -> None:
        """Nothing is read until `release`; without that, what was written is thrown away in the end: another program
        than the container's writes there until it has made the process."""
        self._held = True
        for output in self._outputs:
            output.pause()

    def release(self) -> None:
        """What is written is read."""
        self._held = False
        self.unblocked()

    def resize(self, rows: int, cols: int) -> None:
        """The terminal has that size, now or as soon as there is one; nothing happens to pipes."""
        self._size = (rows, cols)
        for output in self._outputs:
            if self.tty and output.fd >= 0:
                fcntl.ioctl(output.fd, termios.TIOCSWINSZ, _WINDOW.pack(rows, cols, 0, 0))

    def finish(self) -> None:
        """The process ended: what it wrote is given to log and clients, and its streams are closed.

        Never waits for more: a process in the background may hold the pipe open for ever. The clients' sockets close
        when they have taken everything; `on_left` is called as they go.
        """
        self._close_input()
        for output in self._outputs:
            if not self._held:
                self._drain(output)
            output.close()
        if self.log:
            self.log.close()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
        for leftover, _closes in self._leftovers:
            leftover.close()
        self._leftovers = []
        for attacher in self._attachers[:]:
            attacher.finish()

    @property
    def idle(self) -> bool:
        """Whether no client is attached."""
        return not self._attachers

    # -- output

    def pull(self, output: Output) -> int:
        """One portion of *output* went where it belongs: its length, 0 at the end.

        Raises `BlockingIOError` when nothing is there.
        """
        takers = [attacher for attacher in self._attachers if output.stream in attacher.streams]
        if not takers and not self.tty:
            if self.log:
                return self.log.pump(output.fd, output.stream)
            return self._discard(output.fd)
        data = os.read(output.fd, READ_BYTES)
        if self.log:
            self.log.write(output.stream, data)
        for attacher in takers if data else ():
            attacher.give(output.stream, data, self.tty)
            if attacher.backlog:
                self._hold()
        return len(data)

    def unblocked(self) -> None:
        """Goes on reading output if no client is behind any more."""
        if not self._held and not any(attacher.backlog for attacher in self._attachers):
            for output in self._outputs:
                output.resume()

    def _hold(self) -> None:
        for output in self._outputs:
            output.pause()

    def _discard(self, fd: int) -> int:
        if self._null < 0:
            self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        return os.splice(fd, self._null, PIPE_BYTES)

    def _drain(self, output: Output) -> None:
        """At most what is in the pipe now; what others write meanwhile is not waited for."""
        if output.fd < 0:
            return
        try:
            left = _DRAIN_TTY_BYTES if self.tty else waiting(output.fd)
            while left > 0:
                count = self.pull(output)
                if not count:
                    return
                left -= count
        except OSError:  # BlockingIOError: empty; EIO: the terminal's last user closed it
            return

    # -- clients

    def attach(self, fd: int, stdin: bool, stdout: bool, stderr: bool, early: bytes = b"") -> None:
        """The client behind the socket *fd* sees the streams it wants from here on, and gives input when *stdin*."""
        streams = tuple(stream for stream, wanted in ((STDOUT, stdout), (STDERR, stderr)) if wanted)
        attacher = Attacher(self, fd, stdin, streams, early)
        self._attachers.append(attacher)
        if stdin and self._first is None:
            self._first = attacher

    def left(self, attacher: Attacher) -> None:
        """*attacher* is closed."""
        if attacher in self._attachers:
            self._attachers.remove(attacher)
            self.unblocked()
            if self.on_left:
                self.on_left()

    # -- input

    def takes_input(self) -> bool:
        """Whether a client's bytes should be read now: the process takes them, or they are to be thrown away."""
        return not self._pending and (self._input >= 0 or self._input_ending)

    def give_input(self, data: bytes) -> None:
        """*data* is on its way to the process; thrown away when its input is closed."""
        if self._input < 0:
            return
        view = memoryview(data)
        if not self._pending:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                pass
            except OSError:  # EPIPE: the process closed its input
                self._close_input()
                return
        if view:
            self._pending = memoryview(bytes(self._pending) + bytes(view)) if self._pending else view
            self._update_input()

    def input_ended(self, attacher: Attacher) -> None:
        """*attacher*'s client half-closed."""
        if self._ends_with(attacher):
            self._end_input()

    def orphaned(self, attacher: Attacher, leftover: Leftover) -> None:
        """*attacher* is gone without half-closing; what it had sent is given, then its going counts as its end."""
        self._leftovers.append((leftover, self._ends_with(attacher)))
        self._move_leftovers()

    def _ends_with(self, attacher: Attacher) -> bool:
        return self.once and not self.tty and attacher is self._first

    def _move_leftovers(self) -> None:
        while self._leftovers:
            leftover, closes = self._leftovers[0]
            if not leftover.move(self.takes_input, self.give_input):
                return
            self._leftovers.pop(0)
            if closes:
                self.loop.later(GONE_GRACE_S, self._end_input_of_gone)

    def _end_input_of_gone(self) -> None:
        if self._scowd_lives():
            self._end_input()

    def _end_input(self) -> None:
        self._input_ending = True
        if not self._pending:
            self._close_input()

    def _update_input(self) -> None:
        """The write end is watched while something waits for it; clients read on when nothing does."""
        if self._input >= 0 and bool(self._pending) != self._input_watched:
            self._input_watched = bool(self._pending)
            if self._input_watched:
                self.loop.watch(self._input, ev.OUT, self._input_ready)
            else:
                self.loop.unwatch(self._input)
        for attacher in self._attachers[:]:
            attacher.update()
        if self._leftovers and self.takes_input():
            self._move_leftovers()

    def _input_ready(self, _events: int) -> None:
        try:
            self._pending = self._pending[os.write(self._input, self._pending) :]
        except BlockingIOError:
            return
        except OSError:
            self._close_input()
            return
        if not self._pending:
            if self._input_ending:
                self._close_input()
            else:
                self._update_input()

    def _close_input(self) -> None:
        self._pending = memoryview(b"")
        self._input_ending = True
        if self._input >= 0:
            if self._input_watched:
                self.loop.unwatch(self._input)
                self._input_watched = False
            os.close(self._input)
            self._input = -1
        self._update_input()
