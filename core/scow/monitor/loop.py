"""The monitor's event loop: epoll, one callback a descriptor, a few timers. Single-threaded; no ``selectors``, no
``asyncio``: every object a monitor touches is a page that it no longer shares with the zygote."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable

Callback = Callable[[int], None]

IN = select.EPOLLIN
OUT = select.EPOLLOUT
RDHUP = select.EPOLLRDHUP
HUP = select.EPOLLHUP
ERR = select.EPOLLERR


class Timer:
    """A callback that is due; `cancel` it or let it happen."""

    __slots__ = ("due", "callback")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """It will not happen."""
        self.callback = None


class Loop:
    """Calls back, with the epoll events, for each descriptor that is ready; level-triggered.

    A callback that raises is reported on standard error and its descriptor is no longer watched: one broken stream must
    not take the container's monitor along.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._gone: set[int] = set()  # unwatched during this round: events of the old file may still be in hand
        self._timers: list[Timer] = []
        self.running = True

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """*callback* is called with the events that *fd* has; HUP and ERR are always among them (epoll_ctl(2))."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        """The watched *fd* is watched for *events* from now on."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """*fd* calls back no more; no error where it was not watched. Before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._gone.add(fd)

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """*callback* is called in *seconds*, unless cancelled."""
        timer = Timer(time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def stop(self) -> None:
        """`run` returns after this round."""
        self.running = False

    def close(self) -> None:
        """The epoll instance is closed."""
        self._epoll.close()

    def run(self) -> None:
        """Serves until `stop`."""
        while self.running:
            ready = self._epoll.poll(self._timeout(), 32)
            self._gone.clear()
            for fd, events in ready:
                callback = self._callbacks.get(fd)
                if callback is not None and fd not in self._gone:
                    self._call(fd, callback, events)
            if self._timers:
                self._run_timers()

    def _call(self, fd: int, callback: Callback, events: int) -> None:
        try:
            callback(events)
        except Exception:  # noqa: BLE001  (see the class)
            sys.excepthook(*sys.exc_info())
            self.unwatch(fd)

    def _timeout(self) -> float:
        if not self._timers:
            return -1
        return max(0.0, min(timer.due for timer in self._timers) - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer.due <= now]
        if due:
            self._timers = [timer for timer in self._timers if timer.due > now]
        for timer in due:
            if timer.callback is not None:
                try:
                    timer.callback()
                except Exception:  # noqa: BLE001  (see the class)
                    sys.excepthook(*sys.exc_info())
