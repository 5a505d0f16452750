"""One nftables table per engine: address translation, published ports and the isolation of networks.

Published ports are elements of two maps, so that adding one is one transaction on one element however many there are
(0.2 ms), and rules are the same for every network. Everything that the table should hold is kept here too: a table that
was flushed by somebody else (``nft flush ruleset``, a restart of the host's firewall) is written again, in one
transaction, when that is noticed. nft(8), libnftables-json(5).
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scow.errors import ScowError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scow.ports.network import PortBinding

log = logging.getLogger(__name__)

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}  # numbers: a minimal host has no /etc/protocols
_COMPARED = ("bridges", "published", "published_any")
_library = threading.Lock()  # libnftables keeps parser state of its own: one call at a time in a process
_local = threading.local()

# Chains. `raw` (-300) comes before connection tracking: replies to translated loopback connections still carry the
# bridge's address there, so what it drops is only what was sent to 127/8 from outside (route_localnet lets it in).
# Ports on 127.0.0.1 are thus reached from this host alone; what is routed straight to a container was not translated
# and is dropped in `forward`. `hairpin`: a container that asks for a port of its own network gets the answer by way of
# the host; not by interface, since postrouting of a bridged packet has no input interface (br_netfilter, Linux 6.18).
_TABLE = """
table inet {table} {{
    map published {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    set bridges {{ type ifname; }}
    set internal {{ type ifname; }}
    set within {{ type ifname . ifname; }}
    set masqueraded {{ type ipv4_addr; flags interval; }}
    set hairpin {{ type ipv4_addr . ipv4_addr; flags interval; }}
    chain raw {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "lo" ip daddr 127.0.0.0/8 drop
    }}
    chain publish {{
        dnat ip to ip daddr . meta l4proto . th dport map @published
        dnat ip to meta l4proto . th dport map @published_any
    }}
    chain prerouting {{
        type nat hook prerouting priority -100; policy accept;
        meta l4proto {{ 6, 17, 132 }} fib daddr type local jump publish
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        meta l4proto {{ 6, 17, 132 }} fib daddr type local jump publish
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        oifname @bridges ip saddr 127.0.0.0/8 masquerade
        ct status dnat ip saddr . ip daddr @hairpin masquerade
        ip saddr @masqueraded oifname != @bridges masquerade
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname @bridges jump ours
        oifname @bridges jump ours
    }}
    chain ours {{
        ct state established,related accept
        iifname . oifname @within accept
        iifname @internal drop
        oifname @internal drop
        ct status dnat accept
        oifname @bridges drop
        accept
    }}
}}
"""


class FirewallError(ScowError):
    """nftables refused a transaction; the message is its own."""


@dataclass(frozen=True, slots=True)
class Side:
    """What the firewall knows of one network."""

    bridge: str
    subnet: str
    internal: bool = False
    masquerade: bool = True


@dataclass(frozen=True, slots=True)
class Redirect:
    """A published port: packets for *binding* go to *address*."""

    binding: PortBinding
    address: str

    @property
    def anywhere(self) -> bool:
        """Whether it is published on every address of the host."""
        return self.binding.host_ip in ("", "0.0.0.0")

    @property
    def key(self) -> str:
        """Its key in the map, in nft's syntax."""
        number = PROTOCOLS[self.binding.protocol]
        prefix = "" if self.anywhere else f"{self.binding.host_ip} . "
        return f"{prefix}{number} . {self.binding.host_port}"

    @property
    def map(self) -> str:
        """The map that holds it."""
        return "published_any" if self.anywhere else "published"

    @property
    def element(self) -> str:
        """Key and target, in nft's syntax."""
        return f"{self.key} : {self.address} . {self.binding.container_port}"


class Firewall:
    """The table *table* of one engine. Safe for several threads."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._sides: dict[str, Side] = {}
        self._redirects: dict[tuple[str, str], Redirect] = {}
        self._lock = threading.Lock()

    def add_network(self, side: Side) -> None:
        """The network's rules are in force; idempotent."""
        with self._lock:
            first = not self._sides
            self._sides[side.bridge] = side
            # A table that a former daemon left is added to, not replaced: its ports stay published until `replace`.
            self._apply(self._side_lines("add", side), expected=not first)

    def remove_network(self, bridge: str) -> None:
        """The network's rules are gone, and the table with the last of them. No error where there were none."""
        with self._lock:
            side = self._sides.pop(bridge, None)
            if not self._sides:
                _run(f"add table inet {self.table}\ndelete table inet {self.table}\n")
            elif side is not None:
                self._apply(self._side_lines("delete", side))

    def publish(self, bindings: Iterable[PortBinding], address: str) -> None:
        """Packets for *bindings* go to *address*, from the next new connection on."""
        redirects = [Redirect(binding, address) for binding in bindings]
        with self._lock:
            self._redirects.update({(item.map, item.key): item for item in redirects})
            self._apply(self._element_lines("add", redirects))

    def withdraw(self, bindings: Iterable[PortBinding]) -> None:
        """*bindings* are no longer redirected; connections that exist go on. No error where they were not."""
        with self._lock:
            gone = []
            for binding in bindings:
                redirect = Redirect(binding, "0.0.0.0")
                known = self._redirects.pop((redirect.map, redirect.key), None)
                if known is not None:
                    gone.append(known)
            self._apply(self._element_lines("delete", gone))

    def held(self) -> dict[str, set[str]] | None:
        """What the table holds in the kernel now, for `replace`; None where there is no table."""
        return _elements(self.table)

    def replace(
        self, sides: Iterable[Side], redirects: Iterable[Redirect], before: dict[str, set[str]] | None
    ) -> list[str]:
        """The table holds exactly *sides* and *redirects*; answers one line for each thing by which *before* (see
        `held`) was different."""
        with self._lock:
            self._sides = {side.bridge: side for side in sides}
            self._redirects = {(item.map, item.key): item for item in redirects}
            if self._sides:
                self._rebuild()
            elif before is not None:
                _run(f"delete table inet {self.table}\n")
            return self._differences(before)

    def _differences(self, before: dict[str, set[str]] | None) -> list[str]:
        if before is None:
            return [f"nft table inet {self.table} was missing"] if self._sides else []
        wanted: dict[str, set[str]] = {"published": set(), "published_any": set()}
        for redirect in self._redirects.values():
            wanted[redirect.map].add(redirect.element)
        wanted["bridges"] = set(self._sides)
        found = []
        for name, elements in wanted.items():
            has = before.get(name, set())
            found += [f"nft {name} lacked {element}" for element in sorted(elements - has)]
            found += [f"nft {name} held unknown {element}" for element in sorted(has - elements)]
        return found

    def _apply(self, lines: str, *, expected: bool = True) -> None:
        """Carries out *lines*; where the table is not what it should be, writes it anew from what is known here."""
        if not lines:
            return
        try:
            _run(lines)
        except FirewallError as exc:
            if expected:
                log.warning("nft table inet %s was changed from outside and is written again: %s", self.table, exc)
            self._rebuild()

    def _rebuild(self) -> None:
        lines = [f"add table inet {self.table}\ndelete table inet {self.table}\n", _TABLE.format(table=self.table)]
        lines += [self._side_lines("add", side) for side in self._sides.values()]
        lines.append(self._element_lines("add", self._redirects.values()))
        _run("".join(lines))

    def _side_lines(self, verb: str, side: Side) -> str:
        name = f'"{side.bridge}"'
        elements = {"bridges": name, "within": f"{name} . {name}", "hairpin": f"{side.subnet} . {side.subnet}"}
        if side.internal:
            elements["internal"] = name
        if side.masquerade and not side.internal:
            elements["masqueraded"] = side.subnet
        return "".join(f"{verb} element inet {self.table} {key} {{ {value} }}\n" for key, value in elements.items())

    def _element_lines(self, verb: str, redirects: Iterable[Redirect]) -> str:
        by_map: dict[str, list[str]] = {}
        for redirect in redirects:
            by_map.setdefault(redirect.map, []).append(redirect.element if verb == "add" else redirect.key)
        return "".join(
            f"{verb} element inet {self.table} {name} {{ {', '.join(elements)} }}\n"
            for name, elements in by_map.items()
        )


def load() -> None:
    """libnftables is there and answers; raises `FirewallError` or the loader's OSError."""
    _run("list tables\n")


def _context() -> Any:
    """This thread's libnftables context. It must not serve two threads, and its socket stays with the network namespace
    that it was made in: a thread that is in another one now gets another context."""
    namespace = os.stat("/proc/thread-self/ns/net").st_ino
    if getattr(_local, "namespace", 0) != namespace:
        from nftables import Nftables

        context = Nftables()
        context.set_numeric_proto_output(True)
        _local.context, _local.namespace = context, namespace
    return _local.context


def _run(script: str, *, as_json: bool = False) -> str:
    """Carries out *script* in one transaction. Another program's transaction in between makes the kernel answer
    ERESTART or EAGAIN: then once more."""
    context = _context()
    for _ in range(5):
        with _library:
            context.set_json_output(as_json)
            code, output, error = context.cmd(script)
        if not code:
            return str(output)
        if "Interrupted system call" not in error and "Resource temporarily unavailable" not in error:
            break
    raise FirewallError("nft: " + " ".join(error.split("\n")[0].split()), hint=None)


def _elements(table: str) -> dict[str, set[str]] | None:
    """What the maps and sets of the table hold, in the syntax of `Redirect.element`; None where there is no table."""
    try:
        listing = json.loads(_run(f"list table inet {table}\n", as_json=True))
    except FirewallError:
        return None
    found = {}
    for item in listing["nftables"]:
        body = item.get("map") or item.get("set")
        if body and body["name"] in _COMPARED:
            found[body["name"]] = {_text(element) for element in body.get("elem", [])}
    return found


def _text(element: Any) -> str:
    if isinstance(element, list):  # a map's element: key and value
        return f"{_text(element[0])} : {_text(element[1])}"
    if isinstance(element, dict) and "concat" in element:
        return " . ".join(_text(part) for part in element["concat"])
    if isinstance(element, dict) and "elem" in element:
        return _text(element["elem"]["val"])
    return str(PROTOCOLS.get(element, element))
