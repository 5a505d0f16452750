"""Lives of monitors played through in the zygote before its heap is frozen.

CPython writes into a function's code and into its module's dictionary while it specialises them in the first calls
(PEP 659). Done here, once, those writes are shared by all monitors; done after the fork, each would pay for its own
copies of the pages (measured: 300 kB a monitor). What a life needs is also imported by then, if only on first use.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from scow.monitor import loop as ev
from scow.monitor.monitor import Monitor
from scow.monitor.protocol import Decoder, encode, listen
from scow.monitor.segments import segment_name, segment_numbers

NAME = "rehearsal.sock"
TIMES = 16  # a function is specialised from its ninth call on (CPython 3.11)
_CHILD: dict[str, Any] = {"module": __name__, "plan": {}}


class Spawned(NamedTuple):
    """See `scow.ports.runtime`."""

    pid: int
    start_fd: int
    status_fd: int


def create(plan: dict[str, Any], stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """A child that says something and reads its input to the end. It executes nothing."""
    start_read, start_write = os.pipe()
    status_read, status_write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.dup2(stdio[0], 0)
            os.write(status_write, b'{"ready": true}\n')
            os.close(start_write)
            os.read(start_read, 1)
            os.close(status_write)
            os.write(stdio[1], b"a line\n")
            os.closerange(3, 256)  # the monitor's end of the input, and the others'
            while os.read(0, 4096):
                pass
        finally:
            os._exit(0)
    os.close(start_read)
    os.close(status_write)
    return Spawned(pid, start_write, status_read)


def start_exec(plan: dict[str, Any], init_pid: int, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """As `create`."""
    return create(plan, stdio, tty)


class Rehearsal:
    """The client of one rehearsed monitor: says its lines on the monitor's own loop."""

    def __init__(self, directory: str, directory_fd: int) -> None:
        self._log = f"{directory}/rehearsal"
        self._monitor = Monitor("rehearsal", directory, NAME, listen(directory_fd, NAME))
        self._ours, theirs = socket.socketpair()
        self._decoder = Decoder()
        self._monitor.add_control(theirs.detach())
        self._monitor.loop.watch(self._ours.fileno(), ev.IN, self._heard)
        self._client, theirs = socket.socketpair()
        self._client.sendall(encode({"op": "attach", "seq": 1, "stdin": True, "stdout": True, "stderr": True}))
        self._monitor.add_control(theirs.detach())

    def play(self) -> None:
        """From hello to the exit, with an exec, a client and a log."""
        log = {"directory": self._log, "max_bytes": 65536, "max_files": 2}
        self._say("hello")
        self._say("resize", rows=24, cols=80)
        self._say("create", tty=False, open_stdin=True, stdin_once=True, log=log, **_CHILD)
        self._monitor.serve()
        self._ours.close()
        self._client.close()
        self._monitor.close()
        for number in segment_numbers(self._log):
            os.unlink(f"{self._log}/{segment_name(number)}")
        os.rmdir(self._log)

    def _say(self, op: str, **members: Any) -> None:
        self._ours.sendall(encode({"op": op, "seq": 1, **members}))

    def _heard(self, _events: int) -> None:
        self._decoder.feed(self._ours.recv(65536))
        while (message := self._decoder.take()) is not None:
            self._reply(message.get("event"))

    def _reply(self, event: str | None) -> None:
        if event == "ready":
            self._say("start")
        elif event == "started":
            self._say("exec_create", exec_id="exec", tty=False, open_stdin=False, **_CHILD)
            self._say("exec_start", exec_id="exec")
        elif event == "exec_exit":
            self._say("state")
            self._client.sendall(b"input\n")
            self._client.shutdown(socket.SHUT_WR)
        elif event == "exit":
            self._monitor.loop.unwatch(self._ours.fileno())


def rehearse(directory: str, directory_fd: int, others: Sequence[Callable[[], None]] = ()) -> None:
    """As many lives as it takes until nothing changes any more; *others* are played as often.

    What a child module offers as *others* does what its ``create`` does in the monitor, with a child that ends at once.
    """
    for _ in range(TIMES):
        Rehearsal(directory, directory_fd).play()
        for other in others:
            other()
