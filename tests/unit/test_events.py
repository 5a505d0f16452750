from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scow import events as events_module
from scow.engine.model import Event
from scow.errors import InvalidArgument, Unavailable
from scow.event_filters import EventFilter
from scow.events import Events, Subscription
from scow.state import State


def with_events(
    tmp_path: Path, body: Callable[[Events, State], Awaitable[None]], tell: Callable[..., None] | None = None
) -> None:
    async def run() -> None:
        state = await State.open(tmp_path / "scow.db")
        try:
            await asyncio.wait_for(body(Events(state, tell), state), 20)
        finally:
            await state.close()

    asyncio.run(run())


async def take(subscription: Subscription, count: int) -> list[str]:
    return [(await anext(subscription)).action for _ in range(count)]


def test_what_is_emitted_after_subscribe_is_streamed_in_order(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        await events.emit("container", "before", "c", {})
        async with events.subscribe(None, None, {}) as stream:
            await asyncio.gather(*(events.emit("container", str(n), "c", {}) for n in range(100)))
            assert await take(stream, 100) == [str(n) for n in range(100)]

    with_events(tmp_path, body)


def test_history_comes_first_then_live_without_gap_or_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "PAGE", 7)

    async def body(events: Events, state: State) -> None:
        since = time.time_ns()
        for n in range(30):
            await events.emit("container", str(n), "c", {})

        async def more() -> None:
            for n in range(30, 130):
                await events.emit("container", str(n), "c", {})

        async with events.subscribe(since, None, {}) as stream:
            emitting = asyncio.ensure_future(more())
            assert await take(stream, 130) == [str(n) for n in range(130)]
            await emitting

    with_events(tmp_path, body)


def test_since_and_until_bound_the_history(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        for n in range(4):
            await events.emit("container", str(n), "c", {})
        stored = await state.events(None, None)
        stream = events.subscribe(stored[1].time_ns, stored[2].time_ns, {})
        assert [event async for event in stream] == stored[1:3]
        until_only = events.subscribe(None, stored[1].time_ns, {})
        assert [event.action async for event in until_only] == ["0", "1"]

    with_events(tmp_path, body)


def test_a_stream_ends_when_until_is_over(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        stream = events.subscribe(None, time.time_ns() + 30_000_000, {})
        await events.emit("container", "start", "c", {})
        assert [event.action async for event in stream] == ["start"]

    with_events(tmp_path, body)


def test_a_slow_client_loses_no_event_and_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "QUEUE", 10)
    monkeypatch.setattr(events_module, "PAGE", 16)

    async def body(events: Events, state: State) -> None:
        async with events.subscribe(None, None, {}) as slow:
            await events.emit("container", "first", "c", {})
            assert await take(slow, 1) == ["first"]
            for n in range(100):
                await events.emit("container", str(n), "c", {})
            assert len(slow._live) <= 10
            assert await take(slow, 100) == [str(n) for n in range(100)]
            await events.emit("container", "last", "c", {})
            assert await take(slow, 1) == ["last"]

    with_events(tmp_path, body)


def test_close_ends_every_stream_after_what_was_queued(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        stream = events.subscribe(None, None, {})
        waiting = asyncio.ensure_future(_all(stream))
        await asyncio.sleep(0)
        await events.emit("container", "die", "c", {})
        events.close()
        assert await waiting == ["die"]

    with_events(tmp_path, body)


async def _all(stream: Subscription) -> list[str]:
    return [event.action async for event in stream]


def test_plugins_are_told_once_and_after_the_event_was_stored(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    async def body(events: Events, state: State) -> None:
        await events.emit("image", "pull", "nginx", {"name": "nginx"})
        [(hook, facts)] = told
        assert hook == "scow_event"
        assert Event(**facts) == (await state.events(None, None))[0]

    with_events(tmp_path, body, lambda hook, **facts: told.append((hook, facts)))


def test_a_cancelled_emitter_does_not_take_the_event_back(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        async with events.subscribe(None, None, {}) as stream:
            task = asyncio.ensure_future(events.emit("container", "die", "c", {}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await events.emit("container", "destroy", "c", {})
            assert await take(stream, 2) == ["die", "destroy"]

    with_events(tmp_path, body)


def test_an_event_that_cannot_be_stored_is_not_streamed(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        await state.close()
        stream = events.subscribe(None, None, {})
        with pytest.raises(Unavailable):
            await events.emit("container", "die", "c", {})
        events.close()
        assert await _all(stream) == []

    with_events(tmp_path, body)


ID = "4f" * 32
EXEC = Event(
    type="container",
    action="exec_create: sh -c true",
    actor_id=ID,
    attributes={"name": "web-1", "image": "registry.example.com/nginx:1.27", "tier": "front", "empty": ""},
    time_ns=1,
)
PULL = Event(type="image", action="pull", actor_id="nginx:1.27", attributes={"name": "nginx"}, time_ns=1)
MOUNT = Event(type="volume", action="mount", actor_id="data", attributes={"driver": "local"}, time_ns=1)


@pytest.mark.parametrize(
    ("filters", "event", "wanted"),
    [
        ({}, EXEC, True),
        ({"type": []}, EXEC, True),
        ({"type": ["container"]}, EXEC, True),
        ({"type": ["image", "container"]}, EXEC, True),
        ({"type": ["contain"]}, EXEC, False),
        ({"event": ["exec_create"]}, EXEC, True),
        ({"event": ["exec_create: sh -c true"]}, EXEC, True),
        ({"event": ["exec_create: sh"]}, EXEC, False),
        ({"event": ["exec_start", "exec_create: sh"]}, EXEC, True),
        ({"event": ["exec_start"]}, EXEC, False),
        ({"event": ["pul"]}, PULL, False),
        ({"container": [ID[:6]]}, EXEC, True),
        ({"container": ["web"]}, EXEC, True),
        ({"container": ["eb-1"]}, EXEC, False),
        ({"container": ["other", "web-1"]}, EXEC, True),
        ({"container": ["web-1"], "type": ["image"]}, EXEC, False),
        ({"volume": ["data"]}, MOUNT, True),
        ({"network": ["data"]}, MOUNT, True),  # Docker compares every object filter with every actor
        ({"volume": ["web"], "container": ["web"]}, EXEC, True),
        ({"image": ["registry.example.com/nginx"]}, EXEC, True),
        ({"image": ["registry.example.com/nginx:1.27"]}, EXEC, True),
        ({"image": ["nginx"]}, EXEC, False),
        ({"image": ["nginx"]}, PULL, True),
        ({"image": ["nginx:1.27"]}, PULL, True),
        ({"image": ["ngin"]}, PULL, False),
        ({"label": ["tier"]}, EXEC, True),
        ({"label": ["tier=front"]}, EXEC, True),
        ({"label": ["tier=front", "empty="]}, EXEC, True),
        ({"label": ["tier=front", "other"]}, EXEC, False),
        ({"label": ["tier=back"]}, EXEC, False),
        ({"scope": ["local"]}, EXEC, True),
        ({"scope": ["swarm"]}, EXEC, False),
        ({"daemon": ["web"]}, EXEC, True),
    ],
)
def test_filters_follow_dockers_rules(filters: dict[str, list[str]], event: Event, wanted: bool) -> None:
    assert EventFilter(filters).matches(event) is wanted


def test_an_unknown_filter_is_refused_when_it_is_given(tmp_path: Path) -> None:
    async def body(events: Events, state: State) -> None:
        with pytest.raises(InvalidArgument, match="invalid filter 'colour'"):
            events.subscribe(None, None, {"colour": ["red"]})

    with_events(tmp_path, body)
