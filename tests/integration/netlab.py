"""A small world for tests of the bridge driver: a host, another host outside, and containers, all in namespaces of
their own. Nothing of it touches the machine, and it is gone when it is closed."""

from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

from scow.ports import DriverContext
from scow.ports.network import Attachment, Network, PortBinding
from scow.testing.namespaces import EchoServer, Namespace, ask, set_up
from scow.testing.network import endpoint
from scow_net_bridge import BridgeDriver, bridges, rtnl

if TYPE_CHECKING:
    from pathlib import Path

HOST, OUTSIDE = "10.88.0.1", "10.88.0.2"


class Container:
    """A namespace that is attached to a network, and the servers in it."""

    def __init__(self, lab: Lab, network: Network, name: str, ports: tuple[PortBinding, ...]) -> None:
        self.namespace = Namespace()
        self.network = network
        self.lab = lab
        self._servers: list[EchoServer] = []
        number = next(lab.numbers)
        self.attachment: Attachment = lab.driver.attach(
            network, endpoint(number, ports=ports, name=name), self.namespace.path
        )
        self.ip = self.attachment.ip_address

    def serve(self, name: str, port: int = 80, protocol: str = "tcp") -> None:
        """A server of that name answers on *port*."""
        self._servers.append(self.namespace.run(lambda: EchoServer(name, port, protocol)))

    def ask(self, address: str, port: int, protocol: str = "tcp") -> str:
        """What a client in the container gets from there."""
        return self.namespace.run(lambda: ask(address, port, protocol))

    def links(self) -> list[rtnl.Link]:
        """The interfaces in the container."""

        def look() -> list[rtnl.Link]:
            with rtnl.RouteSocket() as kernel:
                return kernel.links()

        return self.namespace.run(look)

    def detach(self) -> None:
        """It is no longer in its network, but lives."""
        self.lab.driver.detach(self.network, self.attachment)

    def close(self) -> None:
        """The container is gone; twice is no error."""
        while self._servers:
            self._servers.pop().close()
        self.namespace.close()


class Lab:
    """The host (the namespace of the calling thread), the outside host, the driver and its containers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._containers: list[Container] = []
        self._servers: list[EchoServer] = []
        self.numbers = itertools.count(1)
        self.outside = Namespace()
        self._plug_in_outside()
        self.driver = self.make_driver()
        self.front = self.network("front")

    def make_driver(self) -> BridgeDriver:
        """A driver of this engine, new each time: what a restart makes."""
        settings = {"bridge": "lab0", "subnet_pool": "10.77.0.0/16", "nft_table": "lab"}
        return BridgeDriver(DriverContext("bridge", self._folder, self._folder, settings=settings, engine="lab"))

    def network(self, name: str, *, internal: bool = False, **options: str) -> Network:
        """A network of that name; *options* are Docker's with ``_`` for the dots after the prefix."""
        full = {f"com.docker.network.{key.replace('__', '.')}": value for key, value in options.items()}
        identity = name.encode().hex().ljust(64, "0")
        return self.driver.create(Network(identity, name, "bridge", internal=internal, options=full))

    def container(self, name: str = "web", *ports: PortBinding, network: Network | None = None) -> Container:
        """A container that is attached to *network* (``front``) with *ports*."""
        made = Container(self, network or self.front, name, ports)
        self._containers.append(made)
        return made

    def serve_outside(self, name: str, port: int) -> None:
        """A server of that name answers on the outside host."""
        self._servers.append(self.outside.run(lambda: EchoServer(name, port)))

    def ask_from_outside(self, address: str, port: int, protocol: str = "tcp") -> str:
        """What a client on the outside host gets from there."""
        return self.outside.run(lambda: ask(address, port, protocol))

    def close(self) -> None:
        """Everything is gone."""
        for server in self._servers:
            server.close()
        for container in self._containers:
            container.close()
        self.driver.close()
        self.outside.close()

    def _plug_in_outside(self) -> None:
        """The two hosts have a cable between them; the outside host routes everything to ours."""
        with rtnl.RouteSocket() as kernel:
            kernel.ask(rtnl.add_veth("up0", 0, 1400, self.outside.fd, "out0", "02:42:0a:58:00:02"))
            kernel.ask(rtnl.add_address(bridges.find("up0"), HOST, 24))
            kernel.ask(rtnl.add_default_route(bridges.find("up0"), OUTSIDE, 0))

        def configure() -> None:
            set_up("out0")
            with rtnl.RouteSocket() as kernel:
                kernel.ask(rtnl.add_address(bridges.find("out0"), OUTSIDE, 24))
                kernel.ask(rtnl.add_default_route(bridges.find("out0"), HOST, 0))

        self.outside.run(configure)


def command(*words: str) -> str:
    """The output of a program in the namespace of the calling thread."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
