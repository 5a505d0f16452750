"""Further processes in a container: each with streams of its own, children of the monitor."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGKILL
from typing import Any

from scow.errors import ScowError
from scow.monitor import loop as ev
from scow.monitor.process import Failure, Process
from scow.monitor.requests import is_indirect
from scow.monitor.streams import Stdio

KEPT = 128  # how many ended execs are remembered; a health check makes one every few seconds
NOT_STARTED_CODE = {"not_found": 127, "cannot_run": 126}


class Exec:
    """One exec: its process is made by ``exec_create`` and sets itself up, its program is run by ``exec_start``; it is
    known until it is one of too many that ended."""

    def __init__(
        self,
        loop: ev.Loop,
        exec_id: str,
        request: dict[str, Any],
        scowd_lives: Callable[[], bool],
        child: Any,
        init_pid: int,
    ) -> None:
        self.exec_id = exec_id
        self.request = request
        self._child, self._init_pid = child, init_pid
        self.stdio = Stdio(loop, once=True, scowd_lives=scowd_lives)
        self.process = Process(loop, self.stdio, self)
        self.begun = False
        self.failure: Failure | None = None
        self._answer: Callable[[Failure | None], None] | None = None  # of exec_start
        self.on_ended: Callable[[Exec], None] | None = None

    def prepare(self) -> None:
        """Its process sets itself up, but for an indirect one, whose program may run at once (`scow.ports.runtime`);
        `start` tells what the child module raised."""
        if not is_indirect(self._child):
            self._spawn()

    def start(self, answer: Callable[[Failure | None], None]) -> None:
        """Its program runs as soon as it is set up; *answer* is told."""
        self.begun = True
        self._answer = answer
        if is_indirect(self._child):
            self._spawn()
        if self.failure:
            self._tell(self.failure)
        if self.process.state == "ended":
            self._retire()
        else:
            self.process.begin()

    def _spawn(self) -> None:
        request, child = self.request, self._child
        plan, tty = request["plan"], bool(request.get("tty"))
        try:
            self.process.spawn(
                lambda ends: child.start_exec(plan, self._init_pid, ends, tty),
                tty,
                bool(request.get("open_stdin")),
                is_indirect(child),
            )
        except (OSError, ScowError) as error:
            self.failure = {"message": str(error), "kind": "setup", "errno": getattr(error, "errno", None) or 0}

    def drop(self) -> None:
        """It is not wanted: its process ends, its clients' sockets are closed."""
        self.process.kill(SIGKILL)
        self.stdio.finish()

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
        """Its output went to its clients; the end is told, when it was begun."""
        if self.begun:
            self._retire()

    def state(self) -> dict[str, Any]:
        """What ``exec_state`` answers."""
        process = self.process
        ended = process.state == "ended"
        code = process.exit_code
        if self.failure:
            code = NOT_STARTED_CODE.get(self.failure["kind"], code)
        return {
            "running": self.begun and process.state in ("created", "ready", "running"),
            "pid": process.pid,
            "tty": bool(self.request.get("tty")),
            "start_ticks": process.start_ticks,
            "exit_code": code if ended else None,
            "signal": process.signal,
            "failed": self.failure is not None,
        }

    def _retire(self) -> None:
        self.stdio.finish()
        if self.on_ended:
            self.on_ended(self)

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
        live = {id: exec.state() for id, exec in self._live.items() if exec.begun}
        return {**self._ended, **live}

    def retire(self, exec: Exec) -> None:
        """*exec* ended: only its state is kept."""
        self._live.pop(exec.exec_id, None)
        self._ended[exec.exec_id] = exec.state()
        while len(self._ended) > KEPT:
            del self._ended[next(iter(self._ended))]

    def running(self) -> list[Exec]:
        """Those whose process is there."""
        return [exec for exec in self._live.values() if exec.begun and exec.process.alive]

    def drop_unstarted(self) -> None:
        """Execs that were never started are gone."""
        for exec in list(self._live.values()):
            if not exec.begun:
                exec.drop()
                del self._live[exec.exec_id]
