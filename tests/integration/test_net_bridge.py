"""Who reaches whom: packets through the bridge driver's networks, published ports and firewall."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from scow.errors import Conflict, InvalidArgument, Unavailable, Unsupported
from scow.ports.network import Network, PortBinding, Subnet
from scow.testing.namespaces import Namespace, ask, inside
from scow.testing.network import endpoint
from scow_net_bridge import bridges, rtnl
from tests.integration.netlab import HOST, OUTSIDE, Lab, command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root
TCP = PortBinding(80, "tcp", "", 8080)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    host = Namespace()
    with inside(host):
        lab = Lab(tmp_path)
        yield lab
        lab.close()
    host.close()


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_is_reached_from_host_outside_and_containers(
    lab: Lab, protocol: str, bridge_netfilter: str
) -> None:
    with contextlib.suppress(FileNotFoundError), open("/proc/sys/net/bridge/bridge-nf-call-iptables", "w") as file:
        file.write(bridge_netfilter)
    web = lab.container("web", PortBinding(80, protocol, "", 8080))  # type: ignore[arg-type]
    web.serve("web", protocol=protocol)
    gateway = web.attachment.gateway
    assert ask("127.0.0.1", 8080, protocol) == f"web {gateway}"
    assert ask(HOST, 8080, protocol).startswith("web ")
    assert ask(gateway, 8080, protocol) == f"web {gateway}"
    assert lab.ask_from_outside(HOST, 8080, protocol) == f"web {OUTSIDE}"  # the client's real address
    assert lab.container().ask(gateway, 8080, protocol).startswith("web ")
    assert lab.container().ask(HOST, 8080, protocol).startswith("web ")
    assert web.ask(HOST, 8080, protocol).startswith("web ")  # itself


def test_a_port_on_loopback_is_reached_from_the_host_alone(lab: Lab) -> None:
    web = lab.container("web", PortBinding(80, "tcp", "127.0.0.1", 8080))
    web.serve("web")
    assert ask("127.0.0.1", 8080).startswith("web ")
    assert ask(HOST, 8080) == ""
    assert lab.ask_from_outside(HOST, 8080) == ""
    assert lab.ask_from_outside(web.ip, 80) == ""
    assert lab.container().ask(web.attachment.gateway, 8080) == ""


@pytest.mark.skipif(not shutil.which("ip"), reason="needs ip (iproute2) to send to 127.0.0.1 over a cable")
def test_packets_for_loopback_from_outside_are_dropped(lab: Lab) -> None:
    lab.container("web", PortBinding(80, "tcp", "127.0.0.1", 8080)).serve("web")
    with open("/proc/sys/net/ipv4/conf/up0/route_localnet", "w") as file:
        file.write("1")

    def send() -> str:
        with open("/proc/sys/net/ipv4/conf/out0/route_localnet", "w") as file:
            file.write("1")
        command("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
        command("ip", "route", "add", "127.0.0.1/32", "via", HOST, "dev", "out0", "src", OUTSIDE)
        return ask("127.0.0.1", 8080)

    assert lab.outside.run(send) == ""


def test_a_port_on_one_address_is_not_reached_by_another(lab: Lab) -> None:
    lab.container("web", PortBinding(80, "tcp", HOST, 8080)).serve("web")
    assert lab.ask_from_outside(HOST, 8080) == f"web {OUTSIDE}"
    assert ask(HOST, 8080).startswith("web ")
    assert ask("127.0.0.1", 8080) == ""


def test_what_is_not_published_is_reached_from_the_host_and_not_from_outside(lab: Lab) -> None:
    web = lab.container("web", TCP)
    web.serve("secret", 81)
    web.serve("web", 80)
    assert ask(web.ip, 81).startswith("secret ")
    assert lab.ask_from_outside(web.ip, 81) == ""
    assert lab.ask_from_outside(web.ip, 80) == ""


def test_containers_reach_outside_with_the_hosts_address(lab: Lab) -> None:
    lab.serve_outside("far", 9000)
    assert lab.container().ask(OUTSIDE, 9000) == f"far {HOST}"


def test_networks_are_isolated_but_for_published_ports(lab: Lab) -> None:
    web = lab.container("web", TCP)
    web.serve("web")
    other = lab.container("other", network=lab.network("back"))
    assert other.ask(web.ip, 80) == ""
    assert other.ask(HOST, 8080).startswith("web ")


def test_an_internal_network_has_no_way_out_or_in(lab: Lab) -> None:
    lab.serve_outside("far", 9000)
    network = lab.network("inner", internal=True)
    web = lab.container("web", TCP, network=network)
    web.serve("web")
    assert web.attachment.ports == ()
    assert web.attachment.gateway == ""
    assert lab.container(network=network).ask(web.ip, 80).startswith("web ")
    assert web.ask(OUTSIDE, 9000) == ""
    assert lab.ask_from_outside(web.ip, 80) == ""
    lab.container("front", TCP).serve("front")
    assert web.ask(network.subnets[0].gateway, 8080) == ""


def test_containers_without_icc_reach_the_world_and_not_each_other(lab: Lab) -> None:
    lab.serve_outside("far", 9000)
    network = lab.network("apart", bridge__enable_icc="false")
    web = lab.container("web", network=network)
    web.serve("web")
    other = lab.container(network=network)
    assert other.ask(web.ip, 80) == ""
    assert other.ask(OUTSIDE, 9000) == f"far {HOST}"
    assert ask(web.ip, 80).startswith("web ")


def test_a_port_that_a_process_listens_on_is_refused_with_its_name(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 8080)):
        with pytest.raises(Conflict, match=r"Bind for 0\.0\.0\.0:8080 failed.*pid " + str(os.getpid())):
            lab.container("web", TCP)
    lab.container("web", TCP)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_nobody_else_can_bind_a_published_port(lab: Lab, kind: socket.SocketKind) -> None:
    lab.container("web", TCP, PortBinding(53, "udp", "", 8080))
    for address in ("0.0.0.0", "127.0.0.1"):
        with socket.socket(socket.AF_INET, kind) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use") as caught:
                other.bind((address, 8080))
            assert caught.value.errno == errno.EADDRINUSE


def test_an_address_that_the_host_does_not_have_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidArgument, match="no interface of this host has that address"):
        lab.container("web", PortBinding(80, "tcp", "10.99.99.99", 8080))
    with pytest.raises(Unsupported, match="ipv6"):
        lab.container("web", PortBinding(80, "tcp", "::", 8080))


def test_ports_change_while_the_container_runs(lab: Lab) -> None:
    web = lab.container("web", TCP)
    web.serve("web")
    now = lab.driver.publish(lab.front, web.attachment, [TCP, PortBinding(80, "tcp", "", 8081)])
    assert ask("127.0.0.1", 8080).startswith("web ") and ask("127.0.0.1", 8081).startswith("web ")
    now = lab.driver.publish(lab.front, now, [PortBinding(80, "tcp", "", 8081)])
    assert ask("127.0.0.1", 8080) == "" and ask("127.0.0.1", 8081).startswith("web ")
    assert [port.host_port for port in now.ports] == [8081]


def test_udp_senders_follow_a_port_to_its_next_container(lab: Lab) -> None:
    first = lab.container("first", PortBinding(80, "udp", "", 8080))
    first.serve("first", protocol="udp")

    def talk(client: socket.socket) -> str:
        client.sendto(b"?", (HOST, 8080))
        return client.recv(100).decode().split()[0]

    with lab.outside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(5)
        client.bind((OUTSIDE, 5555))
        assert talk(client) == "first"
        first.detach()
        lab.container("second", PortBinding(80, "udp", "", 8080)).serve("second", protocol="udp")
        time.sleep(0.2)  # forgotten in the background, in about 15 ms
        assert talk(client) == "second"


def test_udp_senders_that_were_there_first_find_a_port_once_it_is_published(lab: Lab) -> None:
    with lab.outside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(5)
        client.bind((OUTSIDE, 5556))
        client.sendto(b"?", (HOST, 8080))  # tracked as a connection to the host itself
        lab.container("late", PortBinding(80, "udp", "", 8080)).serve("late", protocol="udp")
        time.sleep(0.2)
        client.sendto(b"?", (HOST, 8080))
        assert client.recv(100).decode().split()[0] == "late"


def test_a_second_network_is_eth1_and_takes_the_default_route_over(lab: Lab) -> None:
    lab.serve_outside("far", 9000)
    web = lab.container("web")
    second = lab.driver.attach(lab.network("back"), endpoint(90), web.namespace.path)
    assert (web.attachment.interface, second.interface) == ("eth0", "eth1")
    web.detach()  # disconnected: its namespace lives on
    deadline = time.monotonic() + 5
    while bridges.exists(web.attachment.private["veth"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [link.name for link in web.links()] == ["lo", "eth1"]
    assert web.ask(OUTSIDE, 9000) == f"far {HOST}"


def test_an_attach_that_fails_leaves_nothing(lab: Lab) -> None:
    before = socket.if_nameindex()
    for path in ("/proc/0/ns/net", "/dev/null"):
        with pytest.raises((Unavailable, OSError)):
            lab.driver.attach(lab.front, endpoint(1, ports=(TCP,), ip_address="10.77.0.9"), path)
    assert socket.if_nameindex() == before
    namespace = Namespace()
    attached = lab.driver.attach(lab.front, endpoint(1, ports=(TCP,), ip_address="10.77.0.9"), namespace.path)
    assert attached.ip_address == "10.77.0.9"
    namespace.close()


def test_many_are_attached_at_once_and_no_thread_stays_in_a_foreign_namespace(lab: Lab) -> None:
    def namespaces() -> set[str]:
        found = set()
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                found.add(os.readlink(f"/proc/self/task/{task}/ns/net"))
        return found

    before = namespaces()
    made: list[str] = []

    def attach() -> None:
        made.append(lab.container("web", PortBinding(80)).ip)

    threads = [threading.Thread(target=attach) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 24
    assert namespaces() == before


def test_an_address_is_not_used_again_while_its_interface_is_there(lab: Lab) -> None:
    network = lab.driver.create(Network("d" * 64, "small", "bridge", subnets=(Subnet("10.66.0.0/29"),)))
    first = lab.container("a", network=network)
    first.detach()
    seen = [lab.container("b", network=network).ip for _ in range(5)]
    assert seen[:4] == ["10.66.0.3", "10.66.0.4", "10.66.0.5", "10.66.0.6"]
    assert seen[4] == first.ip  # nothing else was left: the old interface was removed first
    assert not bridges.exists(first.attachment.private["veth"])


def test_subnets_avoid_what_the_host_routes_and_clashes_are_named(lab: Lab) -> None:
    with rtnl.RouteSocket() as kernel:
        kernel.ask(rtnl.add_address(bridges.find("up0"), "10.77.1.7", 24))
    assert lab.network("back").subnets[0].subnet == "10.77.2.0/24"
    with pytest.raises(Conflict, match="10.77.1.7/24 of interface up0"):
        lab.driver.create(Network("e" * 64, "clash", "bridge", subnets=(Subnet("10.77.1.0/25"),)))


def test_a_bridge_name_in_use_is_refused_and_left_alone(lab: Lab) -> None:
    with pytest.raises(Conflict, match="interface up0 exists already"):
        lab.network("mine", bridge__name="up0")
    assert bridges.exists("up0")
    with pytest.raises(InvalidArgument, match="no interface name"):
        lab.network("mine", bridge__name="much-too-long-for-linux")


def test_the_mtu_is_that_of_the_way_out_unless_given(lab: Lab) -> None:
    web = lab.container("web")
    given = lab.container("web", network=lab.network("big", driver__mtu="9000"))
    assert [container.links()[-1].mtu for container in (web, given)] == [1400, 9000]


def test_nothing_is_left_when_the_networks_are_removed(lab: Lab) -> None:
    web = lab.container("web", TCP)
    web.detach()
    web.close()
    lab.driver.remove(lab.front)
    deadline = time.monotonic() + 5
    while len(socket.if_nameindex()) > 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [name for _, name in socket.if_nameindex()] == ["lo", "up0"]
    assert "lab" not in command("nft", "list", "tables")
