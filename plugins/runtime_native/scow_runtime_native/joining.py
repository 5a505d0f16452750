"""An exec: how a process comes into a container that runs already, and that may be hostile. The process that does this
is a helper in the host's PID namespace, see `scow_runtime_native.handover`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from scow.linux import syscalls as sys
from scow_runtime_native import handover, init, mount_changes, process, scheduling, terminal, userns
from scow_runtime_native.failure import stage

if TYPE_CHECKING:
    from scow.linux.siblings import Birth

_NAMESPACES = (
    sys.CLONE_NEWNS
    | sys.CLONE_NEWUTS
    | sys.CLONE_NEWIPC
    | sys.CLONE_NEWNET
    | sys.CLONE_NEWCGROUP
    | sys.CLONE_NEWPID  # of children
)


def run(plan: dict[str, Any], tty: bool, init_pid: int, pidfd: int, birth: Birth) -> NoReturn:
    """The process enters the container of *init_pid* and *pidfd*, and leaves behind the one that becomes what *plan*
    says, told by *birth*."""
    spec = plan["process"]
    scheduling.run_on(spec["scheduling"], "initial")
    with stage("joining the container"):
        init.join_cgroup(plan["cgroup"], init_pid)
        init.new_keyring()  # not the engine's, which may be that of root's login
    scheduling.run_on(spec["scheduling"], "final")
    process.prepare(spec, init_pid)
    master = terminal.take_of(init_pid) if tty and spec["own_terminal"] else -1
    if master >= 0 and plan["userns"]:
        userns.give((0,), userns.owner_of(init_pid))
    with stage("joining the container"):
        own_root = mount_changes.open_root(init_pid) if plan["own_root"] else -1
        more = (sys.CLONE_NEWTIME if plan["time"] else 0) | (sys.CLONE_NEWUSER if plan["userns"] else 0)
        sys.setns(pidfd, _NAMESPACES | more)
        os.close(pidfd)
        if own_root >= 0:
            mount_changes.change_root(own_root)
            os.close(own_root)
    if plan["userns"]:
        userns.become_root()
    with stage("joining the container"):
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    handover.run(spec, tty, birth, root_fd=root_fd, master=master)
