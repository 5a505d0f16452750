"""The inside of a container's network namespace: one end of a veth is configured there."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

from scow.errors import SyscallError, Unavailable
from scow.linux import syscalls
from scow_net_bridge import rtnl

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interface:
    """The container's end of a veth."""

    name: str
    index: int


def open_namespace(path: str) -> int:
    """A descriptor of the network namespace at *path*; raises `Unavailable` where it is gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Unavailable(f"network namespace {path} cannot be entered: {(exc.strerror or str(exc)).lower()}") from exc


def close_namespace(namespace: int) -> None:
    """The descriptor is closed."""
    os.close(namespace)


def open_socket(namespace: int) -> rtnl.RouteSocket:
    """A netlink socket inside *namespace*: the calling thread goes in, opens it and comes back (20 us).

    Sockets keep their namespace. A thread of its own for this would cost two hand-overs of the interpreter lock, 2 to
    10 ms in a busy process. The thread does not go on before it is back.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        try:
            return rtnl.RouteSocket()
        except OSError as exc:
            raise SyscallError(exc.errno or 0, "socket", "AF_NETLINK") from exc
        finally:
            _return(home)
    finally:
        os.close(home)


def _return(home: int) -> None:
    """The thread is in the namespace *home* again. For that of the same process setns(2) fails for lack of memory only;
    a thread in a foreign namespace must not run anything else, so it waits."""
    while True:
        try:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
            return
        except SyscallError as exc:
            log.critical("a thread cannot leave a container's network namespace: %s", exc)
            time.sleep(0.1)


def find_peer(inside: rtnl.RouteSocket, host_index: int) -> Interface:
    """The interface whose other end has *host_index* in the host's namespace; raises `Unavailable`."""
    for link in inside.links():
        if link.kind == "veth" and link.peer == host_index:
            return Interface(link.name, link.index)
    raise Unavailable(f"the peer of interface {host_index} is not in the container's network namespace")


def configure(inside: rtnl.RouteSocket, interface: Interface, address: str, prefix_length: int, gateway: str) -> None:
    """*interface* is up with *address*, and the default route goes to *gateway* (``""``: none).

    With several networks each has its default route; the first interface's has the least metric, and the next takes
    over when that interface goes.
    """
    requests = [
        rtnl.without_ipv6(interface.index),
        rtnl.set_up(interface.index),
        rtnl.add_address(interface.index, address, prefix_length),
    ]
    if gateway:
        digits = "".join(filter(str.isdigit, interface.name[-3:]))
        requests.append(rtnl.add_default_route(interface.index, gateway, int(digits or 0)))
    inside.ask(*requests)
