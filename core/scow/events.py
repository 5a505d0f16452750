"""What happened: stored, streamed to clients, told to plugins; in one order for all.

An event is numbered and handed to the writer in one step, so numbers, the store and every stream have the same order.
A client is fed from a bounded queue. One that is slow loses its queue, never an event: it reads on from the store
until it has caught up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from scow.engine.model import Event
from scow.event_filters import EventFilter
from scow.state import AppendEvent, State, StoredEvent

QUEUE = 1024  # events that wait for one client before it is sent to the store
PAGE = 512  # events read from the store at once


class Events:
    """The event stream of one engine. *tell* is given each event after it was stored (`PluginHost.post`)."""

    def __init__(self, state: State, tell: Callable[..., None] | None = None) -> None:
        self._state = state
        self._tell = tell
        self._waiting: dict[int, Event] = {}  # numbered, not yet published; in their order
        self._published = state.last_event
        self._subscriptions: set[Subscription] = set()

    async def emit(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """The event is stored (not synced), and on its way to whoever listens. Raises `Unavailable` if not stored."""
        await asyncio.shield(self.post(type, action, actor_id, attributes))  # cancelling does not take it back

    def post(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> asyncio.Future[None]:
        """As `emit`, without waiting for the store: the place in the order is taken when this returns."""
        event = Event(type=type, action=action, actor_id=actor_id, attributes=dict(attributes), time_ns=time.time_ns())
        seq = self._state.next_event()
        stored = self._state.submit(AppendEvent(event, seq), durable=False)
        self._waiting[seq] = event
        stored.add_done_callback(partial(self._stored, seq))
        return stored

    def subscribe(
        self, since_ns: int | None, until_ns: int | None, filters: Mapping[str, Sequence[str]]
    ) -> Subscription:
        """Stored events from *since_ns* on, then live ones, up to *until_ns* (inclusive); those that pass *filters*.

        Nothing that is emitted after this call is missed. As in Docker, the history is told only where *since_ns* or
        *until_ns* is given. Raises `InvalidArgument` for an unknown filter. Close the subscription after use
        (``async with``).
        """
        replay = since_ns is not None or until_ns is not None
        subscription = Subscription(
            self._state,
            EventFilter(filters),
            since_ns or 0,
            until_ns,
            after=0 if replay else self._published,
            leave=self._subscriptions.discard,
        )
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """Every stream ends after what it was given."""
        for subscription in list(self._subscriptions):
            subscription.end()

    def _stored(self, seq: int, done: asyncio.Future[None]) -> None:
        if done.exception() is None:
            self._publish(seq)
        else:
            self._waiting.pop(seq, None)

    def _publish(self, upto: int) -> None:
        # the writer is first in, first out: whatever has a lower number is stored (or was refused), too
        for seq in [seq for seq in self._waiting if seq <= upto]:
            event = self._waiting.pop(seq)
            self._published = seq
            for subscription in self._subscriptions:
                subscription.offer(StoredEvent(seq, event))
            if self._tell is not None:
                self._tell("scow_event", **facts(event))


def facts(event: Event) -> dict[str, Any]:
    """The arguments of the hook ``scow_event``."""
    return {
        "type": event.type,
        "action": event.action,
        "actor_id": event.actor_id,
        "attributes": event.attributes,
        "time_ns": event.time_ns,
    }


class Subscription(AsyncIterator[Event]):
    """One client's stream. *after* is the number of the last event that it is not told."""

    def __init__(
        self,
        state: State,
        wanted: EventFilter,
        since_ns: int,
        until_ns: int | None,
        *,
        after: int,
        leave: Callable[[Subscription], None],
    ) -> None:
        self._state = state
        self._wanted = wanted
        self._since_ns = since_ns
        self._until_ns = until_ns
        self._position = after
        self._leave = leave
        self._live: deque[StoredEvent] = deque()
        self._page: deque[StoredEvent] = deque()
        self._behind = after == 0 and state.last_event > 0  # the store has what this stream has not
        self._ended = False
        self._news = asyncio.Event()

    def offer(self, stored: StoredEvent) -> None:
        """Called for each live event; never waits."""
        if self._behind:
            return
        if len(self._live) >= QUEUE:
            self._live.clear()
            self._behind = True
        else:
            self._live.append(stored)
        self._news.set()

    def end(self) -> None:
        """No further events are accepted; what is queued is still given."""
        self._ended = True
        self._leave(self)
        self._news.set()

    async def aclose(self) -> None:
        """The stream is over; idempotent."""
        self.end()
        self._live.clear()
        self._page.clear()
        self._behind = False

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while True:
            event = self._next_wanted()
            if event is not None:
                return event
            if self._behind:
                await self._read_page()
            elif self._live:
                self._page, self._live = self._live, deque()
            elif self._ended or not await self._wait():
                self.end()
                raise StopAsyncIteration

    def _next_wanted(self) -> Event | None:
        while self._page:
            seq, event = self._page.popleft()
            if seq <= self._position:
                continue  # came both from the store and live
            self._position = seq
            if event.time_ns < self._since_ns or (self._until_ns is not None and event.time_ns > self._until_ns):
                continue
            if self._wanted.matches(event):
                return event
        return None

    async def _read_page(self) -> None:
        self._behind = False  # from here on live events are queued: none falls between
        await self._state.commit(durable=False)  # what was emitted before is stored
        page = await self._state.events_after(self._position, self._since_ns, PAGE)
        if len(page) == PAGE:
            self._live.clear()
            self._behind = True
        self._page.extend(page)

    async def _wait(self) -> bool:
        """Whether there may be more: something came, or ``until`` is not over yet."""
        self._news.clear()
        if self._until_ns is None:
            await self._news.wait()
            return True
        left_s = (self._until_ns - time.time_ns()) / 1e9
        if left_s <= 0:
            return False
        try:
            await asyncio.wait_for(self._news.wait(), left_s)
        except TimeoutError:
            pass  # the next round finds that nothing is left
        return True
