"""The two networks that need no device: the host's own, and none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scow.ports.network import Attachment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.ports import DriverContext
    from scow.ports.network import Endpoint, Network


class _Plain:
    """What both share: nothing is made in the kernel, so nothing is to be undone."""

    def __init__(self, context: DriverContext) -> None:
        self.context = context

    def check(self) -> None:
        """Every host can serve it."""

    def create(self, network: Network) -> Network:
        """The network as it was given: it has no subnets."""
        return network

    def remove(self, network: Network) -> None:
        """Nothing to remove."""

    def attach(self, network: Network, endpoint: Endpoint, netns: str) -> Attachment:
        """The sandbox stays as it is; ports are not published (as Docker does on these networks)."""
        return Attachment(endpoint_id=endpoint.id)

    def detach(self, network: Network, attachment: Attachment) -> None:
        """Nothing to undo."""

    def restore(self, networks: Sequence[Network], attachments: Sequence[tuple[Network, Attachment]]) -> list[str]:
        """Nothing to repair."""
        return []

    def close(self) -> None:
        """Nothing is held."""


class HostDriver(_Plain):
    """Containers share the host's network namespace."""

    sandbox: Literal["new", "host"] = "host"


class NoneDriver(_Plain):
    """Containers have a network namespace with nothing but the loopback interface."""

    sandbox: Literal["new", "host"] = "new"
