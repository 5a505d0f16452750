"""A container's log as a stream of bytes for a client: read by worker threads, woken by the kernel while following."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from scow.linux.inotify import IN_CREATE, IN_MODIFY, IN_ONLYDIR, Inotify

if TYPE_CHECKING:
    from scow.ports.log import LogReader

BLOCK_BYTES = 512 << 10
_HALF_LINE_S = 1.05  # a reader gives a line without newline when it is a second old: one more look then


async def stream(
    reader: LogReader,
    directory: Path,
    follow: bool,
    ended: asyncio.Event | asyncio.Future[object],
    until_ns: int = 0,
) -> AsyncGenerator[bytes, None]:
    """What *reader* gives; when *follow*, until *ended* and everything was given (or its query is over).

    Closes *reader*. *directory* is the log's folder, made when it is absent and followed. *until_ns* is that of the
    reader's query: following ends then even when nothing is written any more.
    """
    try:
        if follow:
            async with aclosing(_followed(reader, directory, ended, until_ns)) as blocks:
                async for block in blocks:
                    yield block
        reader.finish()
        while block := await _read(reader):
            yield block
    finally:
        reader.close()


async def _followed(
    reader: LogReader, directory: Path, ended: asyncio.Event | asyncio.Future[object], until_ns: int
) -> AsyncGenerator[bytes, None]:
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    end = asyncio.ensure_future(_wait(ended))
    changes = _Watcher.of_this_loop().subscribe(directory)
    fresh = True
    try:
        while not end.done() and not reader.done():
            changes.clear()
            if block := await _read(reader):
                fresh = True
                yield block
                continue
            change = asyncio.ensure_future(changes.wait())
            try:
                limits = [_HALF_LINE_S] if fresh else []
                if until_ns:
                    limits.append(max(0.0, (until_ns - time.time_ns()) / 1e9) + 0.001)
                timeout = min(limits, default=None)
                await asyncio.wait((change, end), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()
            fresh = changes.is_set()
    finally:
        end.cancel()
        _Watcher.of_this_loop().unsubscribe(directory, changes)


async def _read(reader: LogReader) -> bytes:
    """The next block, by a worker. Also when cancelled it returns only after the worker left the reader alone."""
    reading = asyncio.get_running_loop().run_in_executor(None, reader.read, BLOCK_BYTES)
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait((reading,))
        raise


async def _wait(ended: asyncio.Event | asyncio.Future[object]) -> None:
    if isinstance(ended, asyncio.Event):
        await ended.wait()
    else:
        await asyncio.wait((ended,))


class _Watcher:
    """The inotify instance of one event loop, there while somebody follows."""

    _by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watcher] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._events: dict[int, set[asyncio.Event]] = {}
        self._watches: dict[Path, int] = {}

    @classmethod
    def of_this_loop(cls) -> _Watcher:
        """The one of the running loop."""
        return cls._by_loop.setdefault(asyncio.get_running_loop(), cls())

    def subscribe(self, directory: Path) -> asyncio.Event:
        """An event that is set at each change in *directory*."""
        if self._inotify is None:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._readable)
        watch = self._inotify.watch(directory, IN_MODIFY | IN_CREATE | IN_ONLYDIR)
        event = asyncio.Event()
        self._watches[directory] = watch
        self._events.setdefault(watch, set()).add(event)
        return event

    def unsubscribe(self, directory: Path, event: asyncio.Event) -> None:
        """*event* is set no more; the kernel is asked about nothing that nobody wants to know."""
        watch = self._watches.get(directory, -1)
        events = self._events.get(watch, set())
        events.discard(event)
        if not events and self._inotify is not None:
            self._watches.pop(directory, None)
            self._events.pop(watch, None)
            self._inotify.unwatch(watch)
            if not self._events:
                asyncio.get_running_loop().remove_reader(self._inotify.fd)
                self._inotify.close()
                self._inotify = None

    def _readable(self) -> None:
        if self._inotify is None:
            return
        told = self._inotify.read()
        for watch, events in self._events.items():
            if watch in told or -1 in told:
                for event in events:
                    event.set()
