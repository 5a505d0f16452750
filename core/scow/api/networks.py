"""``/networks``: list and inspect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.api.call import answer
from scow.api.routing import Route
from scow.api.times import rfc3339
from scow.engine.networks import shown_driver

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from scow.api.call import Call
    from scow.engine.model import Container, NetworkRecord
    from scow.ports.network import Subnet

Json = dict[str, Any]


async def list_networks(call: Call) -> web.StreamResponse:
    """``GET /networks``."""
    return answer([network_json(record) for record in call.engine.networks.list(call.filters())])


async def inspect(call: Call) -> web.StreamResponse:
    """``GET /networks/{id}``."""
    networks = call.engine.networks
    record = networks.get(call.args["id"])
    attached = endpoints(record, networks.containers(record.network.id))
    return answer({**network_json(record), "Containers": attached})


def network_json(record: NetworkRecord) -> Json:
    """Docker's Network."""
    network = record.network
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(record.created_ns),
        "Scope": "local",
        "Driver": shown_driver(network),
        "EnableIPv4": True,
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": "default", "Options": None, "Config": [subnet_json(subnet) for subnet in network.subnets]},
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def subnet_json(subnet: Subnet) -> Json:
    """Docker's IPAMConfig."""
    value = {"Subnet": subnet.subnet, "Gateway": subnet.gateway, "IPRange": subnet.ip_range}
    return {name: text for name, text in value.items() if text}


def endpoints(record: NetworkRecord, containers: Iterable[Container]) -> Json:
    """Docker's map of EndpointResource: who is attached to the network now."""
    found: Json = {}
    for container in containers:
        for endpoint in container.endpoints.values():
            given = endpoint.attachment
            if endpoint.network_id != record.network.id or given is None:
                continue
            found[container.id] = {
                "Name": container.name,
                "EndpointID": given.endpoint_id,
                "MacAddress": given.mac_address,
                "IPv4Address": f"{given.ip_address}/{given.prefix_length}" if given.ip_address else "",
                "IPv6Address": "",
            }
    return found


ROUTES = (
    Route("GET", "/networks", list_networks),
    Route("GET", "/networks/{id}", inspect),
)
