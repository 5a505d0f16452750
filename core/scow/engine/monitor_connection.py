"""scowd's side of a monitor: its control connection, in asyncio. The protocol: `scow.monitor.protocol`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.engine.attach_stream import AttachStream
from scow.errors import (
    CannotRun,
    CommandNotFound,
    Conflict,
    InvalidArgument,
    NotFound,
    ScowError,
    Unavailable,
    Unsupported,
)
from scow.monitor.protocol import Decoder, Message, ProtocolError, encode, socket_name

if TYPE_CHECKING:
    from scow.ports.log import LogLimits

log = logging.getLogger(__name__)

OnExit = Callable[[dict[str, Any]], None]
OnExecExit = Callable[[str, int], None]

_DESTROY_GRACE_S = 10.0
_KINDS: dict[str, type[ScowError]] = {
    "not_found": CommandNotFound,
    "cannot_run": CannotRun,
    "conflict": Conflict,
    "not_running": Conflict,
    "no_such": NotFound,
    "invalid": InvalidArgument,
    "unsupported": Unsupported,
}


class ProcessId(NamedTuple):
    """A process: its pid, and its start time in clock ticks since boot."""

    pid: int
    start_ticks: int


class MonitorConnection(asyncio.Protocol):
    """A control connection to one container's monitor, whose process is *pid* with *start_ticks*.

    Made by `scow.engine.zygote.Zygote.spawn` or `connect`. Operations raise what the monitor refused with
    (`CommandNotFound`, `CannotRun`, `Conflict`, `NotFound` …) and `Unavailable` when it is gone.

    `on_exit` is called once on the loop when a started container ended, with its exit record; where the monitor was
    lost that says 137 and the reason ``monitor lost``. `on_exec_exit` is called with exec id and exit code. What
    happened before they are set is told when they are.
    """

    def __init__(self, run_root: Path, container_id: str) -> None:
        loop = asyncio.get_running_loop()
        self.container_id = container_id
        self.pid = 0
        self.start_ticks = 0
        self.directory = Path()
        self.module = ""
        self.ready_at = 0.0  # time.perf_counter when the container was set up
        self.exit: dict[str, Any] | None = None
        self.closed: asyncio.Future[None] = loop.create_future()
        self._on_exit: OnExit | None = None
        self._on_exec_exit: OnExecExit | None = None
        self._untold: list[tuple[str, int]] = []
        self._started = False
        self._closing = False
        self._run_root = run_root
        self._ready: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._seq = 0
        self._pending: dict[int, asyncio.Future[Message]] = {}

    @classmethod
    async def connect(cls, run_root: Path, container_id: str) -> MonitorConnection:
        """A connection to the monitor that an earlier scowd left. Raises `OSError` where none listens."""
        connection = await cls.over(connect_socket(run_root, container_id), run_root, container_id)
        try:
            hello = await connection.request("hello")
            if hello["id"] != container_id:
                raise ConnectionRefusedError(f"the monitor that listens is container {hello['id'][:12]}'s")
        except Unavailable as error:
            raise ConnectionResetError(error.message) from error
        except BaseException:
            connection.close()
            raise
        connection.pid, connection.start_ticks = hello["monitor_pid"], hello["monitor_ticks"]
        connection._started = hello["started"]
        if hello["status"] in ("ready", "running", "ending", "exited"):
            connection._ready.set_result(None)
        return connection

    @classmethod
    async def over(cls, sock: socket.socket, run_root: Path, container_id: str) -> MonitorConnection:
        """A connection over the stream *sock*, which it owns."""
        sock.setblocking(False)
        _transport, connection = await asyncio.get_running_loop().create_unix_connection(
            lambda: cls(run_root, container_id), sock=sock
        )
        return connection

    @property
    def on_exit(self) -> OnExit | None:
        """See the class."""
        return self._on_exit

    @on_exit.setter
    def on_exit(self, callback: OnExit | None) -> None:
        self._on_exit = callback
        if callback and self.exit:
            asyncio.get_running_loop().call_soon(callback, self.exit)

    @property
    def on_exec_exit(self) -> OnExecExit | None:
        """See the class."""
        return self._on_exec_exit

    @on_exec_exit.setter
    def on_exec_exit(self, callback: OnExecExit | None) -> None:
        self._on_exec_exit = callback
        if callback:
            for exec_id, code in self._untold:
                asyncio.get_running_loop().call_soon(callback, exec_id, code)
            self._untold = []

    # -- operations

    async def create(
        self,
        plan: Mapping[str, Any],
        *,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        log_directory: Path,
        limits: LogLimits,
        size: tuple[int, int] = (0, 0),
    ) -> ProcessId:
        """The container's init exists and sets itself up (`ready` waits for that). *size*: rows and columns of a tty.

        An exit record of an earlier run is removed.
        """
        ok = await self.request(
            "create",
            module=self.module,
            plan=plan,
            tty=tty,
            open_stdin=open_stdin,
            stdin_once=stdin_once,
            log={"directory": str(log_directory), "max_bytes": limits.max_bytes, "max_files": limits.max_files},
            exit_record=str(self.directory / "exit.json"),
            size=size,
        )
        return ProcessId(ok["pid"], ok["start_ticks"])

    async def ready(self) -> None:
        """The container is set up and can be started. Raises what its set-up failed with."""
        await asyncio.shield(self._ready)

    async def start(self) -> ProcessId:
        """The container's program runs, in the process that is answered (not always that of `create`); waits for the
        set-up. Raises `CommandNotFound`, `CannotRun` or what the set-up failed with."""
        try:
            ok = await self.request("start")
        except Unavailable:
            await self.ready()  # it may have said why before it went
            raise
        return ProcessId(ok["pid"], ok["start_ticks"])

    async def destroy(self) -> None:
        """The container is not wanted: one that was not started never will be, one that was is killed. The monitor has
        ended when this returns; `on_exit` is not called."""
        self._on_exit = self._on_exec_exit = None
        try:
            try:
                await self.request("cancel")
            except Conflict:
                await self.signal(signal.SIGKILL)
            await asyncio.wait([self.closed], timeout=_DESTROY_GRACE_S)
        except ScowError as error:  # it is ending by itself
            log.debug("monitor of %s: %s", self.container_id[:12], error)
            await asyncio.wait([self.closed], timeout=_DESTROY_GRACE_S)
        finally:
            self.close()

    async def exec_create(
        self,
        exec_id: str,
        plan: Mapping[str, Any],
        *,
        tty: bool,
        open_stdin: bool,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        """The exec can be attached to and started."""
        await self.request(
            "exec_create", exec_id=exec_id, module=self.module, plan=plan, tty=tty, open_stdin=open_stdin, size=size
        )

    async def exec_start(self, exec_id: str) -> int:
        """The exec's program runs: its pid. Raises as `start`; `on_exec_exit` follows in both cases."""
        ok = await self.request("exec_start", exec_id=exec_id)
        return int(ok["pid"])

    async def exec_state(self, exec_id: str) -> Message:
        """``running``, ``pid``, ``start_ticks``, ``exit_code`` (None until it ended), ``signal``, ``failed``."""
        return await self.request("exec_state", exec_id=exec_id)

    async def resize(self, rows: int, cols: int, exec_id: str = "") -> None:
        """The terminal has that size; before ``create`` or ``exec_start``: will have it."""
        await self.request("resize", rows=rows, cols=cols, exec_id=exec_id)

    async def signal(self, signum: int, exec_id: str = "") -> None:
        """The container's init (or the exec) got the signal. Raises `Conflict` where it does not run."""
        await self.request("signal", signal=signum, exec_id=exec_id)

    async def state(self) -> Message:
        """``status`` (new, created, ready, running, failed, ending, exited), ``started``, ``pid``, ``start_ticks``,
        ``tty``, ``exit`` (the record), ``failure``, ``execs`` (states by id, of those that were started),
        ``monitor_pid``, ``monitor_ticks``, ``log_bytes_lost``."""
        return await self.request("state")

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool, exec_id: str = "") -> AttachStream:
        """A stream of what the process writes from now on; valid before ``create`` and ``exec_start``."""
        loop = asyncio.get_running_loop()
        try:
            sock = connect_socket(self._run_root, self.container_id)
        except OSError as error:
            raise Unavailable(f"the monitor of container {self.container_id[:12]} is gone") from error
        try:
            sock.setblocking(False)
            request = {"op": "attach", "seq": 1, "stdin": stdin, "stdout": stdout, "stderr": stderr}
            await loop.sock_sendall(sock, encode({**request, "exec_id": exec_id}))
            ok, early = await _first_answer(sock)
            stream = AttachStream(bool(ok["tty"]))
            await loop.create_unix_connection(lambda: stream, sock=sock)
        except OSError as error:  # reset: it ended with the request unread
            sock.close()
            raise Unavailable(f"the monitor of container {self.container_id[:12]} is gone") from error
        except BaseException:
            sock.close()
            raise
        if early:
            stream.data_received(early)
        return stream

    def close(self) -> None:
        """The connection is closed; the monitor goes on."""
        self._closing = True
        if self._transport:
            self._transport.close()

    async def request(self, op: str, **members: Any) -> Message:
        """The ``ok`` of one operation. Raises as the class says."""
        if self.closed.done() or self._transport is None:
            raise Unavailable(f"the monitor of container {self.container_id[:12]} is gone")
        self._seq += 1
        seq = self._seq
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[seq] = future
        self._transport.write(encode({"op": op, "seq": seq, **members}))
        try:
            return await future
        finally:
            self._pending.pop(seq, None)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Requests can be made."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers and events."""
        self._decoder.feed(data)
        try:
            while (message := self._decoder.take()) is not None:
                self._received(message)
        except ProtocolError:
            if self._transport:
                self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """The monitor ended, or the connection was closed."""
        gone = Unavailable(f"the monitor of container {self.container_id[:12]} is gone")
        waiting: list[asyncio.Future[Any]] = [*self._pending.values(), self._ready]
        for future in waiting:
            if not future.done():
                future.set_exception(gone)
                future.exception()  # nobody may be waiting
        if not self.closed.done():
            self.closed.set_result(None)
        if self._started and not self.exit and not self._closing:
            forget_socket(self._run_root, self.container_id)  # it was killed
            self._exited(
                {
                    "exit_code": 137,
                    "signal": int(signal.SIGKILL),
                    "oom_killed": False,
                    "finished_ns": time.time_ns(),
                    "reason": "monitor lost",
                }
            )

    def _received(self, message: Message) -> None:
        if "event" in message:
            self._event(message)
            return
        future = self._pending.get(message.get("seq", 0))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(error_of(message["error"]))
        else:
            future.set_result(message["ok"])

    def _event(self, message: Message) -> None:
        name = message.pop("event")
        if name == "ready" and not self._ready.done():
            self.ready_at = time.perf_counter()
            self._ready.set_result(None)
        elif name == "failed" and not self._ready.done():
            self._ready.set_exception(error_of(message["error"]))
            self._ready.exception()  # nobody may be waiting
        elif name == "started":
            self._started = True
        elif name == "exit":
            self._exited(message)
        elif name == "exec_exit":
            ended = message["exec_id"], int(message["exit_code"])
            if self._on_exec_exit:
                self._on_exec_exit(*ended)
            else:
                self._untold.append(ended)

    def _exited(self, record: dict[str, Any]) -> None:
        self.exit = record
        if self._on_exit:
            self._on_exit(record)


def error_of(error: Mapping[str, Any]) -> ScowError:
    """The exception for a refusal of the monitor."""
    return _KINDS.get(str(error.get("kind")), ScowError)(str(error.get("message")))


def forget_socket(run_root: Path, container_id: str) -> None:
    """The address of a monitor that is gone is free."""
    (run_root / "m" / socket_name(container_id)).unlink(missing_ok=True)


def connect_socket(run_root: Path, container_id: str) -> socket.socket:
    """A stream to the container's monitor. Raises `OSError` where none listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        directory = os.open(run_root / "m", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{socket_name(container_id)}")
        finally:
            os.close(directory)
    except BaseException:
        sock.close()
        raise
    return sock


async def _first_answer(sock: socket.socket) -> tuple[Message, bytes]:
    """The ``ok`` of an attach, and the output that came right behind it."""
    loop = asyncio.get_running_loop()
    decoder = Decoder()
    while True:
        data = await loop.sock_recv(sock, 65536)
        if not data:
            raise Unavailable("the monitor ended")
        decoder.feed(data)
        while (message := decoder.take()) is not None:  # events may come before the answer, in one piece with it
            if "error" in message:
                raise error_of(message["error"])
            if "ok" in message:
                return message["ok"], decoder.rest()
