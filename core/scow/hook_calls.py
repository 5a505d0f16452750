"""Telling plugins what happened, without letting one of them hold up or break another."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

QUEUE = 1000  # events that wait for one plugin


def blame(error: BaseException, impls: Sequence[Any]) -> str:
    """The name of the plugin in whose hook *error* was raised, found by its traceback; ``""`` if in none."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return _owner(frames, impls)


def running(thread: int, impls: Sequence[Any]) -> str:
    """The name of the plugin in whose hook *thread* is at this moment; ``""`` if in none."""
    frames = (frame for frame, _ in traceback.walk_stack(sys._current_frames().get(thread)))
    return _owner(frames, impls)


def _owner(frames: Iterable[FrameType], impls: Sequence[Any]) -> str:
    names = {getattr(impl.function, "__code__", None): str(impl.plugin_name) for impl in impls}
    names.pop(None, None)
    return next((names[frame.f_code] for frame in frames if frame.f_code in names), "")


class Listeners:
    """The plugins that implement events. *hooks* is pluggy's manager, *owner_of* answers a plugin's distribution."""

    def __init__(self, manager: Any, owner_of: Callable[[str], str]) -> None:
        self._manager = manager
        self._owner_of = owner_of
        self._threads: dict[str, _Listener] = {}

    def tell_now(self, hook: str, facts: Mapping[str, object]) -> None:
        """Every implementation of *hook* has run in this thread; errors are logged."""
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            tell(impl, hook, facts, self._owner_of)

    def post(self, hook: str, facts: Mapping[str, object]) -> None:
        """Every implementation of *hook* will run, each plugin's on its own thread and in order; never waits."""
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            listener = self._threads.get(impl.plugin_name)
            if listener is None:
                listener = self._threads[impl.plugin_name] = _Listener(impl.plugin_name, self._owner_of)
            listener.put(impl, hook, facts)

    def close(self) -> None:
        """The threads end after what they were given; nobody waits for them."""
        for listener in self._threads.values():
            listener.close()


def tell(impl: Any, hook: str, facts: Mapping[str, object], owner_of: Callable[[str], str]) -> None:
    """*impl* has run; what it raises is logged with its plugin's name."""
    try:
        impl.function(*(facts[name] for name in impl.argnames))
    except Exception:
        log.exception("plugin %s (%s) failed in %s", impl.plugin_name, owner_of(impl.plugin_name), hook)


class _Listener:
    def __init__(self, name: str, owner_of: Callable[[str], str]) -> None:
        self._name = name
        self._owner_of = owner_of
        self._queue: queue.SimpleQueue[tuple[Any, str, Mapping[str, object]] | None] = queue.SimpleQueue()
        self._since_s = 0.0  # when the call that runs was begun; 0: none runs
        self._dropped = 0
        threading.Thread(target=self._serve, name=f"scow-listener-{name}", daemon=True).start()

    def put(self, impl: Any, hook: str, facts: Mapping[str, object]) -> None:
        if self._queue.qsize() < QUEUE:
            if self._dropped:
                log.warning("plugin %s (%s) listens again; it missed %d events", *self._who(), self._dropped)
                self._dropped = 0
            self._queue.put((impl, hook, facts))
            return
        self._dropped += 1
        if self._dropped == 1:
            hanging_s = time.monotonic() - self._since_s
            log.warning("plugin %s (%s) has been in %s for %.0f s and misses events", *self._who(), hook, hanging_s)

    def close(self) -> None:
        self._queue.put(None)

    def _who(self) -> tuple[str, str]:
        return self._name, self._owner_of(self._name)

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            self._since_s = time.monotonic()
            tell(*item, self._owner_of)
            self._since_s = 0.0
