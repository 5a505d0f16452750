"""The bridge driver: a Linux bridge per network, a veth pair per endpoint, one nftables table per engine."""

from __future__ import annotations

import ipaddress
import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from scow.errors import Conflict, DriverUnusable, InvalidArgument, NotFound, ScowError, SyscallError, Unsupported
from scow.ports.network import Attachment, Subnet
from scow_net_bridge import bridges, conntrack, firewall, rtnl, shaping, subnets
from scow_net_bridge.bridges import BridgeOptions
from scow_net_bridge.ipam import AddressPool
from scow_net_bridge.later import Later
from scow_net_bridge.ports import PortReservations
from scow_net_bridge.sandbox import Interface, close_namespace, configure, find_peer, open_namespace, open_socket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.ports import DriverContext
    from scow.ports.network import Endpoint, Network, PortBinding, Rates

log = logging.getLogger(__name__)
_DEFAULT_POOL = "172.29.0.0/16"
_NETWORK_PREFIX, _DEFAULT_NETWORK_PREFIX = 24, 20
_VETH = "veth"
_GRACE_S = 0.5  # a dead namespace takes its veth along well before; deleting one holds the kernel's network lock 24 ms


@dataclass(frozen=True, slots=True)
class _Live:
    """A network that exists in the kernel."""

    network: Network
    options: BridgeOptions
    index: int
    mtu: int
    pool: AddressPool

    @property
    def prefix_length(self) -> int:
        return self.pool.network.prefixlen

    @property
    def gateway(self) -> ipaddress.IPv4Interface:
        return ipaddress.IPv4Interface(f"{self.pool.gateway}/{self.prefix_length}")


class BridgeDriver:
    """Networks of the kind ``bridge``. Settings: ``bridge``, ``subnet_pool``, ``nft_table``; options: none."""

    sandbox: Literal["new", "host"] = "new"

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._pools = subnets.parse_pool(context.settings.get("subnet_pool") or _DEFAULT_POOL)
        self._firewall = firewall.Firewall(context.settings.get("nft_table") or "scow")
        self._ports = PortReservations()
        self._later = Later()
        self._live: dict[str, _Live] = {}
        self._changing = threading.Lock()  # one network is made or removed at a time

    def check(self) -> None:
        """Raises `DriverUnusable` where libnftables or the right to change the network is missing."""
        try:
            firewall.load()
        except (OSError, ImportError) as exc:
            raise DriverUnusable(
                f"libnftables cannot be loaded: {exc}", hint="install it, on Debian with apt install libnftables1"
            ) from exc
        except ScowError as exc:
            raise DriverUnusable(f"the firewall cannot be changed: {exc}", hint="run scowd as root") from exc
        self._warm_up()

    def create(self, network: Network) -> Network:
        """See `scow.ports.network.NetworkDriver.create`."""
        with self._changing:
            known = self._live.get(network.id)
            network = self._with_subnet(network) if known is None else known.network
            live = self._make(network)[0]
            self._live[network.id] = live
        self._warm_up()
        return network

    def remove(self, network: Network) -> None:
        """See `scow.ports.network.NetworkDriver.remove`."""
        with self._changing:
            self._live.pop(network.id, None)
            name = BridgeOptions.of(network).bridge
            self._firewall.remove_network(name)
            with rtnl.RouteSocket() as host:
                for link in host.links():
                    if link.name == name and link.alias == self._owner + network.id:
                        bridges.delete(host, link.index)

    def attach(self, network: Network, endpoint: Endpoint, netns: str) -> Attachment:
        """See `scow.ports.network.NetworkDriver.attach`."""
        live = self._find(network)
        owner = endpoint.container_name or endpoint.container_id[:12]
        name = _VETH + endpoint.id[:11]
        with ExitStack() as undo:
            grant = live.pool.allocate(owner, endpoint.ip_address)
            undo.callback(live.pool.release, grant.address)
            ports = self._reserve(live, endpoint.ports, owner)
            undo.callback(self._ports.release, ports)
            with rtnl.RouteSocket() as host:
                if grant.interface:
                    bridges.delete(host, bridges.find(grant.interface))
                mac = endpoint.mac_address or mac_of(grant.address)
                interface = self._plug(undo, host, live, name, grant.address, mac, netns)
                self._set_port(host, live, name, bool(ports))
                bridges.wait_until_carrying(host, bridges.find(name), live.index)
            undo.callback(self._firewall.withdraw, ports)
            self._firewall.publish(ports, grant.address)
            undo.pop_all()
        self._forget_udp(grant.address, ports)
        return Attachment(
            endpoint_id=endpoint.id,
            interface=interface.name,
            mac_address=mac,
            ip_address=grant.address,
            prefix_length=live.prefix_length,
            gateway="" if network.internal else str(live.pool.gateway),
            ports=ports,
            private={"veth": name, "container": owner},
        )

    def detach(self, network: Network, attachment: Attachment) -> None:
        """See `scow.ports.network.NetworkDriver.detach`. Where the namespace lives on (the container was only
        disconnected) the interface is deleted in the background, within a second."""
        self._firewall.withdraw(attachment.ports)
        self._ports.release(attachment.ports)
        veth = attachment.private.get("veth", "")
        live = self._live.get(network.id)
        if live is not None and attachment.ip_address:
            live.pool.release(attachment.ip_address, veth)
        index = bridges.find(veth) if veth else 0
        if index:
            self._later.run(_GRACE_S, partial(_clear, veth, index))
        shaped = bridges.find(shaping.device_of(veth)) if veth else 0
        if shaped:
            self._later.run(_GRACE_S, partial(_clear, shaping.device_of(veth), shaped))
        if any(port.protocol == "udp" for port in attachment.ports):
            self._later.run(0, partial(conntrack.forget_answered, attachment.ip_address))

    def publish(self, network: Network, attachment: Attachment, ports: Sequence[PortBinding]) -> Attachment:
        """The endpoint's published ports are exactly *ports*, while it runs: those that it had already go on without a
        gap. Answers the attachment as it is now. Raises as `attach` does; then nothing has changed."""
        live = self._find(network)
        wanted = {(port.container_port, port.protocol, port.host_ip or "0.0.0.0", port.host_port) for port in ports}
        kept = [p for p in attachment.ports if (p.container_port, p.protocol, p.host_ip, p.host_port) in wanted]
        have = {(p.container_port, p.protocol, p.host_ip, p.host_port) for p in kept}
        fresh = [p for p in ports if (p.container_port, p.protocol, p.host_ip or "0.0.0.0", p.host_port) not in have]
        added = self._reserve(live, fresh, attachment.private.get("container", ""))
        try:
            with rtnl.RouteSocket() as host:
                self._set_port(host, live, attachment.private.get("veth", ""), bool(kept or added))
            self._firewall.publish(added, attachment.ip_address)
        except ScowError:
            self._ports.release(added)
            raise
        gone = [port for port in attachment.ports if port not in kept]
        self._firewall.withdraw(gone)
        self._ports.release(gone)
        self._forget_udp(attachment.ip_address, added, gone)
        return replace(attachment, ports=(*kept, *added))

    def shape(self, network: Network, attachment: Attachment, rates: Rates) -> None:
        """See `scow.ports.network.ShapingDriver.shape`."""
        live = self._find(network)
        veth = attachment.private.get("veth", "")
        index = bridges.find(veth)
        if not index:
            raise NotFound(f"interface {veth} in network {network.name} is gone")
        alias = self._rates_owner + attachment.endpoint_id
        with rtnl.RouteSocket() as host:
            shaping.from_container(host, index, shaping.device_of(veth), alias, rates.out_bits, live.mtu)
            shaping.towards_container(host, index, rates.in_bits, live.mtu)

    def restore(self, networks: Sequence[Network], attachments: Sequence[tuple[Network, Attachment]]) -> list[str]:
        """See `scow.ports.network.NetworkDriver.restore`."""
        repaired: list[str] = []
        with self._changing:
            before = self._firewall.held()
            for network in networks:
                repaired += self._restore_network(network)
            redirects = []
            for network, attachment in attachments:
                redirects += [firewall.Redirect(port, attachment.ip_address) for port in attachment.ports]
                repaired += self._restore_attachment(network, attachment)
            repaired += self._firewall.replace([_side(live) for live in self._live.values()], redirects, before)
            repaired += self._remove_strangers({a.private.get("veth", "") for _, a in attachments})
        self._warm_up()
        return repaired

    def close(self) -> None:
        """See `scow.ports.network.NetworkDriver.close`."""
        self._later.close()
        self._ports.close()

    def _forget_udp(self, address: str, added: Sequence[PortBinding], gone: Sequence[PortBinding] = ()) -> None:
        """Senders of udp find the ports as they are now, in some 15 ms: sooner than a container can answer."""
        if any(port.protocol == "udp" for port in added):
            self._later.run(0, partial(conntrack.forget_strays, added))
        if any(port.protocol == "udp" for port in gone):
            self._later.run(0, partial(conntrack.forget_answered, address, gone))

    def _find(self, network: Network) -> _Live:
        live = self._live.get(network.id)
        if live is None:
            raise NotFound(f"network {network.name} does not exist in the kernel")
        return live

    @property
    def _owner(self) -> str:
        """How the alias of each of this engine's bridges begins."""
        return f"{self._context.engine}/{self._firewall.table} network "

    @property
    def _rates_owner(self) -> str:
        """How the alias of each device begins that holds a rate of one of this engine's endpoints."""
        return f"{self._context.engine}/{self._firewall.table} rate of "

    def _warm_up(self) -> None:
        """pyroute2 is imported before the first container waits for it (140 ms)."""
        threading.Thread(target=rtnl.set_up, args=(0,), name="scow-import-pyroute2", daemon=True).start()

    def _with_subnet(self, network: Network) -> Network:
        """*network* with its one subnet complete; raises `Conflict`, `InvalidArgument` or `Unsupported`."""
        if network.ipv6 or any(":" in item.subnet for item in network.subnets):
            raise Unsupported(f"network {network.name}: the bridge driver has no ipv6", hint="leave ipv6 out")
        if len(network.subnets) > 1:
            raise InvalidArgument(
                f"network {network.name}: the bridge driver takes one subnet, not {len(network.subnets)}"
            )
        given = network.subnets[0] if network.subnets else Subnet("")
        name = BridgeOptions.of(network).bridge
        occupied, is_there = self._occupied(network, name)
        if given.subnet:
            if not is_there:
                subnets.refuse_clash(given.subnet, occupied)
            chosen = given.subnet
        else:
            default = name == self._context.settings.get("bridge")
            chosen = subnets.choose(self._pools, _DEFAULT_NETWORK_PREFIX if default else _NETWORK_PREFIX, occupied)
        pool = AddressPool(replace(given, subnet=chosen), bridges.exists)
        subnet = Subnet(str(pool.network), str(pool.gateway), given.ip_range)
        return replace(network, subnets=(subnet,))

    def _occupied(self, network: Network, bridge: str) -> tuple[list[subnets.Occupied], bool]:
        """The ranges in use, and whether *network* is in the kernel already (from before a restart)."""
        taken = [subnets.Occupied(live.pool.network, f"network {live.network.name}") for live in self._live.values()]
        with rtnl.RouteSocket() as host:
            links = host.links()
            own = {bridge, *(live.options.bridge for live in self._live.values())}
            skip = {link.index for link in links if link.name in own}
            is_there = any(link.alias == self._owner + network.id for link in links)
            return taken + subnets.of_host(host.routes(), host.addresses(), links, skip), is_there

    def _make(self, network: Network) -> tuple[_Live, list[str]]:
        """*network* exists in the kernel, its firewall rules too; answers what had to be done."""
        options = BridgeOptions.of(network)
        known = self._live.get(network.id)
        pool = known.pool if known else AddressPool(network.subnets[0], bridges.exists)
        gateway = ipaddress.IPv4Interface(f"{pool.gateway}/{pool.network.prefixlen}")
        with rtnl.RouteSocket() as host, ExitStack() as undo:
            present = bridges.exists(options.bridge)
            done = bridges.make(host, options.bridge, self._owner, network.id, gateway, options.mtu)
            index = bridges.find(options.bridge)
            if not present:
                undo.callback(bridges.delete, host, index)
            done += bridges.allow_forwarding(options.bridge)
            mtu = next(link.mtu for link in host.links() if link.index == index)
            live = _Live(network, options, index, mtu, pool)
            self._firewall.add_network(_side(live))
            undo.pop_all()
        return live, done

    def _reserve(self, live: _Live, ports: Sequence[PortBinding], owner: str) -> tuple[PortBinding, ...]:
        """*ports* on real host addresses and ports. A network without a way out publishes nothing, as with Docker."""
        if live.network.internal:
            return ()
        if live.options.host_ip:
            ports = [replace(port, host_ip=port.host_ip or live.options.host_ip) for port in ports]
        return self._ports.reserve(ports, owner)

    def _plug(
        self, undo: ExitStack, host: rtnl.RouteSocket, live: _Live, name: str, address: str, mac: str, netns: str
    ) -> Interface:
        """The sandbox has an interface with *address*, whose other end *name* is a port of the network's bridge."""
        with ExitStack() as opened:
            namespace = open_namespace(netns)
            opened.callback(close_namespace, namespace)
            template = f"{live.options.interface_prefix}%d"
            host.ask(rtnl.add_veth(name, live.index, live.mtu, namespace, template, mac))
            index = bridges.find(name)
            undo.callback(_delete, index)
            inside = opened.enter_context(open_socket(namespace))
            interface = find_peer(inside, index)
            gateway = "" if live.network.internal else str(live.pool.gateway)
            configure(inside, interface, address, live.prefix_length, gateway)
            return interface

    def _set_port(self, host: rtnl.RouteSocket, live: _Live, veth: str, published: bool) -> None:
        """The port lets a container reach itself by its published port, and no other where the network forbids it.

        With br_netfilter a frame for a published port of its own sender is bridged back, not routed: hairpin.
        """
        if published or live.options.isolate_containers:
            request = rtnl.set_port(bridges.find(veth), isolated=live.options.isolate_containers, hairpin=published)
            host.ask(request)

    def _restore_network(self, network: Network) -> list[str]:
        try:
            live, done = self._make(network)
        except (Conflict, SyscallError) as exc:
            return [f"network {network.name} could not be made again: {exc}"]
        self._live[network.id] = live
        return [f"network {network.name}: {line}" for line in done]

    def _restore_attachment(self, network: Network, attachment: Attachment) -> list[str]:
        owner = attachment.private.get("container", attachment.endpoint_id[:12])
        live = self._live.get(network.id)
        if live is None:
            return []
        live.pool.hold(attachment.ip_address, owner)
        done = []
        for port in attachment.ports:
            problem = self._ports.adopt(port, owner)
            if problem:
                done.append(f"container {owner}: port {port.host_port}/{port.protocol} is not held: {problem}")
        veth = attachment.private.get("veth", "")
        index = bridges.find(veth)
        if not index:
            return [*done, f"container {owner}: its interface {veth} in network {network.name} is gone"]
        with rtnl.RouteSocket() as host:
            if all(link.index != index for link in host.links(live.index)):
                host.ask(rtnl.set_master(index, live.index))
                self._set_port(host, live, veth, bool(attachment.ports))
                done.append(f"container {owner}: interface {veth} put back into {live.options.bridge}")
        return done

    def _remove_strangers(self, known: set[str]) -> list[str]:
        """Bridges of this engine that no network has, and interfaces of its that no endpoint has, are gone."""
        done = []
        mine = {live.index for live in self._live.values()}
        shaped = {shaping.device_of(veth) for veth in known if veth}
        with rtnl.RouteSocket() as host:
            for link in host.links():
                lost = link.alias.startswith(self._owner) and link.index not in mine
                unplugged = link.master in mine and link.name.startswith(_VETH) and link.name not in known
                idle = link.alias.startswith(self._rates_owner) and link.name not in shaped
                if lost or idle or (unplugged and link.kind == "veth"):
                    bridges.delete(host, link.index)
                    done.append(f"{'bridge' if lost else 'interface'} {link.name} removed: nobody owns it")
        return done


def mac_of(address: str) -> str:
    """The MAC address for *address*, as Docker derives it: the same whenever the address is used, so that neighbours'
    caches stay right."""
    return "02:42:" + ipaddress.IPv4Address(address).packed.hex(":")


def _clear(veth: str, index: int) -> None:
    """The host interface of a detached endpoint is gone."""
    if bridges.find(veth) == index:
        _delete(index)


def _delete(index: int) -> None:
    with rtnl.RouteSocket() as host:
        bridges.delete(host, index)


def _side(live: _Live) -> firewall.Side:
    return firewall.Side(live.options.bridge, str(live.pool.network), live.network.internal, live.options.masquerade)
