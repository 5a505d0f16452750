"""A make-believe process for `scow.testing.fakes_engine`: a few commands as coroutines, and its clients' sessions.

``echo WORDS…``, ``cat`` (stdin to stdout until its end), ``sleep SECONDS``, ``exit CODE``, ``err WORDS…`` (to stderr),
``flood BYTES`` and ``size`` (prints ``rows columns``).
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from scow.errors import CommandNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STDOUT, STDERR = 1, 2
CHUNK_BYTES = 256 << 10
QUEUE_CHUNKS = 8


def framed(stream: int, data: bytes) -> bytes:
    """*data* behind Docker's 8-byte header."""
    return struct.pack(">BxxxI", stream, len(data)) + data


class FakeSession:
    """One client of a `FakeProcess`; a client that does not read holds the process back."""

    def __init__(self, tty: bool, stdin: bool, detach_keys: bytes = b"") -> None:
        self.tty = tty
        self.aborted = False
        self.stdin_closed = False
        self.process: FakeProcess | None = None
        self._stdin = stdin
        self._detach_keys = detach_keys
        self._output: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_CHUNKS)
        self._attached = asyncio.Event()

    def connect(self, process: FakeProcess) -> None:
        """The session is of *process* now."""
        self.process = process
        process.sessions.append(self)
        self._attached.set()
        if self.stdin_closed:
            process.close_stdin()

    async def offer(self, stream: int, data: bytes) -> None:
        """Queues output for the client."""
        if not self.aborted:
            await self._output.put(data if self.tty else framed(stream, data))

    async def end(self) -> None:
        """`read` ends after what is queued."""
        if not self.aborted:
            await self._output.put(b"")

    async def read(self) -> bytes:
        """See `scow.engine.sessions.Session`."""
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        """See `scow.engine.sessions.Session`."""
        await self._attached.wait()
        if self.tty and self._detach_keys and self._detach_keys in data:
            await self.end()
            self._stdin = False
            return
        if self._stdin and self.process is not None:
            await self.process.stdin.put(data)

    def close_stdin(self) -> None:
        """See `scow.engine.sessions.Session`."""
        self.stdin_closed = True
        if self._stdin and self.process is not None:
            self.process.close_stdin()

    def abort(self) -> None:
        """See `scow.engine.sessions.Session`."""
        self.aborted = True
        self._attached.set()
        while not self._output.empty():
            self._output.get_nowait()


class FakeProcess:
    """Runs *command*; *ended* is told the exit code. Output goes to every session and to *log*."""

    def __init__(self, command: Sequence[str], ended: Callable[[int], None]) -> None:
        self.command = list(command)
        self.sessions: list[FakeSession] = []
        self.log: list[tuple[int, bytes]] = []
        self.size = (0, 0)
        self.stdin: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_CHUNKS)
        self._eof = asyncio.Event()
        self._ended = ended
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The command runs; raises `CommandNotFound` for one that the fake does not know."""
        if not hasattr(self, f"_do_{self.command[0]}"):
            raise CommandNotFound(f'exec: "{self.command[0]}": executable file not found in $PATH')
        self._task = asyncio.get_running_loop().create_task(self._run())

    def kill(self, signal: int = 9) -> None:
        """The process ends with exit code 128 + *signal*."""
        assert self._task is not None
        self._task.cancel(str(signal))

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._task is not None and self._task.done()

    def close_stdin(self) -> None:
        """The process reads an end of file after what it was sent."""
        self._eof.set()

    async def _run(self) -> None:
        try:
            code = await getattr(self, f"_do_{self.command[0]}")(*self.command[1:])
        except asyncio.CancelledError as error:
            code = 128 + int(error.args[0] if error.args else 9)
        for session in self.sessions:
            await session.end()
        self._ended(int(code or 0))

    async def _write(self, stream: int, data: bytes) -> None:
        self.log.append((stream, data))
        for session in self.sessions:
            await session.offer(stream, data)

    async def _read(self) -> bytes:
        getting = asyncio.ensure_future(self.stdin.get())
        eof = asyncio.ensure_future(self._eof.wait())
        try:
            await asyncio.wait((getting, eof), return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result() or b""
            return b"" if self.stdin.empty() else self.stdin.get_nowait() or b""
        finally:
            getting.cancel()
            eof.cancel()

    async def _do_echo(self, *words: str) -> None:
        await self._write(STDOUT, " ".join(words).encode() + b"\n")

    async def _do_err(self, *words: str) -> None:
        await self._write(STDERR, " ".join(words).encode() + b"\n")

    async def _do_cat(self) -> None:
        while data := await self._read():
            await self._write(STDOUT, data)

    async def _do_sleep(self, seconds: str) -> None:
        await asyncio.sleep(float(seconds))

    async def _do_exit(self, code: str) -> int:
        return int(code)

    async def _do_size(self) -> None:
        await asyncio.sleep(0.2)
        await self._write(STDOUT, f"{self.size[0]} {self.size[1]}\n".encode())

    async def _do_flood(self, count: str) -> None:
        left, chunk = int(count), bytes(CHUNK_BYTES)
        while left > 0:
            part = chunk[:left] if left < CHUNK_BYTES else chunk
            left -= len(part)
            for session in self.sessions:
                await session.offer(STDOUT, part)
