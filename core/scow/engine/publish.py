"""From Docker's port maps to the port bindings that a network driver publishes."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, cast

from scow.errors import InvalidArgument
from scow.ports.network import PortBinding
from scow.types import PortMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.engine.model import Container
    from scow.types import ContainerConfig, HostConfig

_PORT = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_port(text: str) -> tuple[int, str]:
    """``80/tcp`` or ``80`` as number and protocol; raises `InvalidArgument`."""
    match = _PORT.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 65536:
        raise InvalidArgument(f"invalid port specification: {text!r}", hint="expected 1-65535[/tcp|udp|sctp]")
    return int(match[1]), (match[2] or "tcp").lower()


def host_ports(text: str) -> tuple[int, ...]:
    """The host ports that a binding may take: ``""`` and ``0`` any (0), ``8000-8010`` one of a range."""
    match = _RANGE.fullmatch(text or "0")
    if match is None:
        raise InvalidArgument(f"invalid host port {text!r}")
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if not first <= last < 65536:
        raise InvalidArgument(f"invalid host port {text!r}", hint="expected 0-65535 or a rising range")
    return tuple(range(first, last + 1))


def bindings(config: ContainerConfig, host: HostConfig) -> list[tuple[PortBinding, tuple[int, ...]]]:
    """What is to be published: each binding, and the host ports that will do for it.

    With ``PublishAllPorts`` every exposed port without a binding gets any host port. Raises `InvalidArgument`.
    """
    wanted: dict[str, list[PortMapping]] = {}
    for port, mappings in host.port_bindings.items():
        wanted[port] = list(mappings or []) or [PortMapping()]
    if host.publish_all_ports:
        for port in config.exposed_ports:
            wanted.setdefault(port, [PortMapping()])
    found = []
    for port, mappings in sorted(wanted.items(), key=lambda item: parse_port(item[0])):
        number, protocol = parse_port(port)
        for mapping in mappings:
            choices = host_ports(mapping.host_port)
            binding = PortBinding(number, cast("Any", protocol), _address(mapping.host_ip), choices[0])
            found.append((binding, choices))
    return found


def _address(text: str) -> str:
    if not text or text == "0.0.0.0":
        return ""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as error:
        raise InvalidArgument(f"invalid host address {text!r} for a published port") from error


def published(container: Container) -> tuple[PortBinding, ...]:
    """The ports that *container* has on the host now."""
    attachments = [endpoint.attachment for endpoint in container.endpoints.values()]
    return tuple(port for attachment in attachments if attachment is not None for port in attachment.ports)


def port_map(exposed: Mapping[str, Any], published: tuple[PortBinding, ...]) -> dict[str, list[PortMapping] | None]:
    """Docker's ``NetworkSettings.Ports``: every exposed port, with its host side where it has one."""
    ports: dict[str, list[PortMapping] | None] = {"{}/{}".format(*parse_port(port)): None for port in exposed}
    for binding in published:
        key = f"{binding.container_port}/{binding.protocol}"
        mapping = PortMapping(host_ip=binding.host_ip or "0.0.0.0", host_port=str(binding.host_port))
        ports[key] = [*(ports.get(key) or []), mapping]
    return ports
