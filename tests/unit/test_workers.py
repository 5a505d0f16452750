from __future__ import annotations

import asyncio
import threading
import time
from typing import NoReturn

import pytest

from scow import workers
from scow.errors import NotFound, PluginError, Unavailable
from scow.workers import Pool


def pool(size: int = 2) -> Pool:
    return Pool("storage driver 'slow'", "scow-slow 1.0", size=size)


def test_a_call_answers_from_another_thread() -> None:
    async def run() -> None:
        names = pool()
        name = await names.call(lambda: threading.current_thread().name, deadline_s=5)
        assert name == "scow-storage driver 'slow'-1"
        assert await names.call(max, 3, 4, deadline_s=None) == 4
        names.close()

    asyncio.run(run())


def test_scow_errors_pass_and_others_name_the_plugin() -> None:
    def prepare() -> NoReturn:
        raise KeyError("x")

    def missing() -> NoReturn:
        raise NotFound("no such layer")

    def stop() -> NoReturn:
        raise SystemExit(3)

    def ended() -> NoReturn:
        raise StopIteration

    async def run() -> None:
        driver = pool()
        with pytest.raises(NotFound):
            await driver.call(missing, deadline_s=5)
        message = r"storage driver 'slow' \(scow-slow 1.0\) in prepare failed: KeyError: 'x'"
        with pytest.raises(PluginError, match=message) as caught:
            await driver.call(prepare, deadline_s=5)
        assert isinstance(caught.value.__cause__, KeyError)
        for fn in (stop, ended):
            with pytest.raises(PluginError):
                await driver.call(fn, deadline_s=5)
        assert await driver.call(lambda: 1, deadline_s=5) == 1
        driver.close()

    asyncio.run(run())


def test_threads_are_bounded_and_reused() -> None:
    seen: set[str] = set()

    def work() -> None:
        seen.add(threading.current_thread().name)
        time.sleep(0.002)

    async def run() -> None:
        driver = pool(size=3)
        await asyncio.gather(*(driver.call(work, deadline_s=10) for _ in range(30)))
        driver.close()

    asyncio.run(run())
    assert len(seen) == 3


def test_a_hanging_call_is_abandoned_and_further_ones_fail_fast() -> None:
    gate = threading.Event()

    def attach() -> str:
        gate.wait(10)
        return "endpoint"

    async def run() -> None:
        undone: list[str] = []
        driver = pool()
        with pytest.raises(Unavailable, match=r"'slow' \(scow-slow 1.0\) in attach did not answer within 0.02 s"):
            await driver.call(attach, deadline_s=0.02, undo=undone.append)
        began = time.perf_counter()
        with pytest.raises(Unavailable, match="in _detach is not called: attach has not returned"):
            await driver.call(_detach, deadline_s=10)
        assert time.perf_counter() - began < 0.01
        assert driver.broken is not None

        gate.set()
        while driver.broken or not undone:
            await asyncio.sleep(0.002)
        assert undone == ["endpoint"]
        assert await driver.call(lambda: 1, deadline_s=5) == 1
        driver.close()

    asyncio.run(run())


def _detach() -> None:
    """Never called where the breaker is open."""


def test_a_trial_call_closes_the_breaker_after_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(workers, "COOLDOWN_S", 0.0)

    async def run() -> None:
        driver = pool()
        with pytest.raises(Unavailable):
            await driver.call(gate.wait, 10, deadline_s=0.01)
        assert await driver.call(lambda: 2, deadline_s=5) == 2
        assert driver.broken is None
        gate.set()
        driver.close()

    asyncio.run(run())


def test_lost_threads_are_replaced_and_never_more_than_the_bound_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "COOLDOWN_S", 0.0)
    gate = threading.Event()

    async def run() -> None:
        driver = Pool("lost", "nobody", size=1)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await driver.call(gate.wait, 10, deadline_s=0.01)
        with pytest.raises(Unavailable, match="is not called"):
            await driver.call(gate.wait, 10, deadline_s=0.01)  # two threads a place are the most that may hang
        gate.set()
        while driver.broken:
            await asyncio.sleep(0.002)
        assert await driver.call(lambda: 1, deadline_s=5) == 1
        while sum("scow-lost" in thread.name for thread in threading.enumerate()) > 1:
            await asyncio.sleep(0.002)
        driver.close()

    asyncio.run(run())


def test_a_full_pool_is_not_a_broken_one() -> None:
    gate = threading.Event()

    async def run() -> None:
        driver = pool(size=1)
        first = asyncio.ensure_future(driver.call(gate.wait, 10, deadline_s=10))
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="all 1 threads were busy for 0.02 s"):
            await driver.call(lambda: 1, deadline_s=0.02)
        assert driver.broken is None
        gate.set()
        assert await first is True
        driver.close()

    asyncio.run(run())


def test_the_result_for_a_cancelled_caller_is_undone() -> None:
    gate = threading.Event()
    undone = threading.Event()

    async def run() -> None:
        driver = pool()
        task = asyncio.ensure_future(driver.call(gate.wait, 10, deadline_s=10, undo=lambda _: undone.set()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        while not undone.is_set():
            await asyncio.sleep(0.002)
        driver.close()

    asyncio.run(run())


def test_a_call_that_hangs_opens_the_breaker_though_its_caller_was_cancelled() -> None:
    gate = threading.Event()

    async def run() -> None:
        driver = pool()
        task = asyncio.ensure_future(driver.call(gate.wait, 10, deadline_s=0.03))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.05)
        assert driver.broken is not None
        gate.set()
        while driver.broken:
            await asyncio.sleep(0.002)
        driver.close()

    asyncio.run(run())


def test_calls_without_a_deadline_occupy_no_worker() -> None:
    gate = threading.Event()

    async def run() -> None:
        driver = pool(size=1)
        streams = [asyncio.ensure_future(driver.call(gate.wait, 10)) for _ in range(5)]
        assert await driver.call(lambda: "answer", deadline_s=5) == "answer"
        gate.set()
        assert await asyncio.gather(*streams) == [True] * 5
        driver.close()

    asyncio.run(run())


def test_a_closed_pool_refuses() -> None:
    async def run() -> None:
        driver = pool()
        driver.close()
        with pytest.raises(Unavailable, match="is closed"):
            await driver.call(lambda: 1, deadline_s=1)

    asyncio.run(run())
