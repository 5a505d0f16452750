"""Addresses of one subnet: given out in turn, so that one which was freed is used again as late as possible."""

from __future__ import annotations

import ipaddress
import itertools
import threading
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import Conflict, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.ports.network import Subnet


class Grant(NamedTuple):
    """An address, and the interface that must be deleted before it may be used (``""``: none)."""

    address: str
    interface: str = ""


class AddressPool:
    """The addresses of *subnet*. *exists* says whether a host interface is still there. Safe for several threads.

    A freed address is *leaving* while the interface of its last holder exists: that goes with its network namespace, in
    the background. Such an address is given out only when asked for by name or when nothing else is left.
    """

    def __init__(self, subnet: Subnet, exists: Callable[[str], bool]) -> None:
        self.network = parse_network(subnet.subnet)
        addresses = parse_network(subnet.ip_range) if subnet.ip_range else self.network
        if not addresses.subnet_of(self.network):
            raise InvalidArgument(f"ip range {addresses} is not inside subnet {self.network}")
        self.gateway = parse_address(subnet.gateway) if subnet.gateway else first_host(self.network)
        if self.gateway not in self.network:
            raise InvalidArgument(f"gateway {self.gateway} is not inside subnet {self.network}")
        edge = self.network.prefixlen < 31
        self._first: int = max(int(addresses.network_address), int(self.network.network_address) + edge)
        self._last: int = min(int(addresses.broadcast_address), int(self.network.broadcast_address) - edge)
        self._next: int = self._first
        self._exists = exists
        self._lock = threading.Lock()
        self._owners: dict[int, str] = {int(self.gateway): "the gateway"}
        self._leaving: dict[int, str] = {}

    def allocate(self, owner: str, wanted: str = "") -> Grant:
        """An address that is *owner*'s until `release`; *wanted* or the next free one.

        Raises `Conflict` where it is taken or none is left, `InvalidArgument` where *wanted* is not of the subnet.
        """
        with self._lock:
            number = self._claim(wanted) if wanted else self._find()
            self._owners[number] = owner
            interface = self._leaving.pop(number, "")
            if interface and not self._exists(interface):
                interface = ""
            return Grant(str(ipaddress.IPv4Address(number)), interface)

    def hold(self, address: str, owner: str) -> None:
        """*address* is *owner*'s, whatever was before (after a restart)."""
        with self._lock:
            number = int(ipaddress.IPv4Address(address))
            self._owners[number] = owner
            if self._first <= number <= self._last:
                self._next = max(self._next, number + 1)

    def release(self, address: str, interface: str = "") -> None:
        """*address* is free again once *interface* is gone. No error where it was free."""
        number = int(ipaddress.IPv4Address(address))
        with self._lock:
            if number != int(self.gateway) and self._owners.pop(number, None) is not None and interface:
                self._leaving[number] = interface

    def _claim(self, wanted: str) -> int:
        address = parse_address(wanted)
        number: int = int(address)
        ends = (self.network.network_address, self.network.broadcast_address)
        if address not in self.network or (self.network.prefixlen < 31 and address in ends):
            raise InvalidArgument(f"address {address} is not a host address of subnet {self.network}")
        if number in self._owners:
            raise Conflict(f"address {address} is already in use by {self._owners[number]}")
        return number

    def _find(self) -> int:
        for number in itertools.chain(range(self._next, self._last + 1), range(self._first, self._next)):
            if number not in self._owners and self._has_left(number):
                self._next = number + 1
                return number
        for number in self._leaving:
            if self._first <= number <= self._last and number not in self._owners:
                return number
        raise Conflict(
            f"no address left in subnet {self.network}: {len(self._owners)} in use",
            hint="remove containers from the network, or make it anew with a larger --subnet",
        )

    def _has_left(self, number: int) -> bool:
        interface = self._leaving.get(number)
        if interface is None:
            return True
        if self._exists(interface):
            return False
        del self._leaving[number]
        return True


def first_host(network: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    """The first address that a host of *network* may have."""
    return network.network_address + (1 if network.prefixlen < 31 else 0)


def parse_network(text: str) -> ipaddress.IPv4Network:
    """*text* as an IPv4 subnet (host bits are dropped, as Docker does); raises `InvalidArgument`."""
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError as exc:
        raise InvalidArgument(f"subnet {text!r} is no ipv4 range in CIDR form: {exc}") from exc


def parse_address(text: str) -> ipaddress.IPv4Address:
    """*text* as an IPv4 address; raises `InvalidArgument`."""
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as exc:
        raise InvalidArgument(f"{text!r} is no ipv4 address") from exc
