"""The bridge driver's addresses, subnets and options: what is given out, and what is refused with which words."""

from __future__ import annotations

import ipaddress

import pytest

from scow.errors import Conflict, InvalidArgument
from scow.ports.network import Network, PortBinding, Subnet
from scow_net_bridge.bridges import BridgeOptions
from scow_net_bridge.driver import mac_of
from scow_net_bridge.firewall import Redirect
from scow_net_bridge.ipam import AddressPool
from scow_net_bridge.subnets import Occupied, choose, parse_pool, refuse_clash


def pool(subnet: str, gateway: str = "", ip_range: str = "", present: tuple[str, ...] = ()) -> AddressPool:
    return AddressPool(Subnet(subnet, gateway, ip_range), lambda name: name in present)


def test_addresses_go_round_and_a_freed_one_comes_last() -> None:
    addresses = pool("10.0.0.0/29")
    assert [addresses.allocate("a").address for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    addresses.release("10.0.0.2")
    assert [addresses.allocate("a").address for _ in range(3)] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_an_exhausted_subnet_is_named() -> None:
    addresses = pool("10.0.0.0/30")
    addresses.allocate("a")
    with pytest.raises(Conflict, match=r"no address left in subnet 10\.0\.0\.0/30: 2 in use"):
        addresses.allocate("b")


def test_range_and_gateway_are_honoured() -> None:
    addresses = pool("10.0.0.0/24", "10.0.0.129", "10.0.0.128/30")
    assert [addresses.allocate("a").address for _ in range(3)] == ["10.0.0.128", "10.0.0.130", "10.0.0.131"]
    with pytest.raises(Conflict):
        addresses.allocate("a")
    assert addresses.allocate("a", "10.0.0.7").address == "10.0.0.7"  # outside the range when asked for by name


def test_an_asked_address_that_is_taken_names_its_owner() -> None:
    addresses = pool("10.0.0.0/24")
    addresses.allocate("web", "10.0.0.9")
    with pytest.raises(Conflict, match=r"10\.0\.0\.9 is already in use by web"):
        addresses.allocate("other", "10.0.0.9")
    with pytest.raises(Conflict, match="the gateway"):
        addresses.allocate("other", "10.0.0.1")


@pytest.mark.parametrize("address", ["10.0.1.1", "10.0.0.0", "10.0.0.255", "x"])
def test_an_address_that_is_none_of_the_subnet_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match=address):
        pool("10.0.0.0/24").allocate("a", address)


def test_an_address_waits_for_its_interface_to_go() -> None:
    addresses = pool("10.0.0.0/29", present=("veth1",))
    first = addresses.allocate("a").address
    addresses.release(first, "veth1")
    others = [addresses.allocate("b").address for _ in range(4)]
    assert first not in others
    assert addresses.allocate("c") == (first, "veth1")  # the last one left: the caller deletes the interface


def test_the_gateway_is_never_freed_and_held_addresses_are_passed_over() -> None:
    addresses = pool("10.0.0.0/29")
    addresses.release("10.0.0.1")
    addresses.hold("10.0.0.2", "web")
    assert addresses.allocate("b").address == "10.0.0.3"


@pytest.mark.parametrize(
    ("subnet", "gateway", "ip_range"),
    [("10.0.0.0/24", "10.0.1.1", ""), ("10.0.0.0/24", "", "10.1.0.0/24"), ("x", "", "")],
)
def test_a_subnet_that_makes_no_sense_is_refused(subnet: str, gateway: str, ip_range: str) -> None:
    with pytest.raises(InvalidArgument):
        pool(subnet, gateway, ip_range)


def occupied(*ranges: str) -> list[Occupied]:
    return [Occupied(ipaddress.IPv4Network(text), f"route {text} of interface tun0") for text in ranges]


def test_the_first_range_that_touches_nothing_is_chosen() -> None:
    pools = parse_pool("10.0.0.0/16, 10.9.0.0/24")
    assert choose(pools, 24, []) == "10.0.0.0/24"
    assert choose(pools, 24, occupied("10.0.0.0/23", "10.0.2.128/25")) == "10.0.3.0/24"
    assert choose(pools, 24, occupied("10.0.0.0/16")) == "10.9.0.0/24"


def test_a_full_pool_names_what_takes_it() -> None:
    with pytest.raises(Conflict, match=r"taken by route 10\.0\.0\.0/8 of interface tun0"):
        choose(parse_pool("10.0.0.0/16"), 24, occupied("10.0.0.0/8"))


def test_a_wider_route_is_no_clash_for_an_asked_subnet() -> None:
    refuse_clash("10.5.0.0/24", occupied("10.0.0.0/8"))
    with pytest.raises(Conflict, match="tun0"):
        refuse_clash("10.5.0.0/24", occupied("10.5.0.128/25"))


def test_options_have_dockers_names_and_defaults() -> None:
    options = BridgeOptions.of(Network("abcdef" * 10, "web", "bridge"))
    assert options == BridgeOptions("br-abcdefabcdef", 0, "eth", False, True, "")
    given = {
        "com.docker.network.bridge.name": "lan0",
        "com.docker.network.driver.mtu": "9000",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.container_iface_prefix": "net",
    }
    options = BridgeOptions.of(Network("a" * 64, "web", "bridge", options=given))
    assert options == BridgeOptions("lan0", 9000, "net", True, False, "127.0.0.1")


@pytest.mark.parametrize("name", ["a/b", "a b", ".", "x" * 16, 'a"b', "a\n"])
def test_a_name_that_is_no_interface_name_never_reaches_the_firewall(name: str) -> None:
    with pytest.raises(InvalidArgument, match="interface name"):
        BridgeOptions.of(Network("a" * 64, "web", "bridge", options={"com.docker.network.bridge.name": name}))


def test_a_published_port_is_an_element_of_the_map_for_its_address() -> None:
    everywhere = Redirect(PortBinding(80, "tcp", "0.0.0.0", 8080), "10.0.0.2")
    assert (everywhere.map, everywhere.element) == ("published_any", "6 . 8080 : 10.0.0.2 . 80")
    local = Redirect(PortBinding(53, "udp", "127.0.0.1", 5353), "10.0.0.2")
    assert (local.map, local.element) == ("published", "127.0.0.1 . 17 . 5353 : 10.0.0.2 . 53")


def test_the_mac_address_follows_from_the_address() -> None:
    assert mac_of("172.29.0.2") == "02:42:ac:1d:00:02"
