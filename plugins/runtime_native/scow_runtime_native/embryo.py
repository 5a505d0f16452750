"""An init that is there before anybody asks for it: in new namespaces of Docker's default kinds, waiting for its plan;
with a user namespace, to which these belong, where the last containers had one.

A spare monitor makes one while nothing happens (`scow.monitor.zygote`), so that a start waits neither for the clone and
a network namespace nor for the pages that the child writes to first. `suits` says which plans that is for: not those
with a cgroup of version 2, where a process is born in its group, as moving one there costs more than is saved here.
"""

from __future__ import annotations

import _socket
import marshal
import os
from sys import byteorder
from typing import TYPE_CHECKING, Any, NoReturn

from scow.linux import syscalls as sys
from scow_runtime_native import init

if TYPE_CHECKING:
    from collections.abc import Callable

FLAGS = sys.CLONE_NEWPID | sys.CLONE_NEWNET | sys.CLONE_NEWUTS | sys.CLONE_NEWIPC
"""The namespaces of one for containers of the host's user namespace."""

USER_FLAGS = FLAGS | sys.CLONE_NEWUSER
CHANNEL_FD = 0
_MOST_BYTES = 128 << 10  # of a plan: what a socket takes in one piece
_ANCILLARY_BYTES = _socket.CMSG_SPACE(6 * 4)


class Waiting:
    """The monitor's side of a process that waits for a plan."""

    def __init__(self, live: Callable[[int], NoReturn], flags: int) -> None:
        """*live* runs in it, in namespaces of *flags*, with its descriptor of the channel: it makes that number 0 and
        calls `receive`."""
        self.flags = flags
        self._channel, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            self.pid = sys.clone(flags)
            if self.pid == 0:
                live(theirs.fileno())
        finally:
            theirs.close()

    def become(self, plan: dict[str, Any], tty: bool, fds: tuple[int, ...]) -> bool:
        """Whether it goes on with *plan* and *fds*. False where the plan is too large, or where somebody has killed
        it."""
        data = marshal.dumps((plan, tty))
        if len(data) > _MOST_BYTES:
            return False
        rights = b"".join([fd.to_bytes(4, byteorder) for fd in fds])  # `struct` and `array` are more pages
        try:
            self._channel.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        except OSError:
            return False
        self._channel.close()
        return True

    def abandon(self) -> int:
        """It ends: the pid that is to be reaped."""
        self._channel.close()
        return self.pid


def suits(plan: dict[str, Any], flags: int) -> bool:
    """Whether an embryo in namespaces of *flags* can become the init of *plan*: what it has of its own the plan wants
    to be new."""
    user = plan.get("userns")
    if flags & sys.CLONE_NEWUSER and not (user and user["uids"] and not user["join"]):
        return False
    return (
        plan["clone"] & USER_FLAGS == flags
        and plan["join_pid"] is None
        and bool(user) == bool(flags & sys.CLONE_NEWUSER)
        and plan.get("time") is None
        and bool(plan.get("new_keyring", True))
        and plan["cgroup"].get("version") != 2
    )


def settle(flags: int) -> None:
    """An embryo's session, network and keyring are set up; in a user namespace the keyring is not, whose owner root
    there is to be."""
    os.setsid()
    init.bring_up_loopback()
    if not flags & sys.CLONE_NEWUSER:
        init.new_keyring()


def receive() -> tuple[dict[str, Any], bool, list[int]]:
    """The side of who waits: plan, whether it has a terminal, and descriptors. It ends with its monitor."""
    channel = _socket.socket(fileno=CHANNEL_FD)
    data, ancillary, _flags, _address = channel.recvmsg(_MOST_BYTES, _ANCILLARY_BYTES, _socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)
    channel.close()
    rights = ancillary[0][2]
    fds = [int.from_bytes(rights[at : at + 4], byteorder) for at in range(0, len(rights), 4)]
    plan, tty = marshal.loads(data)
    return plan, tty, fds
