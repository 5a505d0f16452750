"""The bridge driver after a restart of the daemon, and after others changed what it made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scow.errors import Conflict
from scow.ports.network import Network, PortBinding
from scow.testing.namespaces import Namespace, ask, inside
from scow_net_bridge import BridgeDriver, bridges, rtnl
from tests.integration.netlab import HOST, OUTSIDE, Container, Lab, command

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


@pytest.fixture
def web(lab: Lab) -> Container:
    """A container whose port 80 is published and served."""
    web = lab.container("web", TCP)
    web.serve("web")
    return web


def restart(lab: Lab) -> BridgeDriver:
    """The daemon was away; nothing is restored yet."""
    lab.driver.close()
    lab.driver = lab.make_driver()
    return lab.driver


def test_ports_answer_without_a_daemon_and_before_it_has_restored(lab: Lab, web: Container) -> None:
    lab.driver.close()
    assert lab.ask_from_outside(HOST, 8080) == f"web {OUTSIDE}"
    driver = restart(lab)
    driver.create(lab.front)
    assert lab.ask_from_outside(HOST, 8080) == f"web {OUTSIDE}"
    assert driver.restore([lab.front], [(lab.front, web.attachment)]) == []
    assert lab.ask_from_outside(HOST, 8080) == f"web {OUTSIDE}"
    with pytest.raises(Conflict, match="by container web"):
        lab.container("other", TCP)


def test_what_was_flushed_is_made_again_and_reported(lab: Lab, web: Container) -> None:
    command("nft", "flush", "ruleset")
    assert ask("127.0.0.1", 8080) == ""
    assert restart(lab).restore([lab.front], [(lab.front, web.attachment)]) == ["nft table inet lab was missing"]
    assert ask("127.0.0.1", 8080).startswith("web ")


def test_a_flushed_table_is_noticed_by_the_next_change(lab: Lab, web: Container) -> None:
    command("nft", "flush", "ruleset")
    other = lab.container("other", PortBinding(80, "tcp", "", 8081))
    assert ask("127.0.0.1", 8080).startswith("web ")
    other.detach()
    command("nft", "flush", "ruleset")
    web.detach()
    assert ask("127.0.0.1", 8080) == ""


def test_a_deleted_bridge_is_made_again_with_its_ports(lab: Lab, web: Container) -> None:
    with rtnl.RouteSocket() as kernel:
        bridges.delete(kernel, bridges.find("br-66726f6e7400"))
    lines = restart(lab).restore([lab.front], [(lab.front, web.attachment)])
    assert any("bridge br-66726f6e7400 made" in line for line in lines)
    assert any("put back" in line for line in lines)
    assert ask("127.0.0.1", 8080).startswith("web ")


def test_what_belongs_to_nobody_is_removed(lab: Lab, web: Container) -> None:
    dead = lab.container("dead", PortBinding(80, "tcp", "", 8081))
    back = lab.network("back")
    command("nft", "add", "element", "inet", "lab", "published", "{ 127.0.0.1 . tcp . 99 : 10.77.0.9 . 99 }")
    lines = restart(lab).restore([lab.front], [(lab.front, web.attachment)])
    assert "nft published_any held unknown 6 . 8081 : 10.77.0.3 . 80" in lines
    assert "nft published held unknown 127.0.0.1 . 6 . 99 : 10.77.0.9 . 99" in lines
    assert f"interface {dead.attachment.private['veth']} removed: nobody owns it" in lines
    assert f"bridge br-{back.id[:12]} removed: nobody owns it" in lines
    assert not bridges.exists(f"br-{back.id[:12]}")
    assert ask("127.0.0.1", 8080).startswith("web ")


def test_a_port_that_another_took_meanwhile_is_reported(lab: Lab, web: Container) -> None:
    import socket

    lab.driver.close()
    with socket.create_server(("0.0.0.0", 8080)):
        lines = restart(lab).restore([lab.front], [(lab.front, web.attachment)])
    assert lines == ["container web: port 8080/tcp is not held: address already in use"]


def test_an_interface_that_is_gone_is_reported(lab: Lab, web: Container) -> None:
    with rtnl.RouteSocket() as kernel:
        bridges.delete(kernel, bridges.find(web.attachment.private["veth"]))
    lines = restart(lab).restore([lab.front], [(lab.front, web.attachment)])
    assert lines == [
        f"container web: its interface {web.attachment.private['veth']} in network front is gone",
    ]


def test_a_bridge_of_a_lost_data_root_is_replaced(lab: Lab) -> None:
    options = {"com.docker.network.bridge.name": "lab0"}
    lab.driver.create(Network("1" * 64, "bridge", "bridge", options=options))
    driver = restart(lab)
    again = driver.create(Network("2" * 64, "bridge", "bridge", options=options))
    assert again.subnets[0].subnet == "10.77.16.0/20"  # the first /20 of the pool that front's /24 leaves free
    with rtnl.RouteSocket() as kernel:
        assert [link.alias for link in kernel.links() if link.name == "lab0"] == ["lab/lab network " + "2" * 64]


def test_engines_side_by_side_leave_each_other_alone(lab: Lab, web: Container, tmp_path: Path) -> None:
    from scow.ports import DriverContext

    settings = {"bridge": "alt0", "subnet_pool": "10.77.0.0/16", "nft_table": "alt"}
    other = BridgeDriver(DriverContext("bridge", tmp_path, tmp_path, settings=settings, engine="alt"))
    network = other.create(Network("9" * 64, "bridge", "bridge", options={"com.docker.network.bridge.name": "alt0"}))
    assert network.subnets[0].subnet == "10.77.16.0/20"
    assert other.restore([network], []) == []
    assert ask("127.0.0.1", 8080).startswith("web ")
    assert restart(lab).restore([lab.front], [(lab.front, web.attachment)]) == []
    assert bridges.exists("alt0")
    other.remove(network)
    other.close()
    assert ask("127.0.0.1", 8080).startswith("web ")
