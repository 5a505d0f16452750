"""Runs the programs that an OCI bundle calls hooks (runtime-spec 1.2, config.md "POSIX-platform Hooks").

They run one after another, each with the container's state as JSON on its standard input, in a session of its own, with
nothing open but stdio, and die with the process that runs them. Used by the monitor, by a runtime's child between clone
and execve, and by the command ``scow-runtime``: single-threaded callers, standard library only.

A hook is ``{"path", "args", "env", "timeout"}``: an absolute path, the whole argv, ``NAME=value`` words, and seconds
(0: no limit). Nothing is taken from the caller's environment.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any, NoReturn

from scow.errors import ScowError
from scow.linux import signals
from scow.linux import syscalls as sys
from scow.plain_json import encode_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""In the order in which they run; the first two and the last two in the runtime's namespaces."""

STATUS = {
    "prestart": "creating",
    "createRuntime": "creating",
    "createContainer": "creating",
    "startContainer": "created",
    "poststart": "running",
    "poststop": "stopped",
}
"""What the state that a hook reads says of the container (runtime.md, "State")."""

_TAIL_BYTES = 2048  # of what a hook wrote, for the error
_CHUNK = 65536
_DRAINED_CHUNKS = 16
_TICK_S = 0.02  # where a seccomp filter refuses pidfd_open
_NOT_EXECUTED = 127


class HookFailed(ScowError):
    """A hook could not be executed, ended with another status than 0, or ran past its timeout."""


def state(base: Mapping[str, Any], kind: str, pid: int) -> dict[str, Any]:
    """The state for hooks of *kind*: *base* (``ociVersion``, ``id``, ``bundle``, ``annotations``) with ``status`` and
    the ``pid`` of the container's process, which a stopped one does not have."""
    made = {**base, "status": STATUS[kind]}
    if kind != "poststop":
        made["pid"] = pid
    return made


def run(kind: str, hooks: Iterable[Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    """Each of *hooks* ran and ended with 0. Raises `HookFailed` for the first that did not; none is run after it."""
    data = encode_json(state)
    for number, hook in enumerate(hooks):
        problem = _run_one(hook, data)
        if problem:
            raise HookFailed(f"error running {kind} hook #{number} ({hook['path']}): {problem}")


def run_all(kind: str, hooks: Iterable[Mapping[str, Any]], state: Mapping[str, Any]) -> list[str]:
    """As `run`, whatever happens; answers what went wrong (``poststop`` hooks only warn)."""
    problems = []
    for number, hook in enumerate(hooks):
        problem = _run_one(hook, encode_json(state))
        if problem:
            problems.append(f"error running {kind} hook #{number} ({hook['path']}): {problem}")
    return problems


def _run_one(hook: Mapping[str, Any], data: bytes) -> str:
    """What went wrong, ``""`` where nothing did."""
    given = os.memfd_create("state")  # a file: a hook that does not read it holds nobody up
    try:
        os.write(given, data)
        os.lseek(given, 0, os.SEEK_SET)
        output, theirs = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                _be(hook, given, theirs)
            os.close(theirs)
            theirs = -1
            return _watch(pid, output, hook["timeout"])
        finally:
            os.close(output)
            if theirs >= 0:
                os.close(theirs)
    finally:
        os.close(given)


def _be(hook: Mapping[str, Any], given: int, output: int) -> NoReturn:
    """The forked process becomes the hook."""
    try:
        os.setsid()
        sys.prctl(sys.PR_SET_PDEATHSIG, signals.SIGKILL)
        os.dup2(given, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.close_range(3)
        signals.set_wakeup_fd(-1)
        sys.reset_signal_handlers()
        sys.set_signal_mask(0)
        environment = dict(word.split("=", 1) for word in hook["env"] if "=" in word)
        os.execve(hook["path"], list(hook["args"]), environment)
    except OSError as error:
        os.write(2, f"cannot execute it: {os.strerror(error.errno or 0).lower()}".encode())
    finally:
        os._exit(_NOT_EXECUTED)


def _watch(pid: int, output: int, timeout_s: float) -> str:
    """Waits for the hook *pid*, which may leave processes behind that hold *output* open."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        pidfd = -1
    try:
        tail, status = _wait(pid, pidfd, output, time.monotonic() + timeout_s if timeout_s else 0.0)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    if status is None:
        return f"it ran past its timeout of {timeout_s:g} s and was killed{_said(tail)}"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    return (f"killed by signal {-code}" if code < 0 else f"exit status {code}") + _said(tail)


def _said(tail: bytes) -> str:
    text = tail.decode("utf-8", "replace").strip()
    return f": {text}" if text else ""


def _wait(pid: int, pidfd: int, output: int, deadline: float) -> tuple[bytes, int | None]:
    """The end of what it wrote, and its status: None where it had to be killed at *deadline* (0: none)."""
    os.set_blocking(output, False)
    poll = select.poll()
    poll.register(output, select.POLLIN)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    tail = b""
    while True:
        left = deadline - time.monotonic() if deadline else None
        if left is not None and left <= 0:
            _kill(pid)
            return _drain(output, tail), None
        if pidfd < 0:
            left = _TICK_S if left is None else min(left, _TICK_S)
        ready = poll.poll(None if left is None else left * 1000)
        if any(fd == output for fd, _ in ready):
            before, tail = tail, _read(output, tail)
            if tail is before:  # its end: only the process itself is left to wait for
                poll.unregister(output)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return _drain(output, tail), status


def _kill(pid: int) -> None:
    """The hook and what is in its process group are dead."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signals.SIGKILL)
        except ProcessLookupError:
            continue  # it has no session of its own yet
    os.waitpid(pid, 0)


def _read(output: int, tail: bytes) -> bytes:
    """*tail* with what can be read now at its end; *tail* itself where there is nothing (more)."""
    try:
        data = os.read(output, _CHUNK)
    except BlockingIOError:
        return tail
    return (tail + data)[-_TAIL_BYTES:] if data else tail


def _drain(output: int, tail: bytes) -> bytes:
    for _ in range(_DRAINED_CHUNKS):  # not for ever: what a hook left behind may go on writing
        more = _read(output, tail)
        if more is tail:
            break
        tail = more
    return tail
