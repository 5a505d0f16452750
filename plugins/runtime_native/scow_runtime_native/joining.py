"""An exec: how a process comes into a container that runs already, and that may be hostile. The process that does this
is a helper in the host's PID namespace, see `scow_runtime_native.handover`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from scow.linux import syscalls as sys
from scow_runtime_native import handover, init, process, terminal
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
    with stage("joining the container"):
        init.join_cgroup(plan["cgroup"], init_pid)
        init.new_keyring()  # not the engine's, which may be that of root's login
    process.prepare(spec)
    master = terminal.take_of(init_pid) if tty and spec["own_terminal"] else -1
    with stage("joining the container"):
        sys.setns(pidfd, _NAMESPACES)
        if plan.get("userns"):
            _become_its_root(pidfd)
        os.close(pidfd)
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    handover.run(spec, tty, birth, root_fd=root_fd, master=master)


def _become_its_root(pidfd: int) -> None:
    """The user namespace is joined after the others: until then the host's rights hold over all of them, whoever owns
    them."""
    sys.setns(pidfd, sys.CLONE_NEWUSER)
    try:
        os.setgroups(())
    except PermissionError:  # denied in this user namespace, and so it is to its own processes
        pass
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
