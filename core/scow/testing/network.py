"""What every network driver promises. Derive from `NetworkContract` and say how your driver is made::

    class TestWireguard(NetworkContract):
        @pytest.fixture
        def make_driver(self, tmp_path):
            return lambda: WireguardDriver(DriverContext("wireguard", tmp_path, tmp_path))

Every test runs in a network namespace of its own as "the host", so that nothing of it is left, and needs root; a driver
that touches no kernel overrides `touches_kernel`. What a driver does not offer it says by the other fixtures.
"""

from __future__ import annotations

import inspect
import os
import socket
from typing import TYPE_CHECKING

import pytest

from scow.errors import Conflict, NotFound
from scow.ports.network import Attachment, Endpoint, Network, NetworkDriver, PortBinding, Rates, ShapingDriver, Subnet
from scow.testing.namespaces import EchoServer, Namespace, ask, inside, set_up, throughput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeDriver = Callable[[], NetworkDriver]
    MakeSandbox = Callable[[], str]


class NetworkContract:
    """The promises of `scow.ports.network.NetworkDriver`, one test each."""

    # --- what a driver overrides ---------------------------------------------

    @pytest.fixture
    def make_driver(self) -> MakeDriver:
        """Makes a driver object; called twice in one test it is the same engine after a restart."""
        raise NotImplementedError("override the make_driver fixture")

    @pytest.fixture
    def touches_kernel(self) -> bool:
        """Whether sandboxes are real network namespaces, through which packets go."""
        return True

    @pytest.fixture
    def has_addresses(self) -> bool:
        """Whether endpoints get addresses of the network's subnet."""
        return True

    @pytest.fixture
    def publishes_ports(self, has_addresses: bool) -> bool:
        """Whether ports are published on the host."""
        return has_addresses

    @pytest.fixture
    def limits_rates(self, driver: NetworkDriver) -> bool:
        """Whether the driver has the optional capability `ShapingDriver`."""
        return isinstance(driver, ShapingDriver)

    # --- what the tests use --------------------------------------------------

    @pytest.fixture
    def host(self, touches_kernel: bool) -> Iterator[Namespace | None]:
        """The test is in a namespace of its own, which is the driver's host."""
        if not touches_kernel:
            yield None
            return
        if os.geteuid():
            pytest.skip("needs root: makes network namespaces")
        namespace = Namespace()
        with inside(namespace):
            set_up("lo")
            yield namespace
        namespace.close()

    @pytest.fixture
    def sandboxes(self, host: Namespace | None) -> Iterator[dict[str, Namespace]]:
        """The sandboxes made by `sandbox`, by path."""
        made: dict[str, Namespace] = {}
        yield made
        for namespace in made.values():
            namespace.close()

    @pytest.fixture
    def sandbox(self, host: Namespace | None, driver: NetworkDriver, sandboxes: dict[str, Namespace]) -> MakeSandbox:
        """Makes the sandbox of another container and answers its path, as the engine would."""

        def make() -> str:
            if driver.sandbox == "host" or host is None:
                return ""
            namespace = Namespace()
            sandboxes[namespace.path] = namespace
            return namespace.path

        return make

    @pytest.fixture
    def driver(self, host: Namespace | None, make_driver: MakeDriver) -> Iterator[NetworkDriver]:
        driver = make_driver()
        driver.check()
        yield driver
        driver.close()

    @pytest.fixture
    def network(self, driver: NetworkDriver) -> Iterator[Network]:
        network = driver.create(Network("a" * 64, "front", "any"))
        yield network
        driver.remove(network)

    # --- the driver itself ---------------------------------------------------

    def test_it_implements_the_protocol(self, driver: NetworkDriver) -> None:
        assert isinstance(driver, NetworkDriver)
        assert driver.sandbox in ("new", "host")

    def test_its_methods_take_what_the_protocol_says(self, driver: NetworkDriver) -> None:
        for name, method in inspect.getmembers(NetworkDriver, inspect.isfunction):
            if not name.startswith("_"):
                wanted = list(inspect.signature(method).parameters)[1:]
                assert list(inspect.signature(getattr(driver, name)).parameters) == wanted, name

    def test_closing_twice_is_no_error(self, driver: NetworkDriver) -> None:
        driver.close()
        driver.close()

    # --- networks ------------------------------------------------------------

    def test_creating_a_network_again_answers_the_same(self, driver: NetworkDriver, network: Network) -> None:
        assert driver.create(network) == network

    def test_a_network_gets_a_subnet_with_a_gateway(self, network: Network, has_addresses: bool) -> None:
        assert bool(network.subnets) == has_addresses
        assert all(subnet.subnet and subnet.gateway for subnet in network.subnets)

    def test_two_networks_get_different_subnets(
        self, driver: NetworkDriver, network: Network, has_addresses: bool
    ) -> None:
        other = driver.create(Network("b" * 64, "back", "any"))
        if has_addresses:
            assert other.subnets[0].subnet != network.subnets[0].subnet
        driver.remove(other)

    def test_a_subnet_of_another_network_is_refused_by_name(
        self, driver: NetworkDriver, network: Network, has_addresses: bool
    ) -> None:
        if has_addresses:
            with pytest.raises(Conflict, match="front"):
                driver.create(Network("b" * 64, "back", "any", subnets=(Subnet(network.subnets[0].subnet),)))

    def test_removing_a_network_leaves_no_interface_and_twice_is_no_error(self, driver: NetworkDriver) -> None:
        before = socket.if_nameindex()
        network = driver.create(Network("b" * 64, "back", "any"))
        driver.remove(network)
        driver.remove(network)
        assert socket.if_nameindex() == before

    # --- endpoints -----------------------------------------------------------

    def test_an_attachment_names_its_endpoint_and_an_address_of_the_network(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, has_addresses: bool
    ) -> None:
        attachment = driver.attach(network, endpoint(1), sandbox())
        assert attachment.endpoint_id == endpoint(1).id
        assert bool(attachment.ip_address) == has_addresses
        if has_addresses:
            assert attachment.ip_address != network.subnets[0].gateway
            assert attachment.gateway == network.subnets[0].gateway
            assert attachment.interface and attachment.mac_address and attachment.prefix_length
        driver.detach(network, attachment)

    def test_detaching_twice_is_no_error(self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox) -> None:
        attachment = driver.attach(network, endpoint(1), sandbox())
        driver.detach(network, attachment)
        driver.detach(network, attachment)

    def test_the_asked_address_is_given_and_refused_to_a_second(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, has_addresses: bool
    ) -> None:
        if has_addresses:
            address = tenth(network)
            first = driver.attach(network, endpoint(1, ip_address=address), sandbox())
            assert first.ip_address == address
            with pytest.raises(Conflict, match=address):
                driver.attach(network, endpoint(2, ip_address=address), sandbox())
            driver.detach(network, first)
            again = driver.attach(network, endpoint(2, ip_address=address), sandbox())
            assert again.ip_address == address
            driver.detach(network, again)

    def test_a_network_without_addresses_left_says_so(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, has_addresses: bool
    ) -> None:
        if not has_addresses:
            return
        subnet = str(network.subnets[0].subnet).split("/")[0] + "/30"
        driver.remove(network)
        small = driver.create(Network("b" * 64, "small", "any", subnets=(Subnet(subnet),)))
        first = driver.attach(small, endpoint(1), sandbox())
        with pytest.raises(Conflict, match="no address left"):
            driver.attach(small, endpoint(2), sandbox())
        driver.detach(small, first)
        driver.remove(small)

    def test_attaching_to_a_network_that_was_not_created_is_not_found(
        self, driver: NetworkDriver, sandbox: MakeSandbox, has_addresses: bool
    ) -> None:
        if has_addresses:
            with pytest.raises(NotFound, match="nowhere"):
                driver.attach(Network("c" * 64, "nowhere", "any"), endpoint(1), sandbox())

    def test_two_containers_of_a_network_reach_each_other(
        self,
        driver: NetworkDriver,
        network: Network,
        sandbox: MakeSandbox,
        sandboxes: dict[str, Namespace],
        has_addresses: bool,
        touches_kernel: bool,
    ) -> None:
        if not (has_addresses and touches_kernel):
            return
        paths = [sandbox(), sandbox()]
        attached = [driver.attach(network, endpoint(n), path) for n, path in enumerate(paths)]
        server = sandboxes[paths[0]].run(lambda: EchoServer("one", 80))
        answer = sandboxes[paths[1]].run(lambda: ask(attached[0].ip_address, 80))
        server.close()
        assert answer == f"one {attached[1].ip_address}"
        for attachment in attached:
            driver.detach(network, attachment)

    # --- published ports -----------------------------------------------------

    def test_a_published_port_answers_from_the_host(
        self,
        driver: NetworkDriver,
        network: Network,
        sandbox: MakeSandbox,
        sandboxes: dict[str, Namespace],
        publishes_ports: bool,
        touches_kernel: bool,
    ) -> None:
        if not (publishes_ports and touches_kernel):
            return
        path = sandbox()
        attachment = driver.attach(network, endpoint(1, ports=(PortBinding(80, "tcp", "", 8080),)), path)
        server = sandboxes[path].run(lambda: EchoServer("one", 80))
        assert ask("127.0.0.1", 8080).startswith("one ")
        driver.detach(network, attachment)
        assert ask("127.0.0.1", 8080) == ""
        server.close()

    def test_port_0_is_replaced_by_a_free_port_and_the_address_filled_in(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, publishes_ports: bool
    ) -> None:
        ports = (PortBinding(80), PortBinding(53, "udp"))
        attachment = driver.attach(network, endpoint(1, ports=ports), sandbox())
        assert len(attachment.ports) == (2 if publishes_ports else 0)
        assert all(port.host_port and port.host_ip for port in attachment.ports)
        driver.detach(network, attachment)

    def test_a_taken_port_is_refused_in_dockers_words_and_nothing_is_left(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, publishes_ports: bool
    ) -> None:
        if not publishes_ports:
            return
        wanted = PortBinding(80, "tcp", "", 8080)
        address = tenth(network)
        first = driver.attach(network, endpoint(1, ports=(wanted,)), sandbox())
        with pytest.raises(Conflict, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated.*web1"):
            driver.attach(network, endpoint(2, ip_address=address, ports=(PortBinding(81), wanted)), sandbox())
        driver.detach(network, first)
        second = driver.attach(network, endpoint(2, ip_address=address, ports=(wanted,)), sandbox())
        driver.detach(network, second)

    # --- rates (an optional capability) --------------------------------------

    def test_shape_takes_what_the_protocol_says(self, driver: NetworkDriver, limits_rates: bool) -> None:
        if limits_rates:
            wanted = list(inspect.signature(ShapingDriver.shape).parameters)[1:]
            assert list(inspect.signature(shaping(driver).shape).parameters) == wanted

    def test_rates_twice_changed_and_lifted_are_no_error_and_go_with_the_endpoint(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, limits_rates: bool, touches_kernel: bool
    ) -> None:
        if not limits_rates:
            return
        before = socket.if_nameindex()
        attachment = driver.attach(network, endpoint(1), sandbox())
        attached = socket.if_nameindex()
        for rates in (Rates(10**7, 10**6), Rates(10**7, 10**6), Rates(0, 10**7), Rates(10**7, 0), Rates(), Rates()):
            shaping(driver).shape(network, attachment, rates)
        assert socket.if_nameindex() == attached
        shaping(driver).shape(network, attachment, Rates(10**7, 10**7))
        driver.detach(network, attachment)
        driver.close()  # what is done in the background is done
        if touches_kernel:
            assert socket.if_nameindex() == before

    def test_shaping_what_is_not_attached_is_not_found(
        self, driver: NetworkDriver, network: Network, sandbox: MakeSandbox, limits_rates: bool
    ) -> None:
        if not limits_rates:
            return
        attachment = driver.attach(network, endpoint(1), sandbox())
        driver.detach(network, attachment)
        driver.close()
        with pytest.raises(NotFound):
            shaping(driver).shape(network, attachment, Rates(10**7, 10**7))

    @pytest.mark.parametrize("direction", ["in", "out"])
    def test_a_rate_is_held_in_each_direction(
        self,
        driver: NetworkDriver,
        network: Network,
        sandbox: MakeSandbox,
        sandboxes: dict[str, Namespace],
        limits_rates: bool,
        touches_kernel: bool,
        direction: str,
    ) -> None:
        if not (limits_rates and touches_kernel):
            return
        paths = [sandbox(), sandbox()]
        attached = [driver.attach(network, endpoint(n), path) for n, path in enumerate(paths)]
        rate = 16_000_000
        rates = Rates(in_bits=rate) if direction == "in" else Rates(out_bits=rate)
        shaping(driver).shape(network, attached[0], rates)
        sender, receiver = (1, 0) if direction == "in" else (0, 1)
        measured = throughput(sandboxes[paths[sender]], sandboxes[paths[receiver]], attached[receiver].ip_address)
        assert measured < 1.1 * rate
        assert measured > 0.5 * rate  # nothing makes it faster, but a busy machine may be slow
        for attachment in attached:
            driver.detach(network, attachment)

    # --- restart -------------------------------------------------------------

    def test_restoring_what_is_there_repairs_nothing_and_holds_ports_and_addresses(
        self,
        driver: NetworkDriver,
        make_driver: MakeDriver,
        network: Network,
        sandbox: MakeSandbox,
        has_addresses: bool,
        publishes_ports: bool,
    ) -> None:
        wanted = PortBinding(80, "tcp", "", 8080)
        attachment = driver.attach(network, endpoint(1, ports=(wanted,)), sandbox())
        driver.close()
        after = make_driver()
        assert after.restore([network], [(network, attachment)]) == []
        if publishes_ports:
            with pytest.raises(Conflict, match="port is already allocated"):
                after.attach(network, endpoint(2, ports=(wanted,)), sandbox())
        if has_addresses:
            with pytest.raises(Conflict, match="in use"):
                after.attach(network, endpoint(2, ip_address=attachment.ip_address), sandbox())
        after.detach(network, attachment)
        after.remove(network)
        after.close()


def shaping(driver: NetworkDriver) -> ShapingDriver:
    """*driver*, which has that capability."""
    assert isinstance(driver, ShapingDriver)
    return driver


def endpoint(number: int, *, name: str = "", ip_address: str = "", ports: tuple[PortBinding, ...] = ()) -> Endpoint:
    """The endpoint of a container called *name* or ``web<number>``."""
    identity = f"{number:011x}".ljust(64, "e")
    return Endpoint(identity, "a" * 64, f"{number:064x}", name or f"web{number}", ip_address, "", ports)


def tenth(network: Network) -> str:
    """The tenth address of the network's subnet."""
    base, _, _ = network.subnets[0].subnet.partition("/")
    return base.rsplit(".", 1)[0] + f".{int(base.rsplit('.', 1)[1]) + 10}"


__all__ = ["Attachment", "NetworkContract", "endpoint", "tenth"]
