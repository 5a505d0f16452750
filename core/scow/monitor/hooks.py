"""A container's OCI hooks that run in the runtime's namespaces: ``prestart``, ``createRuntime``, ``poststart`` and
``poststop``.

Only a container whose plan has ``hooks`` has a `Hooks`: it stands between the process and the monitor as the process's
observer, and tells the monitor of each step when the hooks of that step have run. They run in a process of their own,
forked for them, so that one that hangs holds nobody up but its container. Contract: `scow.ports.runtime`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from scow.errors import ScowError
from scow.linux import oci_hooks, syscalls
from scow.monitor import loop as ev
from scow.monitor.process import Failure, Observer, Process

_POSTSTOP_GRACE_S = 10.0  # how long poststop hooks hold the news back that the container has ended
_REPORT_FD = 3


class Hooks:
    """The hooks of one container. Its *process* is not made yet; *monitor* is who wants to know how that gets on."""

    def __init__(self, loop: ev.Loop, process: Process, monitor: Observer, plan: dict[str, Any]) -> None:
        self._loop = loop
        self._process = process
        self._monitor = monitor
        self._hooks: dict[str, list[dict[str, Any]]] = plan["hooks"]
        self._state: dict[str, Any] = plan["state"]
        self._runner = 0
        self._creating = False
        self._said = b""
        self._ended: tuple[int, int] | None = None  # while hooks were running
        self._after_stop: Callable[[], None] | None = None
        self._stopping = False
        process.observer = self
        process.held = True
        process.on_pause = self._create_runtime

    # -- observer of the process

    def ready(self) -> None:
        """The container is set up."""
        self._monitor.ready()

    def started(self) -> None:
        """Its program runs; it counts as started when the ``poststart`` hooks have run."""
        if self._hooks.get("poststart"):
            self._run(("poststart",), self._poststarted)
        else:
            self._monitor.started()

    def failed(self, failure: Failure) -> None:
        """It will not run."""
        self._monitor.failed(failure)

    def ended(self, exit_code: int, signal_number: int) -> None:
        """It is reaped. What ``prestart`` and ``createRuntime`` are about is no more."""
        self._ended = exit_code, signal_number
        if not self._runner:
            self._monitor.ended(exit_code, signal_number)
        elif self._creating:
            os.kill(self._runner, signal.SIGKILL)

    # -- the four moments

    def _create_runtime(self) -> None:
        self._creating = True
        self._run(("prestart", "createRuntime"), self._created)

    def _created(self, problem: str) -> None:
        self._creating = False
        if problem:
            self._process.abandon({"message": problem, "kind": "setup"})
        else:
            self._process.go_on()

    def _poststarted(self, problem: str) -> None:
        if problem:
            self._process.kill(signal.SIGKILL)
            self._monitor.failed({"message": problem, "kind": "setup"})
        else:
            self._monitor.started()

    def stop(self, then: Callable[[], None]) -> None:
        """*then* is called when the ``poststop`` hooks have run, or have taken too long: those go on without us. Once;
        calls before that change nothing."""
        if self._stopping:
            if self._after_stop is None:
                then()
            return
        self._stopping, self._after_stop = True, then
        if self._hooks.get("poststop"):
            self._run(("poststop",), lambda _problem: self._stopped())
            self._loop.later(_POSTSTOP_GRACE_S, self._stopped)
        else:
            self._stopped()

    def _stopped(self) -> None:
        then, self._after_stop = self._after_stop, None
        if then:
            then()

    # -- their process

    def _run(self, kinds: tuple[str, ...], then: Callable[[str], None]) -> None:
        """*then* learns what went wrong, ``""`` where nothing did."""
        report, theirs = os.pipe()
        try:
            self._runner = os.fork()
        except OSError as error:
            os.close(report)
            os.close(theirs)
            then(f"cannot run {kinds[-1]} hooks: {error}")
            return
        if not self._runner:
            self._be_runner(kinds, theirs)
        os.close(theirs)
        self._said = b""
        self._loop.watch(report, ev.IN, lambda _events: self._heard(report, then))

    def _heard(self, report: int, then: Callable[[str], None]) -> None:
        data = os.read(report, 65536)
        if data:
            self._said += data
            return
        self._loop.unwatch(report)
        os.close(report)
        _pid, status = os.waitpid(self._runner, 0)
        self._runner = 0
        problem = self._said.decode("utf-8", "replace")
        if status and not problem:
            problem = f"the process that ran the hooks ended with {os.waitstatus_to_exitcode(status)}"
        ended = None if self._stopping else self._ended
        then(problem)
        if ended:
            self._monitor.ended(*ended)

    def _be_runner(self, kinds: tuple[str, ...], report: int) -> NoReturn:
        status = 1
        try:
            os.dup2(report, _REPORT_FD, inheritable=False)
            syscalls.close_range(_REPORT_FD + 1)
            os.setsid()
            for kind in kinds:
                hooks = self._hooks.get(kind, ())
                state = oci_hooks.state(self._state, kind, self._process.pid)
                if kind == "poststop":
                    for warning in oci_hooks.run_all(kind, hooks, state):
                        sys.stderr.write(f"container {state['id'][:12]}: {warning}\n")
                else:
                    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                    oci_hooks.run(kind, hooks, state)
            status = 0
        except (ScowError, OSError) as error:
            os.write(_REPORT_FD, str(error).encode())
        finally:
            sys.stderr.flush()
            os._exit(status)
