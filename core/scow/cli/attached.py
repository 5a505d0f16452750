"""A session with a container or an exec: its output here, our input there, signals and window size as they come."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from scow.cli import terminal
from scow.cli.client import Client, Connection
from scow.cli.streams import READ_SIZE, Demultiplexer, to_descriptor
from scow.errors import InvalidArgument, ScowError

# Not forwarded: what concerns this process itself. SIGCHLD, SIGPIPE, SIGURG as docker; stops are the shell's.
_OURS = {"SIGCHLD", "SIGPIPE", "SIGURG", "SIGWINCH", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGKILL", "SIGSTOP"}
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"}
FORCED = 3  # so many SIGINT or SIGTERM end this process, as docker's


def check_terminal(*, stdin: bool, tty: bool) -> None:
    """Raises `InvalidArgument` where a terminal is promised and standard input is none."""
    if stdin and tty and not os.isatty(0):
        raise InvalidArgument("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")


class Session:
    """One taken-over *connection*; `run` copies until it ends."""

    def __init__(self, connection: Connection, *, tty: bool, stdin: bool, detach_keys: str | None = None) -> None:
        self.connection = connection
        self.tty = tty
        self.stdin = stdin
        self.keys = terminal.KeyWatch(terminal.detach_keys(detach_keys))

    def run(self) -> bool:
        """Copy until the stream ends; answers whether the detach keys ended it."""
        with ExitStack() as stack:
            if self.tty and self.stdin and os.isatty(0):
                stack.enter_context(terminal.raw(0))
            if self.stdin:
                threading.Thread(target=self._pump, name="stdin", daemon=True).start()
            self._copy()
        return self.keys.seen

    def _copy(self) -> None:
        write = to_descriptor(1)
        feed = write if self.tty else Demultiplexer(write, to_descriptor(2)).feed
        while True:
            try:
                data = self.connection.some(READ_SIZE)
            except ConnectionResetError:
                return
            if not data:
                return
            feed(data)

    def _pump(self) -> None:
        """Our input to the container; its end is a half-close, so that the answer can still come."""
        leave_signals()
        while True:
            try:
                data = os.read(0, 64 * 1024)
            except OSError:  # EIO: the terminal is gone
                data = b""
            if not data:
                self.connection.close_write()
                return
            if self.tty:
                self.keys.feed(data)
            try:
                self.connection.sock.sendall(data)
            except OSError:  # the session is over: the reading side sees it
                return


def leave_signals() -> None:
    """The calling thread takes no signals: they are for the one that waits for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class Forwarder:
    """Sends signals and window sizes to the engine, in order, from a thread with connections of its own."""

    def __init__(self, client: Client, path: str) -> None:
        self.client = client
        self.path = path
        self._queue: SimpleQueue[tuple[str, dict[str, object]] | None] = SimpleQueue()
        self._ending = 0
        self._thread = threading.Thread(target=self._send, name="forward", daemon=True)

    def _send(self) -> None:
        leave_signals()
        while (job := self._queue.get()) is not None:
            try:
                self.client.request("POST", f"{self.path}/{job[0]}", job[1])
            except ScowError:  # it ended in the meantime: the exit code tells
                continue

    def resize(self, *_: object) -> None:
        """The size of our terminal becomes that of the container's."""
        if size := terminal.size():
            self._queue.put(("resize", {"h": size[0], "w": size[1]}))

    def _signal(self, number: int) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._ending += 1
            if self._ending >= FORCED:
                os.write(2, b"\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
                os._exit(1)
        self._queue.put(("kill", {"signal": signal.Signals(number).name.removeprefix("SIG")}))

    @contextmanager
    def window(self) -> Iterator[None]:
        """The container's terminal has our size inside the block, whatever happens to the window."""
        with self._taking({signal.SIGWINCH}, lambda _: self.resize()):
            self.resize()
            yield

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Signals for this process go to the container inside the block."""
        chosen = {s for s in signal.Signals if s.name not in _OURS | _FAULTS and not s.name.startswith("SIGRT")}
        with self._taking(chosen, self._signal):
            yield

    @contextmanager
    def _taking(self, chosen: set[signal.Signals], act: Callable[[int], None]) -> Iterator[None]:
        """*act* is told each of the signals *chosen* inside the block, by a thread that waits for them (sigwait(3)).

        No Python handlers: these run in the main thread only, and late where a signal came just before it began to wait
        in a read.
        """

        def watch() -> None:
            while True:
                act(signal.sigwait(chosen))

        before = signal.pthread_sigmask(signal.SIG_BLOCK, chosen)
        self._thread.start()
        threading.Thread(target=watch, name="signals", daemon=True).start()
        try:
            yield
        finally:
            self._queue.put(None)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
