"""Route netlink: links, addresses and routes of the network namespace in which a socket was opened.

Requests are encoded by pyroute2's message classes and sent on a plain socket, several in one system call: pyroute2's
own `IPRoute` runs an asyncio loop per call, which costs more than the kernel does (a veth with its peer: 1.0-1.8 ms
against 0.55 ms). Answers are few and fixed in layout, so they are read here. pyroute2 is imported at the first request
(140 ms). rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_IFF_UP = 1
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_RTN_UNICAST = 1
_RTPROT_BOOT = 3
_HEADER = struct.Struct("=IHHII")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_MTU = 1, 3, 5, 10, 18, 20, 4
_IFLA_OPERSTATE = 16
_IFLA_INFO_KIND = 1
_CARRYING = (0, 6)  # IF_OPER_UNKNOWN, IF_OPER_UP
_ADDR_GEN_NONE = 1


class Request(NamedTuple):
    """One encoded request; *what* names it in errors."""

    data: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. *peer* is the index of a veth's other end, *master* that of its bridge, 0 for none.

    *up* is what was asked for; *carries* whether packets go through (RFC 2863 operational state up or unknown).
    """

    index: int
    name: str
    kind: str
    mac_address: str
    mtu: int
    master: int
    peer: int
    alias: str
    up: bool
    carries: bool


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address of an interface, with the network that it is in."""

    index: int
    interface: ipaddress.IPv4Interface


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route of any table but the local one; *index* is its interface, 0 where it has none."""

    index: int
    destination: ipaddress.IPv4Network
    table: int


def add_bridge(name: str, mac_address: str, mtu: int) -> Request:
    """A bridge with a fixed address: one without takes its ports' and changes it when they go."""
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", mac_address),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}),
    ]
    return _link(_NEWLINK, CREATE | EXCL, {}, attributes, f"add bridge {name}")


def add_veth(name: str, bridge: int, mtu: int, netns: int, peer_name: str, peer_mac: str) -> Request:
    """A veth that is up and a port of *bridge*, its peer born in the namespace *netns*.

    *peer_name* may be ``eth%d``: the kernel then chooses the first free number. The peer cannot be born up (veth_open
    answers ENOTCONN before the two know each other, Linux 6.18).
    """
    peer = [("IFLA_IFNAME", peer_name), ("IFLA_NET_NS_FD", netns), ("IFLA_ADDRESS", peer_mac), ("IFLA_MTU", mtu)]
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_MASTER", bridge),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}),
    ]
    fields = {"flags": _IFF_UP, "change": _IFF_UP}
    return _link(_NEWLINK, CREATE | EXCL, fields, attributes, f"add interface {name}")


def add_ifb(name: str, mtu: int) -> Request:
    """An intermediate functional block that is up: it gives back what is redirected to it, where it came from."""
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]}),
    ]
    return _link(_NEWLINK, CREATE | EXCL, {"flags": _IFF_UP, "change": _IFF_UP}, attributes, f"add interface {name}")


def set_up(index: int) -> Request:
    """The interface is up."""
    return _link(_NEWLINK, 0, {"index": index, "flags": _IFF_UP, "change": _IFF_UP}, [], f"set interface {index} up")


def set_master(index: int, bridge: int) -> Request:
    """The interface is a port of *bridge*."""
    return _link(_NEWLINK, 0, {"index": index}, [("IFLA_MASTER", bridge)], f"put interface {index} into a bridge")


def set_alias(index: int, alias: str) -> Request:
    """``ip link`` shows *alias* (255 bytes at most) beside the interface."""
    return _link(_NEWLINK, 0, {"index": index}, [("IFLA_IFALIAS", alias)], f"set alias of interface {index}")


def set_port(index: int, *, isolated: bool, hairpin: bool) -> Request:
    """The bridge port exchanges no frames with other *isolated* ports (Linux 4.18); with *hairpin* a frame may leave by
    the port that it came from."""
    data = {"attrs": [("IFLA_BRPORT_ISOLATED", int(isolated)), ("IFLA_BRPORT_MODE", int(hairpin))]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]}
    return _link(_NEWLINK, 0, {"index": index}, [("IFLA_LINKINFO", info)], f"set up port {index} of a bridge")


def without_ipv6(index: int) -> Request:
    """The interface makes itself no link-local IPv6 address when it comes up."""
    family = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]})]}
    return _link(_NEWLINK, 0, {"index": index}, [("IFLA_AF_SPEC", family)], f"set interface {index} without ipv6")


def delete_link(index: int) -> Request:
    """The interface is gone (a veth with its peer, a bridge without its ports)."""
    return _link(_DELLINK, 0, {"index": index}, [], f"delete interface {index}")


def add_address(index: int, address: str, prefix_length: int) -> Request:
    """The interface has the IPv4 *address*."""
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    broadcast = ipaddress.IPv4Interface(f"{address}/{prefix_length}").network.broadcast_address
    attributes: list[tuple[str, Any]] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if prefix_length < 31:
        attributes.append(("IFA_BROADCAST", str(broadcast)))
    fields = {"family": socket.AF_INET, "prefixlen": prefix_length, "index": index}
    return _encode(ifaddrmsg(), _NEWADDR, CREATE | EXCL, fields, attributes, f"add address {address}")


def add_default_route(index: int, gateway: str, metric: int) -> Request:
    """The default route goes to *gateway*; the one with the least *metric* is used."""
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    attributes: list[tuple[str, Any]] = [("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    if metric:
        attributes.append(("RTA_PRIORITY", metric))
    fields = {"family": socket.AF_INET, "table": _TABLE_MAIN, "proto": _RTPROT_BOOT, "type": _RTN_UNICAST}
    return _encode(rtmsg(), _NEWROUTE, CREATE | EXCL, fields, attributes, f"add default route by {gateway}")


def raw(kind: int, flags: int, body: bytes, what: str) -> Request:
    """A request whose *body* (family header and attributes) was encoded elsewhere."""
    header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACK | flags, 0, 0)
    return Request(header + body, what)


class RouteSocket:
    """A netlink socket; it stays with the network namespace of the thread that opened it. For one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """The socket is closed; twice is no error."""
        self._socket.close()

    def ask(self, *requests: Request) -> None:
        """Every request was carried out, in order; raises `SyscallError` for the first that was refused.

        They go in one system call; the kernel tries the later ones even where an earlier one failed.
        """
        batch = bytearray()
        for request in requests:
            at = len(batch)
            self._sequence += 1
            batch += request.data
            struct.pack_into("=I", batch, at + 8, self._sequence)
        self._socket.send(batch)
        failed: SyscallError | None = None
        for request in requests:
            error, text = _ack(self._socket.recv(4096))
            if error and failed is None:
                failed = SyscallError(error, f"netlink: {request.what}", hint=text or None)
        if failed is not None:
            raise failed

    def links(self, master: int = 0) -> list[Link]:
        """Every interface of the namespace, or the ports of the bridge *master*."""
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        if master:
            body += struct.pack("=HHI", 8, _IFLA_MASTER, master)
        return [_read_link(message) for message in self._dump(_GETLINK, body)]

    def link(self, index: int) -> Link:
        """The interface *index*; raises `SyscallError` where there is none.

        Since Linux 6.10 the kernel first does what is due after a change of its carrier (linkwatch_sync_dev): an
        interface that has just got one carries packets afterwards.
        """
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + 16, _GETLINK, _REQUEST, self._sequence, 0)
        self._socket.send(header + struct.pack("=BxHiII", 0, 0, index, 0, 0))
        data = self._socket.recv(1 << 16)
        if struct.unpack_from("=H", data, 4)[0] == _ERROR:
            raise SyscallError(_ack(data)[0], f"netlink: look at interface {index}")
        return _read_link(data[_HEADER.size :])

    def addresses(self) -> list[Address]:
        """Every IPv4 address of the namespace."""
        found = []
        for message in self._dump(_GETADDR, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0)):
            prefix, index = message[1], struct.unpack_from("=I", message, 4)[0]
            parts = _attributes(message[8:])
            local = parts.get(2) or parts.get(1)
            if local:
                found.append(Address(index, ipaddress.IPv4Interface((local, prefix))))
        return found

    def routes(self) -> list[Route]:
        """Every IPv4 route of the namespace but those of the local table."""
        found = []
        for message in self._dump(_GETROUTE, struct.pack("=BBBBBBBBI", socket.AF_INET, *([0] * 8))):
            parts = _attributes(message[12:])
            table = struct.unpack("=I", parts[15])[0] if 15 in parts else message[4]
            if table == _TABLE_LOCAL or message[7] != _RTN_UNICAST:
                continue
            index = struct.unpack("=I", parts[4])[0] if 4 in parts else 0
            found.append(Route(index, ipaddress.IPv4Network((parts.get(1, b"\0\0\0\0"), message[1])), table))
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, _REQUEST | _DUMP, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(1 << 17)
            at = 0
            while at < len(data):
                length, found = struct.unpack_from("=IH", data, at)
                if found == _DONE:
                    return
                if found == _ERROR:
                    raise SyscallError(_ack(data[at:])[0], "netlink: dump")
                yield data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3


def _link(kind: int, flags: int, fields: dict[str, int], attributes: Sequence[tuple[str, Any]], what: str) -> Request:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    return _encode(ifinfmsg(), kind, flags, fields, attributes, what)


def _encode(
    message: Any, kind: int, flags: int, fields: dict[str, int], attributes: Sequence[tuple[str, Any]], what: str
) -> Request:
    message["header"]["type"] = kind
    message["header"]["flags"] = _REQUEST | _ACK | flags
    message["header"]["sequence_number"] = 0
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message.encode()
    data = bytes(message.data)
    return Request(data + bytes(-len(data) % 4), what)


def _ack(data: bytes) -> tuple[int, str]:
    """errno and the kernel's explanation of an acknowledgement (struct nlmsgerr with NETLINK_EXT_ACK)."""
    error = -struct.unpack_from("=i", data, _HEADER.size)[0]
    text = _attributes(data[_HEADER.size + 4 + _HEADER.size :]).get(1, b"") if error else b""
    return error, os.fsdecode(text.rstrip(b"\0"))


def _attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by type, without the nested and byte-order flags."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _read_link(message: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", message, 4)
    parts = _attributes(message[16:])
    info = _attributes(parts.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(parts.get(_IFLA_IFNAME)),
        kind=_text(info.get(_IFLA_INFO_KIND)),
        mac_address=parts.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(parts.get(_IFLA_MTU)),
        master=_number(parts.get(_IFLA_MASTER)),
        peer=_number(parts.get(_IFLA_LINK)),
        alias=_text(parts.get(_IFLA_IFALIAS)),
        up=bool(flags & _IFF_UP),
        carries=parts.get(_IFLA_OPERSTATE, b"\0")[0] in _CARRYING,
    )


def _text(data: bytes | None) -> str:
    return os.fsdecode((data or b"").rstrip(b"\0"))


def _number(data: bytes | None) -> int:
    return struct.unpack("=I", data)[0] if data else 0
