"""Bytes between the event loop and a thread that may block, bounded in both directions.

Each pipe has a thread of its own: a client that stalls must not occupy one of the few that everybody shares.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from scow.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_BYTES = 4 << 20  # that wait between the two sides
_PIECE_BYTES = 512 << 10  # what is handed to the loop at once


def on_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """What *work* answers or raises, from a new daemon thread called *name*."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001  (handed to who waits)
            error = raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError as closed:  # the loop is gone: nobody waits for any answer
            log.debug("thread %s ends: %s", name, closed)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def read_on_thread(stream: AsyncIterator[bytes], work: Callable[[BinaryIO], T], name: str) -> T:
    """What *work* makes of *stream*, which it reads as a raw stream on a thread called *name*.

    The thread has ended when this returns or raises. Where *stream* raises, or the caller is cancelled, its next read
    raises `Unavailable`.
    """
    inflow = _Inflow()
    working = on_thread(lambda: inflow.serve(work), name)
    try:
        async for data in stream:
            if not await inflow.put(data):
                break  # nobody reads on: *work* is done, or failed
        inflow.end(None)
        return await asyncio.shield(working)
    except BaseException as error:
        if not working.done():
            inflow.end(error)
            await asyncio.wait([working])
            working.exception()  # it failed because of *error*, which is the news
        raise


class _Inflow:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._room: asyncio.Event | None = None  # what the loop waits for while there is none
        self._ended = self._left = False
        self._error: BaseException | None = None
        self._rest = memoryview(b"")

    # On the loop

    async def put(self, data: bytes) -> bool:
        """*data* comes next; returns when there is room for more. False where nobody reads any more."""
        with self._changed:
            self._pieces.append(data)
            self._held += len(data)
            self._changed.notify()
            room = self._room = asyncio.Event() if self._held > LIMIT_BYTES and not self._left else None
        if room is not None:
            await room.wait()
        return not self._left

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; the reader gets *error*."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    # On the thread

    def serve(self, work: Callable[[BinaryIO], T]) -> T:
        try:
            return work(cast("BinaryIO", self))
        finally:
            with self._changed:
                self._left = True
                self._pieces.clear()
                self._wake()

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes as soon as there are any; ``b""`` at the end."""
        if not self._rest:
            self._rest = memoryview(self._next())
        count = len(self._rest) if size < 0 else size
        data = bytes(self._rest[:count])
        self._rest = self._rest[count:]
        return data

    def close(self) -> None:
        """Nothing to do."""

    def _next(self) -> bytes:
        with self._changed:
            while not self._pieces and not self._ended:
                self._changed.wait()
            if self._error is not None:
                why = f"{type(self._error).__name__}: {self._error}".rstrip(": ")
                raise Unavailable(f"the client ended the transfer: {why}") from self._error
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            self._held -= len(piece)
            if self._held <= LIMIT_BYTES // 2:
                self._wake()
            return piece

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            self._loop.call_soon_threadsafe(room.set)


class Outflow:
    """The bytes of *chunks*, which is called and iterated on a thread called *name*; an async iterator.

    Must be closed (`aclose`): then the thread has ended, its iterator is closed, too, and *closing* is awaited.
    """

    def __init__(
        self, chunks: Callable[[], Iterator[bytes]], name: str, closing: Callable[[], Awaitable[None]]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks, self._closing = chunks, closing
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._stopped = False
        self._news = asyncio.Event()
        self._working = on_thread(self._run, name)
        self._working.add_done_callback(lambda _: self._news.set())

    async def begun(self) -> Outflow:
        """Itself, when the first bytes are there. What goes wrong before is raised, and closes it."""
        try:
            while not self._pieces and not self._working.done():
                await self._news.wait()
                self._news.clear()
            if self._working.done():
                self._working.result()
        except BaseException:
            await self.aclose()
            raise
        return self

    def __aiter__(self) -> Outflow:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes. Raises what the iterator raised, after what came before."""
        while True:
            self._news.clear()
            with self._changed:
                if self._pieces:
                    piece = self._pieces.popleft()
                    self._held -= len(piece)
                    self._changed.notify()
                    return piece
            if self._working.done():
                self._working.result()
                raise StopAsyncIteration
            await self._news.wait()

    async def aclose(self) -> None:
        """Nothing is iterated any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.wait([self._working])
        if not self._working.cancelled():
            self._working.exception()  # `__anext__` has told it, or nobody wants to know
        closing, self._closing = self._closing, nothing
        await closing()

    def _run(self) -> None:
        chunks = self._chunks()
        try:
            gathered: list[bytes] = []
            size = 0
            for chunk in chunks:
                gathered.append(chunk)
                size += len(chunk)
                if size >= _PIECE_BYTES:
                    if not self._offer(b"".join(gathered)):
                        return
                    gathered, size = [], 0
            if size:
                self._offer(b"".join(gathered))
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def _offer(self, piece: bytes) -> bool:
        with self._changed:
            while self._held > LIMIT_BYTES and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._pieces.append(piece)
            self._held += len(piece)
        self._loop.call_soon_threadsafe(self._news.set)
        return True


async def nothing() -> None:
    """For an `Outflow` whose end is nobody's business."""
