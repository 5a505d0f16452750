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
_TUPLE_ORIG, _TUPLE_IP, _TUPLE_PROTO, _FILTER = 1, 1, 2, 25
_IP_V4_DST, _PROTO_NUM, _PROTO_DST_PORT, _FILTER_ORIG_FLAGS = 2, 1, 3, 1
_BY_ADDRESS, _BY_PROTOCOL, _BY_PORT = 1 << 1, 1 << 3, 1 << 5


def forget_udp(ports: Iterable[PortBinding]) -> None:
    """No tracked udp connection was made to any of *ports*.

    Where the kernel cannot delete by port (before Linux 5.8) nothing happens, and old senders go on as they were until
    they pause for 30 seconds (nf_conntrack_udp_timeout).
    """
    wanted = {(port.host_ip, port.host_port) for port in ports if port.protocol == "udp"}
    if not wanted:
        return
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
            for address, port in wanted:
                kernel.send(_request(address, port))
                error = -struct.unpack_from("=i", kernel.recv(4096), 16)[0]
                if error and error != errno.ENOENT:
                    log.debug("connections to udp port %d stay tracked: %s", port, errno.errorcode.get(error, error))
    except OSError as exc:
        log.debug("connections to udp ports stay tracked: %s", exc)


def _request(address: str, port: int) -> bytes:
    flags = _BY_PROTOCOL | _BY_PORT
    inner = b""
    if address not in ("", ANY):
        flags |= _BY_ADDRESS
        inner = _attribute(_TUPLE_IP | _NESTED, _attribute(_IP_V4_DST, socket.inet_aton(address)))
    protocol = _attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    protocol += _attribute(_PROTO_DST_PORT, struct.pack(">H", port))
    inner += _attribute(_TUPLE_PROTO | _NESTED, protocol)
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + _attribute(_TUPLE_ORIG | _NESTED, inner)
    body += _attribute(_FILTER | _NESTED, _attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", flags)))
    return struct.pack("=IHHII", 16 + len(body), _DELETE, 0x5, 1, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
