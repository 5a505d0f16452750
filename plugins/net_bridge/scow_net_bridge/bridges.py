"""A network's Linux bridge: made, found again, mended and removed. Mechanism; what is whose is the driver's."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.errors import Conflict, InvalidArgument, SyscallError, Unavailable
from scow_net_bridge import rtnl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.ports.network import Network
    from scow_net_bridge.rtnl import Link, RouteSocket

log = logging.getLogger(__name__)
_MAX_NAME = 15  # IFNAMSIZ without the terminating zero
_DEFAULT_MTU = 1500
_PREFIX = "com.docker.network."


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """The driver options of one network, in Docker's names. *mtu* 0: as the host's default route has it."""

    bridge: str
    mtu: int
    interface_prefix: str
    isolate_containers: bool
    masquerade: bool
    host_ip: str

    @classmethod
    def of(cls, network: Network) -> BridgeOptions:
        """The options of *network*; raises `InvalidArgument` for a value that cannot be used."""
        options = network.options
        name = options.get(f"{_PREFIX}bridge.name") or f"br-{network.id[:12]}"
        if len(name) > _MAX_NAME or "/" in name or '"' in name or name in (".", "..") or name.split() != [name]:
            raise InvalidArgument(f"bridge name {name!r} is no interface name (1 to {_MAX_NAME} characters, no spaces)")
        mtu = options.get(f"{_PREFIX}driver.mtu") or "0"
        if not mtu.isdigit() or (int(mtu) and not 68 <= int(mtu) <= 65535):
            raise InvalidArgument(f"mtu {mtu!r} of network {network.name} is not a number from 68 to 65535")
        return cls(
            bridge=name,
            mtu=int(mtu),
            interface_prefix=options.get(f"{_PREFIX}container_iface_prefix") or "eth",
            isolate_containers=not _flag(options, f"{_PREFIX}bridge.enable_icc"),
            masquerade=_flag(options, f"{_PREFIX}bridge.enable_ip_masquerade"),
            host_ip=options.get(f"{_PREFIX}bridge.host_binding_ipv4") or "",
        )


def find(name: str) -> int:
    """The index of the host's interface *name*, 0 for none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def exists(name: str) -> bool:
    """Whether the host has an interface *name*."""
    return find(name) != 0


def make(
    host: RouteSocket, name: str, owner: str, network: str, gateway: ipaddress.IPv4Interface, mtu: int
) -> list[str]:
    """The bridge is there, up, with *gateway* as its address; answers what had to be done.

    Its alias names *owner* (the engine) and *network*. One that has it already is kept; one of a network that the same
    engine no longer knows (its data root was deleted) is replaced. Raises `Conflict` where the name is somebody else's.
    """
    links = {link.name: link for link in host.links()}
    alias = owner + network
    done = []
    if name in links and links[name].alias != alias and links[name].alias.startswith(owner):
        delete(host, links.pop(name).index)
        done.append(f"bridge {name} of a former network removed")
    if name not in links:
        digest = hashlib.sha256(alias.encode()).digest()
        host.ask(rtnl.add_bridge(name, "02:42:" + digest[:4].hex(":"), mtu or uplink_mtu(host, links)))
        done.append(f"bridge {name} made")
        host.ask(rtnl.set_alias(find(name), alias))
    elif links[name].alias != alias:
        raise Conflict(
            f"interface {name} exists already" + (f" ({links[name].alias})" if links[name].alias else ""),
            hint=f"choose another name with the option {_PREFIX}bridge.name",
        )
    index = find(name)
    if gateway not in [address.interface for address in host.addresses() if address.index == index]:
        host.ask(rtnl.add_address(index, str(gateway.ip), gateway.network.prefixlen))
        done.append(f"address {gateway} of bridge {name} set")
    if name not in links or not links[name].up:
        host.ask(rtnl.set_up(index))
        done.append(f"bridge {name} set up")
    return done


def delete(host: RouteSocket, index: int) -> None:
    """The interface is gone. No error where there was none."""
    try:
        host.ask(rtnl.delete_link(index))
    except SyscallError as exc:
        if exc.errno != 19:  # ENODEV
            raise


def wait_until_carrying(host: RouteSocket, *indices: int) -> None:
    """Packets go through each of the interfaces; after 0.2 s we go on regardless.

    A veth's host end gets its carrier when its peer is set up, but the kernel starts its queue, and the bridge forwards
    to it, later and in the background. A packet meanwhile is lost, and the next ARP request comes a second later.
    """
    deadline = time.monotonic() + 0.2
    for index in indices:
        while not host.link(index).carries and time.monotonic() < deadline:
            time.sleep(0.001)


def uplink_mtu(host: RouteSocket, links: Mapping[str, Link]) -> int:
    """The mtu of the default route's interface, 1500 at most: larger packets would be dropped where path MTU discovery
    is (VPNs, clouds)."""
    uplinks = {route.index for route in host.routes() if not route.destination.prefixlen}
    return min([link.mtu for link in links.values() if link.index in uplinks and link.mtu >= 1280] + [_DEFAULT_MTU])


def allow_forwarding(bridge: str) -> list[str]:
    """The host forwards packets, and *bridge* takes answers to connections from 127.0.0.1; answers what was changed.

    The firewall drops what is sent to 127/8 from outside, which the second setting would let in.
    """
    done = []
    if _set_sysctl(f"ipv4/conf/{bridge}/route_localnet", "1"):
        log.debug("route_localnet set for %s", bridge)
    if _set_sysctl("ipv4/ip_forward", "1"):
        done.append("net.ipv4.ip_forward set to 1")
        log.warning("net.ipv4.ip_forward set to 1: this host now forwards packets between its interfaces")
    return done


def _set_sysctl(name: str, value: str) -> bool:
    path = f"/proc/sys/net/{name}"
    try:
        with open(path, encoding="ascii") as file:
            if file.read().strip() == value:
                return False
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as exc:
        raise Unavailable(f"{path} cannot be set to {value}: {(exc.strerror or str(exc)).lower()}") from exc
    return True


def _flag(options: Mapping[str, str], name: str) -> bool:
    return options.get(name, "true").lower() not in ("false", "0", "f")
