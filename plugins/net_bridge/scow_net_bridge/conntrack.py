"""Connections that the kernel remembers. A udp "connection" outlives what was published: its packets would go on to the
old place, or past a new one, until it is forgotten."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from typing import TYPE_CHECKING

from scow_net_bridge.ports import ANY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow.ports.network import PortBinding

log = logging.getLogger(__name__)

# linux/netfilter/nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_NESTED = 0x8000
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*, and CTA_FILTER_*_FLAGS
_TUPLE_IP, _TUPLE_PROTO, _FILTER = 1, 2, 25
_SOURCE, _DESTINATION = 1, 2  # CTA_IP_V4_*
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_BY_SOURCE, _BY_DESTINATION, _BY_PROTOCOL, _BY_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 5


def forget_udp(ports: Iterable[PortBinding]) -> None:
    """No udp connection that was made to any of *ports* is tracked.

    The kernel walks its whole table (12 ms at 262144 buckets). Where it cannot delete by port (before Linux 5.8)
    nothing happens, and old senders go on as they were until they pause for 30 seconds (nf_conntrack_udp_timeout).
    """
    for port in ports:
        if port.protocol == "udp":
            address = "" if port.host_ip == ANY else port.host_ip
            _delete(_ORIGINAL, _BY_DESTINATION, _DESTINATION, address, port.host_port)


def forget_udp_of(address: str) -> None:
    """No udp connection that was answered by the container's *address* is tracked; see `forget_udp`."""
    _delete(_REPLY, _BY_SOURCE, _SOURCE, address, 0)


def _delete(direction: int, by_address: int, which: int, address: str, port: int) -> None:
    flags = _BY_PROTOCOL | (by_address if address else 0) | (_BY_PORT if port else 0)
    parts = _attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    if port:
        parts += _attribute(_PROTO_DST_PORT, struct.pack(">H", port))
    parts = _attribute(_TUPLE_PROTO | _NESTED, parts)
    if address:
        parts = _attribute(_TUPLE_IP | _NESTED, _attribute(which, socket.inet_aton(address))) + parts
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + _attribute(direction | _NESTED, parts)
    body += _attribute(_FILTER | _NESTED, _attribute(direction, struct.pack("=I", flags)))
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
            kernel.send(struct.pack("=IHHII", 16 + len(body), _DELETE, 0x5, 1, 0) + body)
            error = -struct.unpack_from("=i", kernel.recv(4096), 16)[0]
    except OSError as exc:
        error = exc.errno or 0
    if error and error != errno.ENOENT:
        log.debug("udp connections of %s %d stay tracked: %s", address, port, errno.errorcode.get(error, error))


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
