"""The step from a helper, which has the host's rights and is not in the container's PID namespace, into that.

The helper does everything with the host's rights: namespaces, root, user, limits, capabilities, seccomp filter. It has
joined the PID namespace for its children only. Last it clones the process that is seen in the container, as a child of
the monitor, which does nothing but execve. So whatever the container may trace or read there (with CAP_SYS_PTRACE, or
by its uid) has no right, no descriptor, no root and no working directory that the program itself will not have
(CVE-2016-9962, CVE-2019-5736).
"""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING, Any, NoReturn

from scow.linux import syscalls as sys
from scow.linux.siblings import CLONE_VFORK, FLAGS
from scow_runtime_native import execute, process, reaper, scheduling
from scow_runtime_native.failure import StageError, describe
from scow_runtime_native.passage import Passage

if TYPE_CHECKING:
    from scow.linux.siblings import Birth

_SCHED_DEADLINE, _RESET_ON_FORK = 6, 1  # linux/sched.h


def run(
    spec: dict[str, Any], tty: bool, birth: Birth, *, root_fd: int, master: int, reaper_wanted: bool = False
) -> NoReturn:
    """As `scow_runtime_native.process.run`, in a process that *birth* tells of; the caller ends.

    With ``waits_inside`` in *spec* the new process says that it is ready and waits for its start (for `scow-runtime`,
    whose callers must know the pid of a container that is created); else the caller does, and nothing is seen inside.
    """
    birth.keep_from_children()
    inside = bool(spec.get("waits_inside"))
    passage = Passage(FLAGS if inside else FLAGS | CLONE_VFORK)
    processes, scheduler = _leave_room(spec), _put_off_reset(spec["scheduling"])
    environment = process.settle(spec, tty, root_fd, controlling=False, cover=passage.cover)
    program, become_leader = execute.find(spec["args"], environment), passage.new_session()
    if not inside:
        process.wait_for_start(master)
    sys.prctl(sys.PR_SET_DUMPABLE, 0)  # a change of user has set it to the host's fs.suid_dumpable
    if _clone(passage, birth):
        os.close(process.STATUS_FD)
        os._exit(0)
    become_leader()
    if tty and not reaper_wanted:
        passage.take_terminal()
    if processes:
        passage.limit(resource.RLIMIT_NPROC, *processes)
    if scheduler:
        scheduling.apply(scheduler)
    if inside:
        process.wait_for_start(master)
    if "before_execve" in spec:
        spec["before_execve"]()
    if reaper_wanted:
        reaper.split(tty, process.STATUS_FD)
    try:
        os.execve(program, spec["args"], environment)
    except OSError:
        execute.execute(spec["args"], environment)  # with the cause


def _put_off_reset(values: dict[str, Any]) -> dict[str, Any] | None:
    """What clone(2) does not hand on (sched(7)): the scheduler with ``SCHED_FLAG_RESET_ON_FORK``, which is put off and
    answered; and deadlines, for which `StageError` is raised."""
    policy, flags, *rest = values.get("scheduler", (0, 0))
    if policy == _SCHED_DEADLINE:
        raise StageError(
            "SCHED_DEADLINE is neither for an exec nor for a container in the PID namespace of another one",
            stage="scheduler",
            errno=errno.EINVAL,
        )
    if not flags & _RESET_ON_FORK:
        return None
    values["scheduler"] = [policy, flags & ~_RESET_ON_FORK, *rest]
    return {"scheduler": [policy, flags, *rest]}


def _leave_room(spec: dict[str, Any]) -> tuple[int, int] | None:
    """The user's limit of processes is put off until this one, the user's as well by then, is not counted any more: it
    is raised as far as it has to be in the end; answers what the program gets."""
    for limit in spec["rlimits"]:
        if limit[1] == resource.RLIMIT_NPROC:
            soft, hard = limit[2:]
            has = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            room = has if has == resource.RLIM_INFINITY or -1 < hard <= has else hard
            limit[2:] = room, room
            return soft, hard
    return None


def _clone(passage: Passage, birth: Birth) -> int:
    try:
        return passage.clone(birth)
    except OSError as error:
        if error.errno == errno.ENOMEM:  # of a PID namespace without its init, pid_namespaces(7)
            raise StageError("the container is not running any more", stage="", errno=errno.ESRCH) from error
        if error.errno == errno.EAGAIN:
            raise no_process_left() from error
        raise StageError(describe(error), stage="clone", errno=error.errno or 0) from error


def no_process_left() -> StageError:
    """What clone(2) means by EAGAIN."""
    return StageError(
        "no process is left for it: the container's limit is used up",
        stage="",
        errno=errno.EAGAIN,
        hint="an exec needs two for a moment; raise --pids-limit with docker update, or the ulimit nproc of its user",
    )
