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

# linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h
_NETLINK_NETFILTER = 12
_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_NESTED = 0x8000
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*, and CTA_FILTER_*_FLAGS
_STATUS, _FILTER, _STATUS_MASK = 3, 25, 26
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCE, _DESTINATION = 1, 2  # CTA_IP_V4_*
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_BY_SOURCE, _BY_DESTINATION, _BY_PROTOCOL, _BY_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 5
_DST_NAT = 1 << 5  # IPS_DST_NAT


def forget_strays(ports: Iterable[PortBinding]) -> None:
    """No udp connection to any of *ports* is tracked that was made before the port was published.

    Those that are redirected already are left (Linux 5.18; before it they go too, which can cost an answer that is on
    its way). The kernel walks its whole table: 12 ms at 262144 buckets. Where it cannot delete by port (Linux
    6.1 answers EINVAL) nothing happens: old senders go on as they were until they pause for 30 seconds
    (nf_conntrack_udp_timeout).
    """
    for port in ports:
        if port.protocol == "udp":
            status = _attribute(_STATUS, struct.pack(">I", 0)) + _attribute(_STATUS_MASK, struct.pack(">I", _DST_NAT))
            _delete(_original(port), (_ORIGINAL, _original_flags(port)), status)


def forget_answered(address: str, ports: Iterable[PortBinding] = ()) -> None:
    """No udp connection to the container's *address* is tracked, or none to it by any of *ports*."""
    answer = _attribute(_TUPLE_IP | _NESTED, _attribute(_SOURCE, socket.inet_aton(address)))
    reply = _attribute(_REPLY | _NESTED, answer + _attribute(_TUPLE_PROTO | _NESTED, _UDP))
    udp = [port for port in ports if port.protocol == "udp"]
    for port in udp:
        _delete(_original(port) + reply, (_ORIGINAL, _original_flags(port)), b"", (_REPLY, _BY_SOURCE | _BY_PROTOCOL))
    if not udp:
        _delete(reply, (_REPLY, _BY_SOURCE | _BY_PROTOCOL), b"")


def _original(port: PortBinding) -> bytes:
    protocol = _UDP + _attribute(_PROTO_DST_PORT, struct.pack(">H", port.host_port))
    parts = _attribute(_TUPLE_PROTO | _NESTED, protocol)
    if port.host_ip != ANY:
        parts = _attribute(_TUPLE_IP | _NESTED, _attribute(_DESTINATION, socket.inet_aton(port.host_ip))) + parts
    return _attribute(_ORIGINAL | _NESTED, parts)


def _original_flags(port: PortBinding) -> int:
    return _BY_PROTOCOL | _BY_PORT | (0 if port.host_ip == ANY else _BY_DESTINATION)


def _delete(tuples: bytes, flags: tuple[int, int], status: bytes, more_flags: tuple[int, int] | None = None) -> None:
    """Deletes what matches *tuples* in the fields that the flags of each direction name."""
    filters = b"".join(_attribute(kind, struct.pack("=I", bits)) for kind, bits in filter(None, (flags, more_flags)))
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + tuples + status + _attribute(_FILTER | _NESTED, filters)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
            kernel.send(struct.pack("=IHHII", 16 + len(body), _DELETE, 0x5, 1, 0) + body)
            error = -struct.unpack_from("=i", kernel.recv(4096), 16)[0]
    except OSError as exc:
        error = exc.errno or 0
    if error and error != errno.ENOENT:
        log.debug("udp connections stay tracked: %s", errno.errorcode.get(error, error))


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


_UDP = _attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
