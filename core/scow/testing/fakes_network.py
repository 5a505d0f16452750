"""A network driver in memory, for unit tests of the engine: addresses and ports are given out, nothing else is made."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from scow.errors import Conflict, NotFound
from scow.ports.network import Attachment, Endpoint, Network, PortBinding, Rates, Subnet

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST_PORT = 49153


@dataclass
class FakeNetworkDriver:
    """Keeps the promises of `scow.testing.network.NetworkContract` without a kernel.

    *fail* is raised by the next `attach`, once. *calls* lists what was called, with ids; *attached* holds what is
    attached now, by endpoint id. *restored* is what `restore` answers.
    """

    sandbox: Literal["new", "host"] = "new"
    fail: Exception | None = None
    restored: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    networks: dict[str, Network] = field(default_factory=dict)
    attached: dict[str, tuple[str, Attachment]] = field(default_factory=dict)

    def check(self) -> None:
        """It works everywhere."""

    def create(self, network: Network) -> Network:
        """The network with a subnet from 10.200.0.0/16, a /24 each."""
        self.calls.append(("create", network.id))
        if network.id in self.networks:
            return self.networks[network.id]
        given = network.subnets[0] if network.subnets else Subnet(self._free_subnet())
        wanted = ipaddress.IPv4Network(given.subnet)
        for other in self.networks.values():
            if ipaddress.IPv4Network(other.subnets[0].subnet).overlaps(wanted):
                raise Conflict(f"subnet {wanted} overlaps with network {other.name}")
        gateway = given.gateway or str(wanted.network_address + 1)
        network = replace(network, subnets=(replace(given, gateway=gateway),))
        self.networks[network.id] = network
        return network

    def remove(self, network: Network) -> None:
        """The network is unknown."""
        self.calls.append(("remove", network.id))
        self.networks.pop(network.id, None)

    def attach(self, network: Network, endpoint: Endpoint, netns: str) -> Attachment:
        """The endpoint has an address and its ports; raises *fail* once where it is set."""
        self.calls.append(("attach", endpoint.id))
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        if network.id not in self.networks:
            raise NotFound(f"network {network.name} does not exist")
        address = self._address(self.networks[network.id], endpoint)
        packed = ipaddress.IPv4Address(address).packed
        attachment = Attachment(
            endpoint_id=endpoint.id,
            interface="eth0",
            mac_address=endpoint.mac_address or "02:42:" + packed.hex(":"),
            ip_address=address,
            prefix_length=ipaddress.IPv4Network(self.networks[network.id].subnets[0].subnet).prefixlen,
            gateway=self.networks[network.id].subnets[0].gateway,
            ports=self._publish(endpoint.ports),
            private={"container": endpoint.container_name},
        )
        self.attached[endpoint.id] = (network.id, attachment)
        return attachment

    def detach(self, network: Network, attachment: Attachment) -> None:
        """The endpoint is unknown."""
        self.calls.append(("detach", attachment.endpoint_id))
        self.attached.pop(attachment.endpoint_id, None)

    def restore(self, networks: Sequence[Network], attachments: Sequence[tuple[Network, Attachment]]) -> list[str]:
        """Exactly *networks* and *attachments* are known; answers *restored*."""
        self.calls.append(("restore", ""))
        self.networks = {network.id: network for network in networks}
        self.attached = {item.endpoint_id: (network.id, item) for network, item in attachments}
        return list(self.restored)

    def close(self) -> None:
        """Nothing is held."""

    def _free_subnet(self) -> str:
        taken = {network.subnets[0].subnet for network in self.networks.values()}
        return next(subnet for n in range(256) if (subnet := f"10.200.{n}.0/24") not in taken)

    def _address(self, network: Network, endpoint: Endpoint) -> str:
        used = {item.ip_address: item.private["container"] for key, item in self.attached.values() if key == network.id}
        if endpoint.ip_address in used:
            raise Conflict(f"address {endpoint.ip_address} is already in use by {used[endpoint.ip_address]}")
        if endpoint.ip_address:
            return endpoint.ip_address
        subnet = network.subnets[0]
        for address in map(str, ipaddress.IPv4Network(subnet.subnet).hosts()):
            if address != subnet.gateway and address not in used:
                return address
        raise Conflict(f"no address left in subnet {subnet.subnet}")

    def _publish(self, ports: Sequence[PortBinding]) -> tuple[PortBinding, ...]:
        held = {(p.protocol, p.host_port): a.private["container"] for _, a in self.attached.values() for p in a.ports}
        made = []
        for port in ports:
            number = port.host_port
            while not number or (not port.host_port and (port.protocol, number) in held):
                number = max(number + 1, _FIRST_PORT)
            address = port.host_ip or "0.0.0.0"
            if (port.protocol, number) in held:
                by = held[port.protocol, number]
                raise Conflict(f"Bind for {address}:{number} failed: port is already allocated (by container {by})")
            held[port.protocol, number] = ""
            made.append(replace(port, host_ip=address, host_port=number))
        return tuple(made)


@dataclass
class FakeShapingDriver(FakeNetworkDriver):
    """One that offers `ShapingDriver.shape`: *shaped* holds the rates by endpoint id; *refuse* is raised once."""

    shaped: dict[str, Rates] = field(default_factory=dict)
    refuse: Exception | None = None

    def shape(self, network: Network, attachment: Attachment, rates: Rates) -> None:
        """The endpoint has *rates*; raises *refuse* once where it is set."""
        self.calls.append(("shape", attachment.endpoint_id))
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            raise error
        if attachment.endpoint_id not in self.attached:
            raise NotFound(f"endpoint {attachment.endpoint_id} is not attached")
        self.shaped[attachment.endpoint_id] = rates

    def detach(self, network: Network, attachment: Attachment) -> None:
        """The endpoint is unknown, and so are its rates."""
        super().detach(network, attachment)
        self.shaped.pop(attachment.endpoint_id, None)
