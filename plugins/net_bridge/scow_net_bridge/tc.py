"""Requests for traffic control: queueing disciplines and filters of an interface.

Encoded here: pyroute2 0.9 knows neither TCA_TBF_BURST nor TCA_TBF_RATE64, without which tbf counts in the kernel's
ticks and ends at 34 gbit. rtnetlink(7), linux/pkt_sched.h, linux/pkt_cls.h; as in Linux 6.18, unchanged since 3.13.
"""

from __future__ import annotations

import socket
import struct

from scow_net_bridge.rtnl import CREATE, EXCL, REPLACE, Request, raw

_NEWQDISC, _DELQDISC, _NEWTFILTER = 36, 37, 44
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # parents
_BUCKET, _INGRESS_HANDLE = 0x10000, 0xFFFF0000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_U32_SEL, _U32_ACT = 5, 7
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_LINKLAYER_ETHERNET = 1
_U32_TERMINAL = 1
_U32_ITEM = 0x80000001  # the first item of the first hash table: so that a second one like it is refused
_REDIRECT, _STOLEN = 1, 4  # TCA_EGRESS_REDIR, TC_ACT_STOLEN
_EVERY_PROTOCOL = socket.htons(0x0003)  # ETH_P_ALL
_U32_MAX = 0xFFFFFFFF
_BURST_S, _WAIT_S = 0.02, 0.05
_FRAMES = 4


def limit(index: int, bits: int, mtu: int) -> Request:
    """What leaves by the interface leaves at *bits* per second; where there was another rate it is changed, and what
    waits goes on waiting.

    The bucket holds 20 ms of the rate, so that a timer that comes late (a tick is 4 ms at 250 HZ; a virtual machine may
    be away for longer) costs no rate, and at least four frames; 50 ms wait, more is dropped. tc-tbf(8).
    """
    rate = max(1, bits // 8)
    burst = min(max(int(rate * _BURST_S), _FRAMES * (mtu + 64)), _U32_MAX)
    queue = min(burst + int(rate * _WAIT_S), _U32_MAX)
    ratespec = struct.pack("=BBHhHI", 0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _U32_MAX))
    parameters = ratespec + bytes(12) + struct.pack("=III", queue, 0, 0)  # no peak rate; burst as an attribute
    options = _attribute(_TBF_PARMS, parameters) + _attribute(_TBF_BURST, struct.pack("=I", burst))
    if rate > _U32_MAX:
        options += _attribute(_TBF_RATE64, struct.pack("=Q", rate))
    attributes = _kind("tbf") + _attribute(_TCA_OPTIONS, options)
    return _request(_NEWQDISC, CREATE | REPLACE, (index, _BUCKET, _ROOT, 0), attributes, f"limit interface {index}")


def lift(index: int) -> Request:
    """What leaves by the interface leaves as it comes; ENOENT where that was so."""
    return _request(_DELQDISC, 0, (index, _BUCKET, _ROOT, 0), b"", f"lift the limit of interface {index}")


def add_ingress(index: int) -> Request:
    """Filters can be set on what comes in by the interface; EEXIST where they could be before."""
    return _request(
        _NEWQDISC, CREATE | EXCL, (index, _INGRESS_HANDLE, _INGRESS, 0), _kind("ingress"), f"filter interface {index}"
    )


def remove_ingress(index: int) -> Request:
    """Nothing filters what comes in by the interface; EINVAL or ENOENT where that was so."""
    return _request(_DELQDISC, 0, (index, _INGRESS_HANDLE, _INGRESS, 0), b"", f"stop filtering interface {index}")


def redirect(index: int, to: int) -> Request:
    """All that comes in by the interface *index* goes through the interface *to* first; EEXIST where it does."""
    key = struct.pack("=IIii", 0, 0, 0, 0)  # an empty mask: every packet
    selection = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + key
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, to)
    action = _attribute(_ACT_KIND, b"mirred\0") + _attribute(_ACT_OPTIONS, _attribute(_MIRRED_PARMS, mirred))
    options = _attribute(_U32_SEL, selection) + _attribute(_U32_ACT, _attribute(1, action))
    attributes = _kind("u32") + _attribute(_TCA_OPTIONS, options)
    priority = 1 << 16
    fields = index, _U32_ITEM, _INGRESS_HANDLE, priority | _EVERY_PROTOCOL
    return _request(_NEWTFILTER, CREATE | EXCL, fields, attributes, f"redirect interface {index} to {to}")


def _request(kind: int, flags: int, fields: tuple[int, int, int, int], attributes: bytes, what: str) -> Request:
    """*fields* are index, handle, parent and info of a struct tcmsg."""
    return raw(kind, flags, struct.pack("=BxHiIII", socket.AF_UNSPEC, 0, *fields) + attributes, what)


def _kind(name: str) -> bytes:
    return _attribute(_TCA_KIND, name.encode() + b"\0")


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
