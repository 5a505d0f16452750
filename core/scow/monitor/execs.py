"""Further processes in a container: each with streams of its own, children of the monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scow.monitor import loop as ev
from scow.monitor.process import Failure, Process
from scow.monitor.requests import is_indirect
from scow.monitor.streams import Stdio

KEPT = 128  # how many ended execs are remembered; a health check makes one every few seconds
NOT_STARTED_CODE = {"not_found": 127, "cannot_run": 126}


class Exec:
    """One exec: made by ``exec_create``, run by ``exec_start``, known until it is one of too many that ended."""

    def __init__(self, loop: ev.Loop, exec_id: str, request: dict[str, Any], scowd_lives: Callable[[], bool]) -> None:
        self.exec_id = exec_id
        self.request = request
        self.stdio = Stdio(loop, once=True, scowd_lives=scowd_lives)
        self.process = Process(loop, self.stdio, self)
        self.failure: Failure | None = None
        self._answer: Callable[[Failure | None], None] | None = None  # of exec_start
        self.on_ended: Callable[[Exec], None] | None = None

    def start(self, child: Any, init_pid: int, answer: Callable[[Failure | None], None]) -> None:
        """Its process is made and runs its program as soon as it is set up; *answer* is told then. Raises what the
        child module raises, after its end."""
        plan, tty, request = self.request["plan"], bool(self.request.get("tty")), self.request
        try:
            self.process.spawn(
                lambda ends: child.start_exec(plan, init_pid, ends, tty),
                tty,
                bool(request.get("open_stdin")),
                is_indirect(child),
            )
        except BaseException as error:
            self.failure = {"message": str(error), "kind": "setup"}
            if self.on_ended:
                self.on_ended(self)
            raise
        self._answer = answer
        self.process.begin()

    def ready(self) -> None:
        """Nothing: it is begun without waiting for this."""

    def started(self) -> None:
        """``exec_start`` is answered."""
        self._tell(None)

    def failed(self, failure: Failure) -> None:
        """``exec_start`` is answered with the reason."""
        self.failure = failure
        self._tell(failure)

    def ended(self, exit_code: int, signal: int) -> None:
        """Its output went to its clients; the end is told."""
        self.stdio.finish()
        if self.on_ended:
            self.on_ended(self)

    def state(self) -> dict[str, Any]:
        """What ``exec_state`` answers."""
        process = self.process
        ended = process.state == "ended"
        code = process.exit_code
        if self.failure:
            code = NOT_STARTED_CODE.get(self.failure["kind"], code)
        return {
            "running": process.state in ("created", "ready", "running"),
            "pid": process.pid,
            "tty": bool(self.request.get("tty")),
            "start_ticks": process.start_ticks,
            "exit_code": code if ended else None,
            "signal": process.signal,
            "failed": self.failure is not None,
        }

    def _tell(self, failure: Failure | None) -> None:
        answer, self._answer = self._answer, None
        if answer:
            answer(failure)


class Execs:
    """The execs of one container by id."""

    def __init__(self) -> None:
        self._live: dict[str, Exec] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def add(self, exec: Exec) -> None:
        """*exec* is known."""
        self._live[exec.exec_id] = exec

    def get(self, exec_id: str) -> Exec | None:
        """The exec, if it has not ended."""
        return self._live.get(exec_id)

    def state(self, exec_id: str) -> dict[str, Any] | None:
        """The state of a live or a remembered exec."""
        exec = self._live.get(exec_id)
        return exec.state() if exec else self._ended.get(exec_id)

    def states(self) -> dict[str, dict[str, Any]]:
        """The states of all that were started and are known."""
        live = {id: exec.state() for id, exec in self._live.items() if exec.process.state != "new"}
        return {**self._ended, **live}

    def retire(self, exec: Exec) -> None:
        """*exec* ended: only its state is kept."""
        self._live.pop(exec.exec_id, None)
        self._ended[exec.exec_id] = exec.state()
        while len(self._ended) > KEPT:
            del self._ended[next(iter(self._ended))]

    def running(self) -> list[Exec]:
        """Those whose process is there."""
        return [exec for exec in self._live.values() if exec.process.alive]

    def drop_unstarted(self) -> None:
        """Execs that were never started are gone; their clients' sockets are closed."""
        for exec in list(self._live.values()):
            if exec.process.state == "new":
                exec.stdio.finish()
                del self._live[exec.exec_id]
