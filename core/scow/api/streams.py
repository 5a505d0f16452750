"""Answers that come in pieces: waits, logs, events, statistics and the progress of long operations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from scow.api.call import HEADERS
from scow.api.times import ZERO, rfc3339
from scow.errors import ScowError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

    from scow.engine.live import WaitResult
    from scow.engine.model import Container

log = logging.getLogger(__name__)

Json = dict[str, Any]
SAMPLE_S = 1.0
_NO_CPU = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_encode = msgspec.json.encode


async def open_stream(request: web.BaseRequest, content_type: str) -> web.StreamResponse:
    """A chunked response whose head the client has already."""
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": content_type})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


async def send_later(request: web.BaseRequest, result: asyncio.Future[WaitResult]) -> web.StreamResponse:
    """The head now, Docker's ContainerWaitResponse when *result* is there."""
    response = await open_stream(request, "application/json")
    body: Json
    try:
        code, message = await result
        body = {"StatusCode": code} | ({"Error": {"Message": message}} if message else {})
    except ScowError as error:
        body = {"StatusCode": 0, "Error": {"Message": error.message}}
    await response.write(_encode(body) + b"\n")
    await response.write_eof()
    return response


async def send_chunks(request: web.BaseRequest, content_type: str, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
    """Each of *chunks* as soon as it is there. The iterator is closed at the end, also when the client goes away."""
    try:
        response = await open_stream(request, content_type)
        async for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
        return response
    finally:
        await _close(chunks)


async def send_objects(
    request: web.BaseRequest, content_type: str, objects: AsyncIterator[Json], prefix: bytes = b""
) -> web.StreamResponse:
    """Each of *objects* as a line of JSON (after *prefix*) as soon as it is there."""
    try:
        response = await open_stream(request, content_type)
        async for value in objects:
            await response.write(prefix + _encode(value) + b"\n")
        await response.write_eof()
        return response
    finally:
        await _close(objects)


async def _close(iterator: AsyncIterable[Any]) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


async def one_sample(sample: Callable[[], Awaitable[Json]], wait: bool) -> Json:
    """One sample; with *wait* a second later than one that it holds as ``precpu_stats``, so that a rate can be told."""
    first = await sample()
    if not wait:
        return first
    await asyncio.sleep(SAMPLE_S)
    return _after(await sample(), first)


async def samples(sample: Callable[[], Awaitable[Json]], until: tuple[type[Exception], ...]) -> AsyncIterator[Json]:
    """A sample each second, each with the one before as ``precpu_stats``, until *sample* raises one of *until*."""
    before: Json = {}
    with contextlib.suppress(*until):
        while True:
            value = await sample()
            yield _after(value, before)
            before = value
            await asyncio.sleep(SAMPLE_S)


def stats_json(container: Container, measured: Json) -> Json:
    """Docker's ContainerStatsResponse from what the engine *measured*; zeros for what does not run."""
    return {
        "id": container.id,
        "name": f"/{container.name}",
        "read": rfc3339(time.time_ns() if measured else 0),
        "preread": ZERO,
        "pids_stats": {},
        "blkio_stats": {},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": dict(_NO_CPU),
        "precpu_stats": dict(_NO_CPU),
        "memory_stats": {},
        **measured,
    }


def _after(value: Json, before: Json) -> Json:
    if not before:
        return value
    return {**value, "preread": before.get("read"), "precpu_stats": before.get("cpu_stats")}


class Progress:
    """Docker's JSON messages on their way to one client, from any thread.

    A client that reads slowly gets fewer messages, not more memory: of waiting progress bars of one layer only the
    newest is kept.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: dict[object, Json] = {}
        self._count = 0
        self._wake = asyncio.Event()
        self._told = False

    def __call__(self, message: Json) -> None:
        """Queues *message*."""
        with self._lock:
            self._count += 1
            key: object = self._count
            if message.get("progressDetail"):
                key = (message.get("id"), message.get("status"))
                self._waiting.pop(key, None)
            self._waiting[key] = message
            told, self._told = self._told, True
        if not told:
            self._loop.call_soon_threadsafe(self._wake.set)

    def take(self) -> bytes:
        """What waits, as lines of JSON."""
        with self._lock:
            messages, self._waiting, self._told = self._waiting, {}, False
            self._wake.clear()
        return b"".join(_encode(message) + b"\r\n" for message in messages.values())

    async def wait(self) -> None:
        """Returns when something waits."""
        await self._wake.wait()


async def send_progress(
    request: web.BaseRequest, work: Callable[[Progress], Awaitable[object]], content_type: str = "application/json"
) -> web.StreamResponse:
    """Runs *work* and sends its messages; cancels it when the client goes away.

    An error before the first message is raised (and becomes the response's status), one after it is sent as a message
    of its own, as Docker does.
    """
    progress = Progress()
    task = asyncio.ensure_future(_run(work, progress))
    try:
        await _first(task, progress)
        waiting = progress.take()
        if not waiting and task.done():
            task.result()
        response = await open_stream(request, content_type)
        while waiting or not task.done():
            if waiting:
                await response.write(waiting)
            await _first(task, progress)
            waiting = progress.take()
        await response.write(_failure(task))
        await response.write_eof()
        return response
    finally:
        task.cancel()


async def _run(work: Callable[[Progress], Awaitable[object]], progress: Progress) -> None:
    await work(progress)


async def _first(task: asyncio.Future[None], progress: Progress) -> None:
    """Returns when there is a message or *task* is done."""
    waiter = asyncio.ensure_future(progress.wait())
    try:
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()


def _failure(task: asyncio.Future[None]) -> bytes:
    error = task.exception()
    if error is None:
        return b""
    if not isinstance(error, ScowError):
        log.error("an operation failed after its answer began", exc_info=error)
        error = ScowError(f"internal error: {type(error).__name__}: {error}")
    text = f"{error.message}\n{error.hint}" if error.hint else error.message
    return _encode({"errorDetail": {"code": error.http_status, "message": text}, "error": text}) + b"\r\n"
