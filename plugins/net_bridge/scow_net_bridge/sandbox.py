"""The inside of a container's network namespace: one end of a veth is configured there."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from scow.errors import ScowError, SyscallError, Unavailable
from scow.linux import syscalls

from scow_net_bridge import rtnl


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
    """A netlink socket inside *namespace*.

    A thread of its own goes in, opens it and ends there: sockets keep their namespace, and no thread that does
    anything else is ever in a foreign one (0.1 ms).
    """
    made: list[rtnl.RouteSocket | ScowError] = []

    def enter() -> None:
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            made.append(rtnl.RouteSocket())
        except SyscallError as exc:
            made.append(exc)
        except OSError as exc:
            made.append(SyscallError(exc.errno or 0, "socket", "AF_NETLINK"))

    thread = threading.Thread(target=enter, name="scow-enter-netns", daemon=True)
    thread.start()
    thread.join()
    if not made:
        raise Unavailable("the thread that enters a network namespace died")
    if isinstance(made[0], ScowError):
        raise made[0]
    return made[0]


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
