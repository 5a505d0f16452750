"""A single-threaded stand-in for the monitor, for tests of runtimes: ``python -m scow.testing.runtime_worker MODULE``.

Reads one JSON request a line on stdin and answers each with one on stdout. It holds one container, as a monitor does:
``create`` {plan, tty} → {pid, status}; ``start`` → {status, pid}; ``exec`` {plan, tty} → {status, code, output}, run to
its end; ``wait`` → {code, output}; ``cancel`` (the start pipe is closed unwritten) → {}; ``oom`` {plan} → {killed}.
Of an indirect child module *pid* is what the process was named; the worker is the subreaper of what its maker orphans.
*status* is the JSON line of the status pipe, or null at its end. The plan's ``prestart`` and ``createRuntime`` hooks
run as in a monitor; those after the start do not.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import select
import sys
from typing import Any

from scow.errors import ScowError
from scow.linux import oci_hooks, syscalls

_TIMEOUT_S = 30
_CHUNK = 65536


class Child:
    """A process that a child module made, with one pipe or pseudoterminal for all of its output."""

    def __init__(self, spawn: Any, tty: bool, plan: Any = None) -> None:
        self._plan = plan or {}
        if tty:
            self.output, end = os.openpty()
            ends = (end, end, end)
        else:
            self.output, end = os.pipe()
            ends = (os.open("/dev/null", os.O_RDONLY), end, end)
        try:
            self.spawned = spawn(ends)
        finally:
            for fd in {*ends}:
                os.close(fd)
        self.pid = self.spawned.pid

    def status(self) -> Any:
        """The next line of the status pipe; None at its end."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.spawned.status_fd], [], [], _TIMEOUT_S)[0]:
                return {"error": "no status within 30 s", "kind": "timeout"}
            data = os.read(self.spawned.status_fd, _CHUNK)
            if not data:
                return None
            line += data
        status = json.loads(line.splitlines()[-1])
        if "hooks" in status:
            return self._run_hooks() or self.status()
        if "console_fd" in status:  # a terminal in the container's own devpts
            self._take(status.pop("console_fd"))
        self.pid = status.pop("pid", self.pid)
        return status

    def _take(self, fd: int) -> None:
        pidfd = os.pidfd_open(self.spawned.pid)
        os.close(self.output)
        self.output = syscalls.pidfd_getfd(pidfd, fd)
        os.close(pidfd)

    def _run_hooks(self) -> Any:
        """None when the process may go on, else why it was ended."""
        try:
            for kind in ("prestart", "createRuntime"):
                state = oci_hooks.state(self._plan["state"], kind, self.spawned.pid)
                oci_hooks.run(kind, self._plan["hooks"].get(kind, ()), state)
        except oci_hooks.HookFailed as error:
            self.cancel()
            return {"error": error.message, "stage": "", "errno": 0, "kind": "setup"}
        os.write(self.spawned.start_fd, b"\n")
        return None

    def start(self) -> Any:
        os.write(self.spawned.start_fd, b"\n")
        self.cancel()
        status = self.status()
        self._follow_born()
        return status

    def _follow_born(self) -> None:
        """The process that a helper left behind is this one now."""
        birth = getattr(self.spawned, "birth", None)
        if birth is not None:
            if birth.pid():
                os.waitpid(self.spawned.pid, 0)
                self.pid = birth.pid()
            birth.close()
            self.spawned = self.spawned._replace(birth=None)

    def cancel(self) -> None:
        os.close(self.spawned.start_fd)

    def finish(self) -> dict[str, Any]:
        """Its exit code (negative: the signal) and all that it wrote."""
        written = []
        pidfd = os.pidfd_open(self.pid)
        while True:
            ready = select.select([self.output, pidfd], [], [], _TIMEOUT_S)[0]
            if self.output in ready:
                data = self._read()
                if data:
                    written.append(data)
                    continue
            if pidfd in ready or not ready:
                break
            select.select([pidfd], [], [], _TIMEOUT_S)
        os.close(pidfd)
        os.close(self.spawned.status_fd)
        os.close(self.output)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return {"code": code, "output": b"".join(written).decode("utf-8", "replace")}

    def _read(self) -> bytes:
        try:
            return os.read(self.output, _CHUNK)
        except OSError:  # EIO: the last process closed the terminal
            return b""


def serve(module: Any) -> None:
    """Answers requests until stdin ends."""
    if getattr(module, "INDIRECT", False):
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    init: Child | None = None
    for line in sys.stdin:
        request = json.loads(line)
        op, plan, tty = request["op"], request.get("plan"), bool(request.get("tty"))
        answer: dict[str, Any] = {}
        if op == "create":
            try:
                init = Child(functools.partial(_call, module.create, plan, tty), tty, plan)
            except (ScowError, OSError) as error:
                answer = {"pid": 0, "status": {"error": str(error), "stage": "", "errno": 0, "kind": "setup"}}
                _say(answer)
                continue
            status = init.status()
            answer = {"pid": init.pid, "status": status}
        elif op == "oom":
            answer = {"killed": module.oom_killed(plan)}
        elif init is None:
            raise SystemExit(f"{op} before create")
        elif op == "start":
            answer = {"status": init.start(), "pid": init.pid}
        elif op == "cancel":
            init.cancel()
        elif op == "wait":
            answer = init.finish()
        elif op == "exec":
            answer = _exec(module, plan, init.pid, tty)
        _say(answer)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _call(create: Any, plan: Any, tty: bool, ends: tuple[int, int, int]) -> Any:
    return create(plan, ends, tty)


def _exec(module: Any, plan: Any, init_pid: int, tty: bool) -> dict[str, Any]:
    child = Child(lambda ends: module.start_exec(plan, init_pid, ends, tty), tty)
    status = child.status()
    if status == {"ready": True}:
        status = child.start()
    return {"status": status, **child.finish()}


if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]))
