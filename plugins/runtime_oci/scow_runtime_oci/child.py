"""The half of the runtime that lives in the monitor: plans into processes (contract: `scow.ports.runtime`, INDIRECT).

Imported once by the zygote. `create` and `start_exec` fork a maker (`scow_runtime_oci.maker`), which never returns to
the monitor's code. Single-threaded callers only.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from scow.errors import ScowError
from scow.linux import syscalls as sys
from scow_runtime_oci import maker

if TYPE_CHECKING:
    from collections.abc import Callable

INDIRECT = True
_PARK = 64  # descriptors are moved above this before they are put in their final places


class Spawned(NamedTuple):
    """A maker; see `scow.ports.runtime`."""

    pid: int
    start_fd: int
    status_fd: int


def create(plan: dict[str, Any], stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """The maker of the container's init."""
    return _spawn(stdio, maker.make_init, (plan, tty))


def start_exec(plan: dict[str, Any], init_pid: int, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """The maker of a further process in the container whose init is *init_pid* (as the monitor counts)."""
    return _spawn(stdio, maker.make_exec, (plan, init_pid, tty))


def kept(plan: dict[str, Any]) -> dict[str, Any]:
    """What `oom_killed` needs of *plan*."""
    return {"oom_file": plan["oom_file"]}


def oom_killed(plan: dict[str, Any]) -> bool:
    """Whether the kernel has killed a process of the container's cgroup for want of memory."""
    try:
        with open(plan["oom_file"], encoding="utf-8") as lines:
            return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in lines)
    except OSError:
        return False  # no memory controller, or the cgroup is gone: nobody can tell


def _spawn(stdio: tuple[int, int, int], main: Callable[..., NoReturn], arguments: tuple[Any, ...]) -> Spawned:
    """Forks; the child runs *main* with stdio, the start pipe and the status pipe as descriptors 0 to 4, no other."""
    start_read, start_write = os.pipe()
    status_read, status_write = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        for fd in (start_read, start_write, status_read, status_write):
            os.close(fd)
        raise
    if not pid:
        _child((*stdio, start_read, status_write), main, arguments)
    os.close(start_read)
    os.close(status_write)
    return Spawned(pid, start_write, status_read)


def _child(fds: tuple[int, ...], main: Callable[..., NoReturn], arguments: tuple[Any, ...]) -> NoReturn:
    status = fds[maker.STATUS_FD]
    try:
        gc.disable()  # a collection would copy the pages that are shared with the zygote
        signal.set_wakeup_fd(-1)
        parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _PARK) for fd in fds]
        status = parked[maker.STATUS_FD]
        for number, fd in enumerate(parked):
            os.dup2(fd, number, inheritable=number < maker.START_FD)
        status = maker.STATUS_FD
        sys.close_range(len(fds))
        sys.reset_signal_handlers()
        sys.set_signal_mask(0)
        sys.set_name(b"scow-oci")
        os.setsid()
        main(*arguments)
    except BaseException as error:  # noqa: BLE001  (nothing may run on in the monitor's code)
        with contextlib.suppress(OSError):
            os.write(status, _report(error))
    os._exit(1)


def _report(error: BaseException) -> bytes:
    kind = getattr(error, "kind", "setup")
    message = str(error) if isinstance(error, ScowError | OSError) else repr(error)
    record = {"error": message, "stage": "", "errno": getattr(error, "errno", 0) or 0, "kind": kind}
    return json.dumps(record).encode() + b"\n"
