"""Lives of monitors played through in the zygote before its heap is frozen.

CPython writes into a function's code and into its module's dictionary while it specialises them in the first calls
(PEP 659). Done here, once, those writes are shared by all monitors; done after the fork, each would pay for its own
copies of the pages (measured: 300 kB a monitor). What a life needs is also imported by then, if only on first use.
"""

from __future__ import annotations

import _socket
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from scow.monitor.protocol import (
    MAX_PACKET,
    Decoder,
    Message,
    encode,
    send_packet,
    socket_name,
)
from scow.monitor.segments import segment_name, segment_numbers

NAME = "rehearsal"
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


class Zygote(Protocol):
    """What is rehearsed: see `scow.monitor.zygote.Zygote`."""

    def live(self) -> None:
        """Everything that a child of the zygote does."""


class Client:
    """scowd's part, in a process of its own: asks the zygote on *sock* for a monitor and plays its container through,
    from hello to the exit, with an exec, an attached client and a log."""

    def __init__(self, sock: _socket.socket, directory: str) -> None:
        self._sock = sock
        self._directory = directory
        self._decoder = Decoder()
        self._control, self._theirs = _socket.socketpair()

    def play(self) -> None:
        """Returns when the monitor has ended."""
        send_packet(self._sock, {"op": "spawn", "seq": 1, "id": NAME}, self._theirs.fileno())
        self._theirs.close()
        self._sock.recv(MAX_PACKET)
        log = {"directory": f"{self._directory}/{NAME}", "max_bytes": 65536, "max_files": 2}
        self._say("hello")
        self._say("resize", rows=24, cols=80)
        self._say("create", tty=False, open_stdin=True, stdin_once=True, log=log, **_CHILD)
        self._say("start")
        self._until("started")
        attached = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        attached.connect(f"{self._directory}/{socket_name(NAME)}")
        attached.sendall(encode({"op": "attach", "seq": 1, "stdin": True, "stdout": True, "stderr": True}))
        self._say("exec_create", exec_id="exec", tty=False, open_stdin=False, **_CHILD)
        self._say("exec_start", exec_id="exec")
        self._until("exec_exit")
        self._say("state")
        attached.sendall(b"input\n")
        attached.shutdown(_socket.SHUT_WR)
        self._until("exit")

    def _say(self, op: str, **members: Any) -> None:
        self._control.sendall(encode({"op": op, "seq": 1, **members}))

    def _until(self, event: str) -> Message:
        while True:
            while (message := self._decoder.take()) is not None:
                if message.get("event") == event:
                    return message
            data = self._control.recv(65536)
            if not data:
                raise EOFError(f"the rehearsed monitor ended before its {event}")
            self._decoder.feed(data)


def rehearse(zygote: Callable[[Any, str], Zygote], run_root: str, others: Sequence[Callable[[], None]] = ()) -> None:
    """As many lives as it takes until nothing changes any more; *others* are played as often.

    What a child module offers as *others* does what its ``create`` does in the monitor, with a child that ends at once.
    """
    for _ in range(TIMES):
        _rehearse_once(zygote, run_root)
        for other in others:
            other()


def _rehearse_once(zygote: Callable[[Any, str], Zygote], run_root: str) -> None:
    directory = f"{run_root}/m"
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    rehearsed = zygote(theirs, run_root)
    pid = os.fork()
    if not pid:
        theirs.close()
        _play(Client(ours, directory))
    ours.close()
    rehearsed.live()
    theirs.detach()  # closed by the monitor, as a number
    _pid, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the client of a rehearsal ended with status {os.waitstatus_to_exitcode(status)}")
    log = f"{directory}/{NAME}"
    for number in segment_numbers(log):
        os.unlink(f"{log}/{segment_name(number)}")
    os.rmdir(log)


def _play(client: Client) -> NoReturn:
    """In the client's process."""
    status = 1
    try:
        client.play()
        status = 0
    except BaseException:  # noqa: BLE001  (the process must not go on as a second zygote)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
