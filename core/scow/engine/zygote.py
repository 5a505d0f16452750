"""scowd's side of the zygote: starts it, asks it for monitors, starts another when it dies."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scow.engine import sealed
from scow.engine.monitor_connection import MonitorConnection, error_of
from scow.errors import ScowError, Unavailable
from scow.monitor.protocol import Message, receive_packet, send_packet

log = logging.getLogger(__name__)

_START_DEADLINE_S = 15.0
_END_DEADLINE_S = 5.0
_BOOT = "from scow.monitor.boot import main; main()"
_FLAGS = ("-s", "-S", "-P", "-X", "no_debug_ranges")  # no site, no cwd, smaller code objects


class Zygote:
    """The zygote of one scowd. *sealed* is whether it runs from a sealed copy of the interpreter, *unsealed_reason* why
    not; *modules* are the runtimes' child modules. It is replaced when it dies (at the next `spawn`)."""

    def __init__(self, run_root: Path, modules: Sequence[str]) -> None:
        self.run_root = run_root
        self.modules = tuple(modules)
        self.sealed = False
        self.unsealed_reason = ""
        self.pid = 0
        self.on_monitor_exit: Callable[[int, int], None] | None = None  # pid, exit code or minus the signal
        self.imported: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._seq = 0
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._hello: asyncio.Future[Message] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @classmethod
    async def start(cls, run_root: Path, modules: Sequence[str]) -> Zygote:
        """A running zygote that has imported *modules*. Raises `Unavailable`, quoting what it said."""
        zygote = cls(run_root, modules)
        await zygote._ensure()
        return zygote

    async def spawn(self, container_id: str, directory: Path, module: str, hint: str = "") -> MonitorConnection:
        """A monitor for the container of *directory*, connected and listening for further connections.

        *hint* tells what kind of container it is, to those who prepare for the next one (``userns`` or ``""``).
        *module* is its runtime's ``child_module``; for the first container of a runtime, whose module is none of
        `modules`, the zygote is replaced by one that has imported that too. A zygote that dies meanwhile is replaced
        once: a monitor that it may have forked already ends by itself, as nobody is connected to it.
        """
        if module not in self.modules:
            await self._extend(module)
        try:
            return await self._spawn(container_id, directory, module, hint)
        except Unavailable:
            if self._sock is not None or self._closed:
                raise
            return await self._spawn(container_id, directory, module, hint)

    async def _spawn(self, container_id: str, directory: Path, module: str, hint: str) -> MonitorConnection:
        await self._ensure()
        assert self._sock is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self._seq += 1
                future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
                self._pending[self._seq] = future
                request = {"op": "spawn", "seq": self._seq, "id": container_id, "hint": hint}
                send_packet(self._sock, request, theirs.fileno())
            connection = await MonitorConnection.over(ours, self.run_root, container_id)
        except OSError as error:
            ours.close()
            self._pending.pop(self._seq, None)
            if isinstance(error, BrokenPipeError | ConnectionError):
                self._lost()
            raise Unavailable(f"cannot reach the zygote: {error}") from error
        try:
            reply = await future
        except BaseException:
            connection.close()
            raise
        connection.pid, connection.start_ticks = reply["pid"], reply["start_ticks"]
        connection.directory, connection.module = directory, module
        return connection

    async def close(self) -> None:
        """The zygote has ended; monitors live on."""
        self._closed = True
        self._lost()
        await self._bury()

    async def _bury(self) -> None:
        """A zygote whose socket was lost has ended, by itself or by SIGKILL."""
        process, self._process = self._process, None
        if process:
            try:
                await asyncio.to_thread(process.wait, _END_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)

    # -- its process

    async def _extend(self, module: str) -> None:
        """The next zygote imports *module* too; monitors live on, and a start that waits is asked for again."""
        async with self._starting:
            if module not in self.modules:
                self.modules = (*self.modules, module)
                self._lost(expected=True)

    async def _ensure(self) -> None:
        if self._sock is not None:
            return
        async with self._starting:
            if self._sock is not None:
                return
            if self._closed:
                raise Unavailable("the engine is shutting down")
            await self._bury()
            await self._launch_sealed()
            if not self.sealed:
                log.warning("the zygote runs from %s: %s", sys.executable, self.unsealed_reason)

    async def _launch_sealed(self) -> None:
        """A new zygote is connected: from a sealed copy of the interpreter, with mounts of its own, where these can be
        had."""
        reason = ""
        try:
            copy = sealed.interpreter_copy()
        except OSError as error:
            self.unsealed_reason = f"no sealed copy of the interpreter: {error}"
            await self._launch(None, False)
            return
        try:
            for apart in (True, False):
                try:
                    await self._launch(copy, apart)
                except (Unavailable, OSError) as error:
                    reason = str(error)
                    log.debug(
                        "no zygote with a sealed interpreter and mounts %s: %s", "own" if apart else "shared", error
                    )
                else:
                    return
        finally:
            os.close(copy)
        self.unsealed_reason = f"the sealed copy of the interpreter does not run: {reason}"
        await self._launch(None, False)

    async def _launch(self, copy: int | None, apart: bool) -> None:
        """A new zygote is connected, run from *copy* or from the interpreter's file; *apart*: with mounts of its own
        until it has read its libraries."""
        (self.run_root / "m").mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                process = self._popen(theirs.fileno(), copy, apart)
            except OSError:
                ours.close()
                raise
        self._hello = loop.create_future()
        self._process, self._sock = process, ours
        loop.add_reader(ours.fileno(), self._readable)
        try:
            hello = await asyncio.wait_for(self._hello, _START_DEADLINE_S)
        except (TimeoutError, Unavailable) as error:
            self._lost()
            process.kill()
            await self._bury()
            said = self._last_words()
            raise Unavailable(f"the zygote did not start: {said or error}") from error
        self.pid, self.imported, self.sealed = hello["pid"], hello["modules"], copy is not None

    def _popen(self, sock_fd: int, copy: int | None, apart: bool) -> subprocess.Popen[bytes]:
        program = f"/proc/self/fd/{copy}" if copy is not None else os.path.realpath("/proc/self/exe")
        with ExitStack() as stack:
            errors = stack.enter_context(open(self.run_root / "monitor.log", "ab"))
            home = []
            if apart:
                for path in ("/proc/self/ns/mnt", "/"):
                    home.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                    stack.callback(os.close, home[-1])

            def start() -> subprocess.Popen[bytes]:
                words = [str(sock_fd), ",".join(map(str, home)), str(self.run_root), *self.modules]
                return subprocess.Popen(
                    ["scow-zygote", *_FLAGS, "-c", _BOOT, *words],
                    executable=program,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                    pass_fds=(sock_fd, *home) if copy is None else (sock_fd, copy, *home),
                )

            return sealed.with_own_mounts(start) if apart else start()

    def _environment(self) -> dict[str, str]:
        """Nothing of scowd's own environment; where its library and the packages lie."""
        folders: list[str] = []
        for name in ("scow", *self.modules):
            spec = importlib.util.find_spec(name.partition(".")[0])
            for location in (spec.submodule_search_locations or ()) if spec else ():
                folder = os.path.dirname(location)
                if folder not in folders:
                    folders.append(folder)
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_CTYPE": "C.UTF-8",
            "PYTHONHOME": sealed.python_home(),
            "PYTHONPATH": os.pathsep.join(folders),
        }

    def _last_words(self) -> str:
        try:
            with open(self.run_root / "monitor.log", "rb") as errors:
                lines = errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    # -- its socket

    def _readable(self) -> None:
        while self._sock is not None:
            try:
                message, _fd = receive_packet(self._sock)
            except BlockingIOError:
                return
            except OSError:
                message = None
            if message is None:
                self._lost()
                return
            self._received(message)

    def _received(self, message: Message) -> None:
        if message.get("event") == "monitor_exit":
            if self.on_monitor_exit:
                self.on_monitor_exit(message["pid"], message["status"])
        elif message.get("event") == "ready":
            if self._hello and not self._hello.done():
                self._hello.set_result(message)
        else:
            future = self._pending.pop(message.get("seq", 0), None)
            if future and not future.done():
                if "error" in message:
                    future.set_exception(error_of(message["error"]))
                else:
                    future.set_result(message["ok"])

    def _lost(self, *, expected: bool = False) -> None:
        """The zygote is gone, or is to go."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
        if self._process is not None and self._process.poll() is None and not (self._closed or expected):
            log.warning("the zygote %s closed its socket", self._process.pid)
        gone: ScowError = Unavailable("the zygote ended")
        waiting = [*self._pending.values(), *([self._hello] if self._hello else [])]
        self._pending.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(gone)
                future.exception()
