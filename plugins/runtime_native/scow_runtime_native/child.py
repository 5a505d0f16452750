"""The half of the runtime that lives in the monitor: plans into processes (contract: `scow.ports.runtime`).

Imported once by the zygote. Everything up to the clone runs in the monitor, everything after it in the new process,
which ends in execve or ``_exit`` and never returns to the monitor's code. Single-threaded callers only, which block
signals or have handlers that do nothing: the child resets the handlers before it lets signals in.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import functools
import gc
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from scow.errors import ScowError
from scow.linux import signals
from scow.linux import syscalls as sys
from scow.linux.siblings import Birth
from scow.plain_json import encode_json
from scow_runtime_native import embryo, handover, init, joining, timens, title, userns
from scow_runtime_native.failure import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

_STDIO_PARK = 64  # descriptors are moved above this before they are put in their final places
_signals: Iterable[int] = range(1, 65)
_helpers: list[int] = []  # see `_serve` and `_hatch`; not reaped yet
_embryos: list[embryo.Waiting] = []  # one of a kind at most
_servants: list[embryo.Waiting] = []  # one at most, for the embryo that has a user namespace; see `_attend`
START_FD = 3
STATUS_FD = 4
EXTRA_FD = 5


class Spawned(NamedTuple):
    """A process that waits for its start; see `scow.ports.runtime`."""

    pid: int
    start_fd: int
    status_fd: int
    birth: Birth | None = None


def create(
    plan: dict[str, Any], stdio: tuple[int, int, int], tty: bool, ends: tuple[int, int, int, int] | None = None
) -> Spawned:
    """The container's init, cloned into its namespaces and cgroup; its root is set up while the caller goes on. *ends*
    are used, and closed, instead of two new pipes: read and write end of the start pipe, then of the status pipe."""
    if plan["join_pid"] is not None:  # the processes of that container may trace those that come to them
        return _spawn_helper(plan, stdio, init.run, (plan, tty), plan["clone"], ends=ends)
    if _embryos:
        ends = ends or (*os.pipe(), *os.pipe())
        pid = _hatch(plan, tty, stdio, ends[0], ends[3])
        if pid:
            os.close(ends[0])
            os.close(ends[3])
            return Spawned(pid, ends[1], ends[2])
    return _spawn(plan, stdio, init.run, (plan, tty), plan["clone"], ends=ends)


def prepare(hints: Collection[str]) -> None:
    """An `embryo` waits for the first `create`; one with a user namespace where *hints* has ``userns``, and one without
    where it has ``""``."""
    for hint, flags in (("", embryo.FLAGS), ("userns", embryo.USER_FLAGS)):
        if hint in hints:
            with contextlib.suppress(OSError):  # `create` meets the same, and can tell it
                _embryos.append(embryo.Waiting(functools.partial(_wait, flags), flags))
                if hint:
                    _servants.append(embryo.Waiting(functools.partial(_attend, _embryos[-1].pid), 0))


def discard() -> None:
    """No embryo is there."""
    for waiting in (_embryos, _servants):
        while waiting:
            os.waitpid(waiting.pop().abandon(), 0)


def _hatch(plan: dict[str, Any], tty: bool, stdio: tuple[int, int, int], start: int, status: int) -> int:
    """The pid of the embryo that becomes the init of *plan*, with the ends *start* and *status* of its pipes; 0 where
    none can. The others end."""
    pid = 0
    while _embryos:
        waiting = _embryos.pop()
        if not pid and embryo.suits(plan, waiting.flags) and _become(waiting, plan, tty, (*stdio, start, status)):
            pid = waiting.pid
        else:
            _helpers.append(waiting.abandon())
    while _servants:
        _helpers.append(_servants.pop().abandon())
    return pid


def _become(waiting: embryo.Waiting, plan: dict[str, Any], tty: bool, fds: tuple[int, int, int, int, int]) -> bool:
    if not waiting.flags & sys.CLONE_NEWUSER:
        return waiting.become(plan, tty, fds)
    channel = userns.channel()
    became = waiting.become(plan, tty, (*fds, channel[1].fileno()))
    given = (*fds[:3], channel[0].fileno(), fds[4])
    if became and not (_servants and _servants[0].become(plan, tty, given)):
        _serve(plan, waiting.pid, fds[:3], channel, fds[4], leaves=True)
    for end in channel:
        end.close()
    return became


def start_exec(plan: dict[str, Any], init_pid: int, stdio: tuple[int, int, int], tty: bool) -> Spawned:
    """A further process in the container whose init is *init_pid* (as the monitor counts): see `joining`."""
    pidfd = os.pidfd_open(init_pid)
    try:
        if plan.get("userns"):
            userns.give(stdio, userns.owner_of(init_pid))
        return _spawn_helper(plan, stdio, joining.run, (plan, tty, init_pid, EXTRA_FD), 0, pidfd)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise handover.no_process_left() from error
        raise
    finally:
        os.close(pidfd)


def kept(plan: dict[str, Any]) -> dict[str, Any]:
    """What `oom_killed` needs of *plan*: the rest, most of it the seccomp filter, need not stay in memory."""
    while _helpers:  # they ended before the init was ready
        os.waitpid(_helpers.pop(), 0)
    return {"cgroup": plan["cgroup"]}


def oom_killed(plan: dict[str, Any]) -> bool:
    """Whether the kernel has killed a process of the container's cgroup for want of memory."""
    path = plan["cgroup"].get("oom_file")
    if not path:
        return False
    try:
        with open(path, encoding="utf-8") as lines:
            return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in lines)
    except OSError:
        return False  # the cgroup is gone: nobody can tell any more


def rehearse() -> None:
    """Processes as `create` makes them, that find no root to enter, and one of `start_exec`, that finds nothing to do:
    all end; see `scow.monitor.rehearsal`. From here on the children of this process reset only the signals that it has
    changed."""
    global _signals
    _signals = sys.changed_signals()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    prepare({""})
    hatched = create({"clone": embryo.FLAGS, "join_pid": None, "cgroup": {}}, (null, null, null), False)
    spawned = create({"clone": 0, "join_pid": None, "cgroup": {}}, (null, null, null), False)
    further = start_exec({"cgroup": {}}, spawned.pid, (null, null, null), False)
    for process in (hatched, spawned, further):
        os.waitpid(process.pid, 0)
        os.close(process.start_fd)
        os.close(process.status_fd)
    os.close(null)
    if further.birth is not None:
        further.birth.close()


def _spawn_helper(
    plan: dict[str, Any],
    stdio: tuple[int, int, int],
    main: Callable[..., NoReturn],
    arguments: tuple[Any, ...],
    clone_flags: int,
    pidfd: int = -1,
    ends: tuple[int, int, int, int] | None = None,
) -> Spawned:
    """As `_spawn`; the process leaves another one behind, see `handover`."""
    birth = Birth()
    try:
        spawned = _spawn(plan, stdio, main, (*arguments, birth), clone_flags, pidfd, ends)
        birth.keep_from_children()  # of the next helper
    except BaseException:
        birth.close()
        raise
    return spawned._replace(birth=birth)


def _spawn(
    plan: dict[str, Any],
    stdio: tuple[int, int, int],
    main: Callable[..., NoReturn],
    arguments: tuple[Any, ...],
    clone_flags: int,
    pidfd: int = -1,
    ends: tuple[int, int, int, int] | None = None,
) -> Spawned:
    """Clones; the child runs *main* with stdio, the start pipe and the status pipe as descriptors 0 to 4, and *pidfd*
    or the channel of `userns`, no other."""
    made: list[int] = list(ends or ())
    channel = userns.channel() if main is init.run and plan.get("userns") else None
    try:
        while len(made) < 4:
            made += os.pipe()
        if plan.get("time") is None or pidfd >= 0:
            pid = _clone_apart(plan, clone_flags, pidfd)
        else:
            pid = timens.clone(plan["time"], lambda: _clone_apart(plan, clone_flags, pidfd))
    except BaseException:
        for end in made:
            os.close(end)
        raise
    start_read, start_write, status_read, status_write = made
    if pid == 0:
        extra = channel[1].fileno() if channel else pidfd
        fds = (*stdio, start_read, status_write)
        _child(fds if extra < 0 else (*fds, extra), main, arguments)
    if channel:
        _serve(plan, pid, stdio, channel, status_write)
    os.close(start_read)
    os.close(status_write)
    return Spawned(pid, start_write, status_read)


def _serve(
    plan: dict[str, Any],
    pid: int,
    stdio: tuple[int, int, int],
    channel: tuple[_socket.socket, _socket.socket],
    status: int,
    *,
    leaves: bool = False,
) -> None:
    """A process of its own serves an init with a user namespace, and ends; it tells in the init's name what it cannot
    do. Not the monitor: that would go into a foreign mount namespace, and keep the memory that it takes. *leaves*: see
    `userns.serve`."""
    ours, theirs = channel
    helper = -1
    try:
        helper = sys.clone(0)
        if helper == 0:
            theirs.close()
            userns.serve(plan, pid, stdio, ours, status, leaves=leaves)
    except Exception as error:  # noqa: BLE001  (the init has no other voice; the monitor goes on)
        os.write(status, _report(error))
    finally:
        if helper == 0:
            os._exit(0)
        ours.close()
        theirs.close()
    if helper > 0:
        _helpers.append(helper)


def _clone_apart(plan: dict[str, Any], flags: int, pidfd: int) -> int:
    """clone, the child in its user namespace where it has one, and it does not go there by itself."""
    if not plan.get("userns") or pidfd >= 0:
        return _clone(plan, flags)
    if plan["join_pid"] is not None:  # `userns.arrive` does
        return _clone(plan, 0)
    return userns.clone(plan, flags, _clone)


def _clone(plan: dict[str, Any], flags: int) -> int:
    """The child is born in its cgroup where that is version 2; otherwise it joins by itself (`init.join_cgroup`)."""
    cgroup = plan["cgroup"]
    if cgroup.get("version") != 2:
        return sys.clone(flags)
    fd = os.open(cgroup["directory"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return sys.clone3_into_cgroup(flags, fd)
    except OSError as error:
        # EBUSY: the container has enabled controllers for groups of its own, so that its root takes no process
        if error.errno not in (errno.EBUSY, errno.ENOSYS, errno.E2BIG):
            raise
        pid = sys.clone(flags)
        if pid == 0:
            cgroup["join"] = True
        return pid
    finally:
        os.close(fd)


def _child(fds: tuple[int, ...], main: Callable[..., NoReturn], arguments: tuple[Any, ...]) -> NoReturn:
    status = fds[4]
    try:
        _settle(fds)
        status = STATUS_FD
        main(*arguments)
    except BaseException as error:  # noqa: BLE001  (nothing may run on in the monitor's code)
        with contextlib.suppress(OSError):
            os.write(status, _report(error))
    os._exit(1)


def _attend(pid: int, channel: int) -> NoReturn:
    """In the servant of the embryo *pid*: what `_serve` would clone, there already."""
    told = -1
    try:
        gc.disable()
        _place((channel,))
        plan, _tty, (*stdio, end, told) = embryo.receive()
        userns.serve(plan, pid, (stdio[0], stdio[1], stdio[2]), _socket.socket(fileno=end), told, leaves=True)
    except BaseException as error:  # noqa: BLE001  (as above)
        with contextlib.suppress(OSError):
            os.write(told if told >= 0 else 2, _report(error))
    os._exit(0)


def _wait(flags: int, channel: int) -> NoReturn:
    """In an embryo with namespaces of *flags*."""
    told = False
    try:
        _settle((channel,))
        embryo.settle(flags)
        plan, tty, fds = embryo.receive()
        _place(fds)
        told = True
        init.run(plan, tty, has=flags)
    except BaseException as error:  # noqa: BLE001  (as above)
        with contextlib.suppress(OSError):
            os.write(STATUS_FD if told else 2, _report(error))
    os._exit(1)


def _settle(fds: Sequence[int]) -> None:
    """The process has *fds* as its descriptors from 0 on, no others, and nothing of the monitor's that can be seen."""
    # Not dumpable: a container cannot look at this process or its /proc/<pid>/exe before execve (CVE-2019-5736,
    # CVE-2016-9962). The zygote has set that already; it is said where it matters.
    sys.prctl(sys.PR_SET_DUMPABLE, 0)
    gc.disable()  # a collection would copy the pages that are shared with the zygote
    _place(fds)
    signals.set_wakeup_fd(-1)
    sys.reset_signal_handlers(_signals)
    sys.set_signal_mask(0)
    title.replace(b"scow-init")


def _place(fds: Sequence[int]) -> None:
    """Copies of *fds* are the descriptors from 0 on; no other is open."""
    if min(fds) < len(fds):  # one is where another one goes
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STDIO_PARK) for fd in fds]
    for number, fd in enumerate(fds):
        os.dup2(fd, number, inheritable=number < START_FD)
    sys.close_range(len(fds))


def _report(error: BaseException) -> bytes:
    record: dict[str, Any] = {"error": str(error) or type(error).__name__, "stage": "", "errno": 0, "kind": "setup"}
    if isinstance(error, StageError):
        record.update(stage=error.stage, kind=error.kind, errno=error.errno)
    elif isinstance(error, OSError):
        record["errno"] = error.errno or 0
        if not isinstance(error, ScowError) and error.strerror:
            name = f" {error.filename}" if error.filename else ""
            record["error"] = f"{error.strerror.lower()}{name}"
    hint = getattr(error, "hint", None)
    if hint:  # part of the message: the monitor's protocol has no field for it
        record["error"] += f" ({hint})"
    return encode_json(record) + b"\n"
