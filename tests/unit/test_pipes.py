"""Pipes between the loop and threads: bounded, and nobody waits for who is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, BinaryIO

import pytest

from scow.engine import pipes
from scow.engine.pipes import Outflow, read_on_thread
from scow.errors import Corrupt, Unavailable

PIECE = bytes(1 << 20)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))
    for thread in [thread for thread in threading.enumerate() if thread.name == "test-pipe"]:
        thread.join(5)
        assert not thread.is_alive()


async def source(count: int, sent: list[int] | None = None) -> AsyncIterator[bytes]:
    for number in range(count):
        if sent is not None:
            sent.append(number)
        yield PIECE


def read_all(stream: BinaryIO) -> int:
    return sum(len(data) for data in iter(lambda: stream.read(300_000), b""))


def test_everything_arrives() -> None:
    async def test() -> None:
        assert await read_on_thread(source(20), read_all, "test-pipe") == 20 << 20

    run(test)


def test_a_slow_reader_holds_the_sender_back() -> None:
    sent: list[int] = []
    at_first = []

    def slow(stream: BinaryIO) -> int:
        time.sleep(0.2)
        at_first.append(len(sent))
        return read_all(stream)

    async def test() -> None:
        assert await read_on_thread(source(40, sent), slow, "test-pipe") == 40 << 20
        assert at_first[0] <= pipes.LIMIT_BYTES // len(PIECE) + 2

    run(test)


def test_a_reader_that_fails_ends_the_transfer_at_once() -> None:
    sent: list[int] = []

    def fails(stream: BinaryIO) -> int:
        stream.read(10)
        raise Corrupt("bad bytes")

    async def test() -> None:
        with pytest.raises(Corrupt, match="bad bytes"):
            await read_on_thread(source(1000, sent), fails, "test-pipe")
        assert len(sent) < 20

    run(test)


def test_a_sender_that_fails_ends_the_reader() -> None:
    ended: list[Exception] = []

    def reads(stream: BinaryIO) -> int:
        try:
            return read_all(stream)
        except Unavailable as error:
            ended.append(error)
            raise

    async def broken() -> AsyncIterator[bytes]:
        yield PIECE
        raise ConnectionResetError("gone")

    async def test() -> None:
        with pytest.raises(ConnectionResetError):
            await read_on_thread(broken(), reads, "test-pipe")
        assert "ConnectionResetError: gone" in str(ended[0])

    run(test)


def test_cancelling_waits_for_the_reader() -> None:
    ended: list[str] = []

    def reads(stream: BinaryIO) -> int:
        try:
            return read_all(stream)
        except Unavailable:
            time.sleep(0.1)
            ended.append("reader")
            raise

    async def stalled() -> AsyncIterator[bytes]:
        yield PIECE
        await asyncio.sleep(60)

    async def test() -> None:
        task = asyncio.create_task(read_on_thread(stalled(), reads, "test-pipe"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert ended == ["reader"]

    run(test)


def told(closed: list[bool]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def closing() -> None:
        closed.append(True)

    return closing


def chunks(count: int, made: list[int]) -> Iterator[bytes]:
    try:
        for number in range(count):
            made.append(number)
            yield PIECE
    finally:
        made.append(-1)


def test_what_is_iterated_arrives_and_is_closed() -> None:
    made: list[int] = []
    closed: list[bool] = []

    async def test() -> None:
        flow = await Outflow(lambda: chunks(20, made), "test-pipe", told(closed)).begun()
        assert sum([len(piece) async for piece in flow]) == 20 << 20
        assert not closed
        await flow.aclose()
        await flow.aclose()
        assert closed == [True]
        assert made[-1] == -1

    run(test)


def test_small_pieces_are_handed_over_together() -> None:
    async def test() -> None:
        flow = await Outflow(lambda: iter([b"x"] * 100_000), "test-pipe", pipes.nothing).begun()
        assert [len(piece) async for piece in flow] == [100_000]
        await flow.aclose()

    run(test)


def test_a_slow_client_holds_the_iterator_back_and_may_go_away() -> None:
    made: list[int] = []

    async def test() -> None:
        flow = await Outflow(lambda: chunks(1000, made), "test-pipe", pipes.nothing).begun()
        await asyncio.sleep(0.2)
        assert len(made) <= pipes.LIMIT_BYTES // len(PIECE) + 3
        await flow.aclose()
        assert made[-1] == -1

    run(test)


def test_a_failure_before_the_first_bytes_is_raised_at_once_and_one_after_it_in_its_place() -> None:
    closed: list[bool] = []

    def fails(after: int) -> Iterator[bytes]:
        for _ in range(after):
            yield PIECE
        raise Corrupt("bad")

    async def test() -> None:
        with pytest.raises(Corrupt):
            await Outflow(lambda: fails(0), "test-pipe", told(closed)).begun()
        assert closed == [True]
        flow = await Outflow(lambda: fails(3), "test-pipe", pipes.nothing).begun()
        seen = 0
        with pytest.raises(Corrupt):
            async for piece in flow:
                seen += len(piece)
        assert seen == 3 << 20
        await flow.aclose()

    run(test)
