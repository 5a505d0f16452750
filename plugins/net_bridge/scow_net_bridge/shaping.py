"""The rates of one endpoint, held on the host's side, where a container with NET_ADMIN cannot reach them.

What goes to the container waits in a token bucket at the host's end of its veth. What comes from it arrives there,
where the kernel can drop but not delay, and dropping needs a policer that many kernels lack: it is redirected through
an intermediate device (ifb) of the endpoint's own, which has a token bucket too. Mechanism; what is whose is the
driver's.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING

from scow.errors import SyscallError, Unsupported
from scow_net_bridge import bridges, rtnl, tc

if TYPE_CHECKING:
    from scow_net_bridge.rtnl import Request, RouteSocket

KIND = "ifb"
_MISSING = (errno.EOPNOTSUPP, errno.ENOENT)  # of a device kind; of a discipline, a filter or an action


def device_of(veth: str) -> str:
    """The name of the device through which what comes in by *veth* goes."""
    return f"{KIND}{veth[-11:]}"


def towards_container(host: RouteSocket, veth: int, bits: int, mtu: int) -> None:
    """The container receives at *bits* per second; 0: at any rate. Raises `Unsupported` where the kernel has no tbf."""
    if bits:
        _ask(host, "token bucket (sch_tbf)", tc.limit(veth, bits, mtu))
    else:
        _undo(host, tc.lift(veth))


def from_container(host: RouteSocket, veth: int, device: str, alias: str, bits: int, mtu: int) -> None:
    """The container sends at *bits* per second; 0: at any rate, and *device* is gone.

    Raises `Unsupported` where the kernel lacks something; then the container sends as before.
    """
    index = bridges.find(device)
    if not bits:
        if index:
            _undo(host, tc.remove_ingress(veth))
            bridges.delete(host, index)
        return
    if index:
        _ask(host, "token bucket (sch_tbf)", tc.limit(index, bits, mtu))
        return
    with ExitStack() as undo:
        _ask(host, "intermediate device (ifb)", rtnl.add_ifb(device, mtu))
        index = bridges.find(device)
        undo.callback(bridges.delete, host, index)
        host.ask(rtnl.set_alias(index, alias))
        _ask(host, "token bucket (sch_tbf)", tc.limit(index, bits, mtu))
        _undo(host, tc.remove_ingress(veth))  # of a device that somebody deleted: its filter drops every packet
        undo.callback(_undo, host, tc.remove_ingress(veth))
        _ask(host, "ingress filter (sch_ingress)", tc.add_ingress(veth))
        _ask(host, "redirection (cls_u32, act_mirred)", tc.redirect(veth, index))
        undo.pop_all()


def _ask(host: RouteSocket, part: str, request: Request) -> None:
    try:
        host.ask(request)
    except SyscallError as exc:
        if exc.errno in _MISSING:
            raise Unsupported(
                f"this kernel has no {part}: {exc}", hint="load its module, or leave the rate out"
            ) from exc
        raise


def _undo(host: RouteSocket, request: Request) -> None:
    """No error where there is nothing to undo."""
    try:
        host.ask(request)
    except SyscallError as exc:
        if exc.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise
