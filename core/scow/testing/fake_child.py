"""A runtime's child module without namespaces: fork and exec. It lets the monitor be tested without root.

The plan: ``args``; optional ``env`` (list of ``NAME=value``), ``cwd``, ``own_console``; ``fail``: a message,
reported in place of ``ready``; ``say``: written to the status pipe before it; ``raise``: what `create` raises;
``setup_s``: how long the set-up takes; ``helper``: the program is run by a process that the first one leaves behind;
``oom``: what `oom_killed` answers. With ``hooks`` of the runtime's namespaces it waits for them before it is ready.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import termios
import time
from typing import Any, NamedTuple

from scow.errors import Unavailable
from scow.linux.siblings import Birth, clone_sibling

Plan = dict[str, Any]


class Spawned(NamedTuple):
    """See `scow.ports.runtime`."""

    pid: int
    start_fd: int
    status_fd: int
    birth: Birth | None = None


def create(plan: Plan, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """A forked process that waits for its start byte."""
    if plan.get("raise"):
        raise Unavailable(plan["raise"])
    start_read, start_write = os.pipe()
    status_read, status_write = os.pipe()
    birth = Birth() if plan.get("helper") else None
    pid = os.fork()
    if not pid:
        try:
            os.close(start_write)  # or its own copy would keep the pipe from ending
            _child(plan, stdio, tty, start_read, status_write, birth)
        finally:
            os._exit(70)
    os.close(start_read)
    os.close(status_write)
    if birth is not None:
        birth.keep_from_children()
    return Spawned(pid, start_write, status_read, birth)


def start_exec(plan: Plan, init_pid: int, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """As `create`; *init_pid* must exist."""
    os.kill(init_pid, 0)
    return create(plan, stdio, tty)


def oom_killed(plan: Plan) -> bool:
    """What the plan says."""
    return bool(plan.get("oom"))


def _child(
    plan: Plan, stdio: tuple[int, int, int], tty: bool, start_fd: int, status_fd: int, birth: Birth | None
) -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the monitor blocks all
    if tty and not plan.get("own_console"):
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)
    if plan.get("setup_s"):
        time.sleep(plan["setup_s"])
    if any(plan.get("hooks", {}).get(kind) for kind in ("prestart", "createRuntime")):
        _report(status_fd, {"hooks": "createRuntime"})
        if not os.read(start_fd, 1):
            os._exit(1)
    if plan.get("fail"):
        _report(status_fd, {"error": plan["fail"], "stage": "root", "errno": 1, "kind": "setup"})
        os._exit(1)
    if plan.get("say"):
        os.write(status_fd, plan["say"].encode())
    _report(status_fd, {"ready": True, **_console(plan)})
    if not os.read(start_fd, 1):
        os._exit(1)
    if birth is not None:
        birth.keep_from_children()
        if clone_sibling(birth, 0):
            os._exit(0)
    environment = dict(item.split("=", 1) for item in plan.get("env", ["PATH=/usr/bin:/bin"]))
    try:
        os.chdir(plan.get("cwd", "/"))
        os.execve(plan["args"][0], plan["args"], environment)
    except OSError as error:
        kind = "not_found" if isinstance(error, FileNotFoundError) else "cannot_run"
        message = f"exec: {plan['args'][0]}: {os.strerror(error.errno or 0).lower()}"
        _report(status_fd, {"error": message, "stage": "exec", "errno": error.errno, "kind": kind})
        os._exit(127)


def _console(plan: Plan) -> dict[str, int]:
    """A terminal that the process makes itself, as a runtime does in the container's devpts."""
    if not plan.get("own_console"):
        return {}
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
    return {"console_fd": master}


def _report(status_fd: int, report: dict[str, Any]) -> None:
    os.write(status_fd, json.dumps(report).encode() + b"\n")
