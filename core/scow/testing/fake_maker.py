"""An ``INDIRECT`` child module without namespaces or a runtime program: makers that fork twice (`scow.ports.runtime`).

The plan: ``args``; ``noise``: what the maker's "program" writes to standard output; ``fail``: the message with which it
fails then; ``strays``: how many more orphans it leaves; ``linger_s``: how long the maker stays after the start.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any, NamedTuple, NoReturn

Plan = dict[str, Any]
INDIRECT = True


class Spawned(NamedTuple):
    """See `scow.ports.runtime`."""

    pid: int
    start_fd: int
    status_fd: int


def create(plan: Plan, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """The maker of a process that waits for its start."""
    start_read, start_write = os.pipe()
    status_read, status_write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(start_write)
            _make(plan, stdio, start_read, status_write)
        finally:
            os._exit(70)
    os.close(start_read)
    os.close(status_write)
    return Spawned(pid, start_write, status_read)


def start_exec(plan: Plan, init_pid: int, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """As `create`; *init_pid* must exist."""
    os.kill(init_pid, 0)
    return create(plan, stdio, tty)


def _make(plan: Plan, stdio: tuple[int, int, int], start_fd: int, status_fd: int) -> NoReturn:
    os.write(stdio[1], plan.get("noise", "").encode())
    if plan.get("fail"):
        _say(status_fd, {"error": plan["fail"], "stage": "", "errno": 0, "kind": "not_found"})
        os._exit(1)
    go_read, go_write = os.pipe()
    pid = _orphan(lambda: _run(plan, stdio, go_read, (start_fd, status_fd, go_write)))
    for _ in range(plan.get("strays", 0)):
        _orphan(lambda: os._exit(3))
    os.close(go_read)
    _say(status_fd, {"ready": True, "pid": pid})
    if not os.read(start_fd, 1):
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    os.write(go_write, b"\n")
    time.sleep(plan.get("linger_s", 0))
    os._exit(0)


def _orphan(main: Any) -> int:
    """The pid of a grandchild that runs *main* and has lost its parent when this returns."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        grandchild = os.fork()
        if not grandchild:
            os.close(read)
            os.close(write)
            main()
        os.write(write, str(grandchild).encode())
        os._exit(0)
    os.waitpid(child, 0)
    pid = int(os.read(read, 32))
    os.close(read)
    os.close(write)
    return pid


def _run(plan: Plan, stdio: tuple[int, int, int], go_fd: int, others: tuple[int, ...]) -> NoReturn:
    try:
        for fd in others:
            os.close(fd)
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the monitor blocks all
        if os.read(go_fd, 1):
            os.execve(plan["args"][0], plan["args"], {"PATH": os.defpath})
    finally:
        os._exit(70)


def _say(status_fd: int, report: dict[str, Any]) -> None:
    os.write(status_fd, json.dumps(report).encode() + b"\n")
