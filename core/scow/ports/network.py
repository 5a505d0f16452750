"""Network drivers: networks, and the endpoints by which containers (sandboxes) join them."""

from __future__ import annotations

from collections.abc import Mapping  # at run time: the state decodes these values by their annotations
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Subnet:
    """One address range: *subnet* in CIDR, *gateway* an address in it, *ip_range* a smaller CIDR to allocate from."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A network as the engine keeps it. *options* are the driver options (``com.docker.network.bridge.name`` …)."""

    id: str
    name: str
    driver: str
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortBinding:
    """*container_port*/*protocol* of the container is reached by *host_ip*:*host_port*.

    ``host_ip`` is ``""`` for every address; ``host_port`` 0 asks the driver to choose.
    """

    container_port: int
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = ""
    host_port: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place in a network, before the driver has filled in what it chose."""

    id: str
    network_id: str
    container_id: str
    container_name: str
    ip_address: str = ""
    mac_address: str = ""
    ports: tuple[PortBinding, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the driver made of an endpoint; core stores it and gives it back to `restore` and `detach`.

    *ports* are the bindings with their real host address and port. *interface* is the name inside the sandbox.
    """

    endpoint_id: str
    interface: str = ""
    mac_address: str = ""
    ip_address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    ports: tuple[PortBinding, ...] = ()
    private: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rates:
    """How much a container may receive (*in_bits*) and send (*out_bits*), in bits per second; 0 is no limit."""

    in_bits: int = 0
    out_bits: int = 0

    @property
    def limited(self) -> bool:
        """Whether one of the sides has a limit."""
        return bool(self.in_bits or self.out_bits)


@runtime_checkable
class NetworkDriver(Protocol):
    """Makes networks in the Linux kernel. It keeps no state on disk: core tells it again by `restore`.

    *sandbox* says what a container in such a network gets: ``"new"`` a network namespace of its own (loopback is up
    when `attach` is called), ``"host"`` that of the host; then `attach` is called with an empty *netns*.
    """

    sandbox: Literal["new", "host"]

    def check(self) -> None:
        """Raise `DriverUnusable` where this host cannot serve the driver."""

    def create(self, network: Network) -> Network:
        """The network exists in the kernel; answered with its subnets filled in.

        Idempotent for the same id. Raises `Conflict` where a subnet or an interface name is taken, naming by what.
        """

    def remove(self, network: Network) -> None:
        """Nothing of the network is left in the kernel; no error where there was nothing."""

    def attach(self, network: Network, endpoint: Endpoint, netns: str) -> Attachment:
        """The sandbox at path *netns* (``/proc/<pid>/ns/net``) has an interface, address and routes, and its ports
        are published. All or nothing: after an exception nothing of the endpoint is left.

        Raises `Conflict` for a port or address in use (naming it and, where known, by what), `NotFound` for a network
        that was not created.
        """

    def detach(self, network: Network, attachment: Attachment) -> None:
        """The endpoint's ports are no longer published and its address is free again. The interface itself goes with
        its namespace and is not waited for. No error where it was not attached."""

    def restore(self, networks: Sequence[Network], attachments: Sequence[tuple[Network, Attachment]]) -> list[str]:
        """After a restart of the daemon (or of the host): what the kernel lacks of *networks* and of the
        *attachments* of running containers is made again, and what it has beyond them is removed. Returns one line
        for each thing repaired."""

    def close(self) -> None:
        """Releases what the driver holds in this process (sockets, threads); networks and ports go on."""


@runtime_checkable
class ShapingDriver(Protocol):
    """What a `NetworkDriver` has besides where it can limit rates: an optional capability, known by its method."""

    def shape(self, network: Network, attachment: Attachment, rates: Rates) -> None:
        """From now on the endpoint receives and sends at *rates* and no faster, whatever is tried inside the container;
        a rate of 0 is lifted. Traffic that flows goes on. The same rates twice are no error, and `detach` removes what
        was made for them.

        Raises `NotFound` where the interface is gone, `Unsupported` where the kernel lacks what is needed, naming it.
        """
