"""Rates of containers' network traffic (``scow.net-rate``): where they can be, held from the start on, changed live."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from scow import rates
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError, Unsupported
from scow.options import PREFIX, check_allowed
from scow.ports import NETWORK
from scow.ports.network import Rates, ShapingDriver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.engine.model import Container, EndpointRecord
    from scow.options import Options, Resolved
    from scow.ports.network import Attachment, Endpoint, Network, NetworkDriver

NAME = "net-rate"


async def of_new(
    containers: Containers, mode: str, endpoints: Mapping[str, EndpointRecord], resolved: Resolved
) -> Options:
    """The options of a container that is being made in these networks.

    A rate that was asked for where it cannot be held is refused; the config's default is left out there.
    """
    options = resolved.options
    if options.net_rate.limited:
        try:
            await _check(containers, mode, endpoints)
        except (InvalidArgument, Unsupported):
            if PREFIX + NAME in resolved.asked:
                raise
            return replace(options, net_rate=Rates())
    return options


async def change(containers: Containers, live: Live, text: str) -> Rates:
    """The sides that *text* names have those rates, for a running container at once; answers how it is limited now.

    The kernel is told before the record is stored; where it refuses, the rates are as before.
    """
    check_allowed(NAME, containers.config.request_options)
    async with live.lock:
        record = live.record
        if not containers.knows(live) or record.state.status in ("removing", "dead"):
            raise Conflict(f"container {record.id} is being removed")
        before = record.options.net_rate
        wanted = rates.parse(text, before)
        if wanted.limited:
            await _check(containers, record.host_config.network_mode, record.endpoints)
        if record.state.running:
            try:
                await hold(containers, record, wanted)
            except ScowError:
                await hold(containers, record, before)
                raise
        host = msgspec.structs.replace(
            record.host_config, annotations={**record.host_config.annotations, PREFIX + NAME: rates.show(wanted)}
        )
        options = replace(record.options, net_rate=wanted)
        await containers.save(live, msgspec.structs.replace(record, host_config=host, options=options))
    containers.tell(live, "update")
    return wanted


async def hold(containers: Containers, record: Container, wanted: Rates) -> None:
    """Each interface of the running container has the rates *wanted*."""
    for endpoint in record.endpoints.values():
        if endpoint.attachment is not None:
            network = containers.networks.get(endpoint.network_id).network
            shape = partial(_shape, network=network, attachment=endpoint.attachment, wanted=wanted)
            await containers.drivers.call(NETWORK, network.driver, "shape", shape)


def attach(driver: NetworkDriver, network: Network, endpoint: Endpoint, netns: str, wanted: Rates) -> Attachment:
    """`NetworkDriver.attach`, with the rates *wanted*; all or nothing, too."""
    with ExitStack() as undo:
        attachment = driver.attach(network, endpoint, netns)
        undo.callback(driver.detach, network, attachment)
        if wanted.limited:
            _shape(driver, network, attachment, wanted)
        undo.pop_all()
    return attachment


def _shape(driver: NetworkDriver, network: Network, attachment: Attachment, wanted: Rates) -> None:
    _shaper(driver, network).shape(network, attachment, wanted)


async def _check(containers: Containers, mode: str, endpoints: Mapping[str, EndpointRecord]) -> None:
    if mode.startswith("container:"):
        raise InvalidArgument(
            f"a container in the network of another has no {NAME} of its own", hint="limit that container"
        )
    if not endpoints:
        raise InvalidArgument(f"a container without a network has no {NAME}")
    for endpoint in endpoints.values():
        try:
            network = containers.networks.get(endpoint.network_id or endpoint.network_name).network
        except NotFound:  # an error when it is started, as everything about that network
            continue
        _shaper(await containers.drivers.driver(NETWORK, network.driver), network)


def _shaper(driver: NetworkDriver, network: Network) -> ShapingDriver:
    if driver.sandbox == "host":
        raise InvalidArgument(
            f"{NAME}: the containers of network {network.name} have the host's own interfaces, which are not limited",
            hint="use the network bridge",
        )
    if not isinstance(driver, ShapingDriver):
        raise Unsupported(
            f"{NAME}: the driver {network.driver!r} of network {network.name} cannot limit rates",
            hint="use the network bridge",
        )
    return driver
