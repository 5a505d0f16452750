"""Which range a network gets: the next of the pool that touches nothing the host can reach already."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import Conflict
from scow_net_bridge.ipam import parse_network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scow_net_bridge.rtnl import Address, Link, Route


class Occupied(NamedTuple):
    """A range that is in use, *by* what (``route of interface tun0``, ``network web``)."""

    network: ipaddress.IPv4Network
    by: str


def of_host(
    routes: Iterable[Route], addresses: Iterable[Address], links: Iterable[Link], own: set[int]
) -> list[Occupied]:
    """The ranges that the host routes or has addresses in, but the default route and the interfaces *own*."""
    names = {link.index: link.name for link in links}
    found = [
        Occupied(route.destination, f"route {route.destination} of interface {names.get(route.index, '(none)')}")
        for route in routes
        if route.destination.prefixlen and route.index not in own
    ]
    found += [
        Occupied(address.interface.network, f"address {address.interface} of interface {names.get(address.index, '?')}")
        for address in addresses
        if address.index not in own
    ]
    return found


def choose(pools: Sequence[ipaddress.IPv4Network], prefix_length: int, occupied: Sequence[Occupied]) -> str:
    """The first range of *prefix_length* in *pools* that overlaps nothing *occupied*.

    Raises `Conflict` naming what does.
    """
    blockers: dict[str, None] = {}
    for candidate in _candidates(pools, prefix_length, occupied):
        clash = next((taken for taken in occupied if taken.network.overlaps(candidate)), None)
        if clash is None:
            return str(candidate)
        blockers.setdefault(clash.by)
    named = ", ".join([*blockers][:4]) + (f" and {len(blockers) - 4} more" if len(blockers) > 4 else "")
    raise Conflict(
        f"no /{prefix_length} range left in the subnet pool {', '.join(map(str, pools))}: taken by {named}",
        hint="remove unused networks, give --subnet, or set another subnet_pool in the config file",
    )


def refuse_clash(wanted: str, occupied: Sequence[Occupied]) -> None:
    """Raises `Conflict` where *wanted* overlaps what is occupied. A wider route (a VPN's) is no clash: ours is more
    exact."""
    network = parse_network(wanted)
    for taken in occupied:
        wider_route = taken.by.startswith("route") and taken.network.prefixlen < network.prefixlen
        if taken.network.overlaps(network) and not wider_route:
            raise Conflict(
                f"subnet {network} overlaps with other one on this address space: {taken.by}",
                hint="choose another --subnet, or none to let scow choose",
            )


def parse_pool(text: str) -> list[ipaddress.IPv4Network]:
    """The ranges of a comma-separated *text*; raises `InvalidArgument`."""
    return [parse_network(part.strip()) for part in text.split(",") if part.strip()]


def _candidates(
    pools: Sequence[ipaddress.IPv4Network], prefix_length: int, occupied: Sequence[Occupied]
) -> Iterator[ipaddress.IPv4Network]:
    """Ranges to try; a pool that lies inside an occupied range is tried once only."""
    for pool in pools:
        if pool.prefixlen >= prefix_length or any(pool.subnet_of(taken.network) for taken in occupied):
            yield pool
        else:
            yield from pool.subnets(new_prefix=prefix_length)
