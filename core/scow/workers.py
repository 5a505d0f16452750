"""Calls of blocking driver methods from the event loop: bounded, with a deadline, contained.

Each driver has a `Pool` of daemon threads. A call past its deadline is abandoned: its caller gets `Unavailable` at
once, the thread is written off and replaced, and the pool's breaker opens, so that further calls fail fast instead of
waiting behind a driver that hangs. The breaker closes when the lost calls have come back, or when a trial call after
`COOLDOWN_S` is answered. A result that comes too late is handed to the call's *undo*.

Not `concurrent.futures`: its threads are joined at exit (a hanging driver would keep scowd from ending), it cannot
write a thread off, and a call through `run_in_executor` costs about twice as much.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from scow.errors import PluginError, ScowError, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

COOLDOWN_S = 10.0


class _Job:
    """One call. It is *over* for its caller when the future is done; *started_s* is 0 until a thread took it."""

    __slots__ = ("args", "fn", "future", "lost", "started_s", "timer", "undo")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        future: asyncio.Future[Any],
        undo: Callable[[Any], object] | None,
    ) -> None:
        self.fn = fn
        self.args = args
        self.future = future
        self.undo = undo
        self.started_s = 0.0
        self.lost = False
        self.timer: asyncio.TimerHandle | None = None


class Pool:
    """The threads of one driver. All methods but the threads' own run on one event loop.

    *name* and *owner* are what an error calls it: ``storage driver 'overlay'``, ``scow-storage-overlay 0.1.0``.
    """

    def __init__(self, name: str, owner: str, size: int = 8) -> None:
        self.name = name
        self.owner = owner
        self.size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0  # serving this queue; written-off ones not counted
        self._pending = 0  # calls that wait or run, lost ones not counted
        self._lost: dict[_Job, str] = {}
        self._opened_s = 0.0  # when the breaker opened; 0: closed
        self._trial = False
        self._closed = False
        self._numbers = itertools.count(1)

    @property
    def broken(self) -> str | None:
        """Why calls fail fast at the moment, or None."""
        if not self._opened_s:
            return None
        hooks = ", ".join(sorted(set(self._lost.values()))) or "its last call"
        return f"{hooks} has not returned for {time.monotonic() - self._opened_s:.0f} s after its deadline"

    async def call(
        self,
        fn: Callable[..., T],
        *args: Any,
        deadline_s: float | None = None,
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """What ``fn(*args)`` answers, run on a thread of the pool.

        With *deadline_s* None the call may take for ever (a stream) and gets a thread of its own, outside the bound.
        Raises what *fn* raises where that is a `ScowError`, `PluginError` naming the plugin for anything else, and
        `Unavailable` past the deadline or while the breaker is open. If the caller is gone by then (deadline or
        cancelled), the result is given to *undo*, on a thread.
        """
        self._admit(fn)
        loop = asyncio.get_running_loop()
        job = _Job(fn, args, loop.create_future(), undo)
        if deadline_s is None:
            self._spawn(loop, job)
        else:
            if self._pending >= self._threads and self._threads < self.size:
                self._spawn(loop, None)
                self._threads += 1
            self._pending += 1
            # it goes on for a caller that is cancelled: the thread may hang all the same
            job.timer = loop.call_later(deadline_s, self._expire, job, deadline_s)
            self._jobs.put(job)
        try:
            return await job.future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if job.future.done() and not job.future.cancelled():
                job.future.exception()  # it came at the same moment, and is no news to anybody
            raise
        except ScowError:
            raise
        except Exception as exc:
            raise PluginError(f"{self._who(fn)} failed: {type(exc).__name__}: {exc}") from exc

    def close(self) -> None:
        """Idle threads end; running calls are left to themselves."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    # --- on the loop --------------------------------------------------

    def _who(self, fn: Callable[..., Any]) -> str:
        return f"{self.name} ({self.owner}) in {hook_name(fn)}"

    def _admit(self, fn: Callable[..., Any]) -> None:
        if self._closed:
            raise Unavailable(f"{self.name} ({self.owner}) is closed")
        if not self._opened_s:
            return
        if self._trial or time.monotonic() - self._opened_s < COOLDOWN_S or len(self._lost) >= 2 * self.size:
            raise Unavailable(
                f"{self._who(fn)} is not called: {self.broken}",
                hint="scow plugin ls shows it; restart scowd if it stays",
            )
        self._trial = True

    def _expire(self, job: _Job, deadline_s: float) -> None:
        self._trial = False
        if not job.started_s:
            message = f"{self._who(job.fn)}: all {self.size} threads were busy for {deadline_s:g} s"
            if not job.future.done():
                job.future.set_exception(Unavailable(message))
            return  # the thread that takes it will see that nobody waits
        job.lost = True
        self._lost[job] = hook_name(job.fn)
        self._pending -= 1
        self._threads -= 1
        self._opened_s = time.monotonic()
        message = f"{self._who(job.fn)} did not answer within {deadline_s:g} s"
        log.warning("%s; the call is abandoned and further ones fail fast", message)
        if not job.future.done():
            job.future.set_exception(Unavailable(message))

    def _finished(self, job: _Job, result: Any, error: BaseException | None) -> None:
        if job.lost:
            self._back(job)
        elif job.timer is not None:
            job.timer.cancel()
            self._pending -= 1
        if self._opened_s and not job.lost:
            self._trial = False
            if job.started_s > self._opened_s:
                self._opened_s = 0.0  # an error is an answer, too
        if job.future.done():
            if error is None and job.started_s and job.undo is not None:
                threading.Thread(
                    target=self._undo, args=(job, result), name=f"scow-{self.name}-undo", daemon=True
                ).start()
        elif error is None:
            job.future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            job.future.set_exception(error)
        else:  # a future refuses StopIteration; SystemExit would end the loop
            job.future.set_exception(RuntimeError(repr(error)))

    def _back(self, job: _Job) -> None:
        hook = self._lost.pop(job, "")
        lasted_s = time.monotonic() - job.started_s
        log.warning("%s (%s) in %s came back after %.1f s", self.name, self.owner, hook, lasted_s)
        if not self._lost:
            self._opened_s = 0.0
        if self._threads < self.size:
            self._threads += 1
        else:
            self._jobs.put(None)  # its place was taken: one thread ends

    def _spawn(self, loop: asyncio.AbstractEventLoop, only: _Job | None) -> None:
        name = f"scow-{self.name}-{next(self._numbers)}"
        try:
            threading.Thread(target=self._serve, args=(loop, only), name=name, daemon=True).start()
        except RuntimeError as exc:
            raise Unavailable(f"{self.name} ({self.owner}): {exc}", hint="see the limit of processes") from exc

    # --- on a thread --------------------------------------------------

    def _serve(self, loop: asyncio.AbstractEventLoop, only: _Job | None) -> None:
        try:
            if only is not None:
                self._run(loop, only)
                return
            while (job := self._jobs.get()) is not None:
                self._run(loop, job)
        except RuntimeError as exc:  # the loop is closed: nobody waits for any answer
            log.debug("%s: thread ends: %s", self.name, exc)

    def _run(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        result: Any = None
        error: BaseException | None = None
        if not job.future.done():
            job.started_s = time.monotonic()
            try:
                result = job.fn(*job.args)
            except BaseException as exc:  # noqa: BLE001  (SystemExit of a driver must not end the thread)
                error = exc
        loop.call_soon_threadsafe(self._finished, job, result, error)

    def _undo(self, job: _Job, result: Any) -> None:
        try:
            assert job.undo is not None
            job.undo(result)
        except Exception:
            log.exception("%s: the late result could not be undone", self._who(job.fn))


def hook_name(fn: Callable[..., Any]) -> str:
    """What a message calls *fn*."""
    return getattr(fn, "__name__", None) or type(fn).__name__
