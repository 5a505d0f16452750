"""The networks that containers join: the three built-in ones, each by a driver of its own."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from scow.engine.filters import check_filters, match_labels, match_pattern
from scow.engine.model import NetworkRecord
from scow.engine.names import find, new_id
from scow.errors import Conflict, Forbidden, InvalidArgument, NotFound, ScowError
from scow.ports import NETWORK
from scow.ports.network import Network
from scow.state import Delete, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scow.config import Config
    from scow.engine.drivers import Drivers
    from scow.engine.model import Container
    from scow.ports.network import Attachment, NetworkDriver
    from scow.state import State

log = logging.getLogger(__name__)

KIND = "network"
RELEASED = "networks released"  # kind and id of a mark: the last engine took its networks out of the kernel
FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
BRIDGE_NAME = "com.docker.network.bridge.name"


def shown_driver(network: Network) -> str:
    """The driver of *network* in Docker's words, which call ``none`` ``null``."""
    return "null" if network.driver == "none" else network.driver


class Networks:
    """Every network by id. *containers* answers all containers, for what is attached where; *problems* are the drivers
    that this host cannot run."""

    def __init__(
        self, drivers: Drivers, state: State, config: Config, containers: Callable[[], Sequence[Container]]
    ) -> None:
        self._drivers = drivers
        self._state = state
        self._config = config
        self._containers = containers
        self._records: dict[str, NetworkRecord] = {}
        self._names: dict[str, str] = {}
        self.problems: list[str] = []
        self._released = False

    def load(self) -> None:
        """Reads the records; blocking, at start only."""
        self._released = bool(self._state.load(RELEASED))
        for row in self._state.load(KIND):
            self._keep(msgspec.json.decode(row.data, type=NetworkRecord))

    async def ensure_builtin(self) -> None:
        """The networks ``bridge``, ``host`` and ``none`` exist in the state."""
        bridge = self._config.drivers["network"]
        wanted = {"bridge": bridge, "host": "host", "none": "none"}
        for name, driver in wanted.items():
            if name in self._names:
                continue
            options = {BRIDGE_NAME: self._config.bridge_name} if name == "bridge" else {}
            network = Network(new_id(), name, driver, options=options)
            await self._save(NetworkRecord(network=network, created_ns=time.time_ns(), builtin=True))

    async def restore(self, attachments: Sequence[tuple[str, Attachment]]) -> list[str]:
        """The networks of drivers that keep something in the kernel are there, with *attachments* (network id and
        attachment of each running container). Answers what was repaired."""
        drivers = sorted({record.network.driver for record in self._records.values()})
        repaired = []
        for driver in drivers:
            try:
                made = await self._restore(driver, attachments)
                repaired += [] if self._released else made
            except ScowError as error:  # the engine works without it; who needs the network is told at its start
                self.problems.append(f"networks of driver {driver} cannot be used: {error}")
                log.error("%s", self.problems[-1])
        if self._released:
            await self._state.commit(Delete(RELEASED, RELEASED))
        return repaired

    async def _restore(self, driver: str, attachments: Sequence[tuple[str, Attachment]]) -> list[str]:
        mine = [record.network for record in self._records.values() if record.network.driver == driver]
        new = [network for network in mine if not network.subnets]  # the others are made by the driver's `restore`
        made = await self._drivers.call(NETWORK, driver, "create", lambda d: [d.create(network) for network in new])
        for before, after in zip(new, made, strict=True):
            if before != after:
                await self._save(msgspec.structs.replace(self._records[after.id], network=after))
        made = [self._records[network.id].network for network in mine]
        known = {network.id: network for network in made}
        held = [(known[key], attachment) for key, attachment in attachments if key in known]
        repaired: list[str] = await self._drivers.call(NETWORK, driver, "restore", lambda d: d.restore(made, held))
        return repaired

    async def release(self) -> None:
        """Nothing of any network is in the kernel; `restore` makes it again, and does not call that a repair."""
        await self._state.commit(Put(RELEASED, RELEASED, None, b""))
        for record in list(self._records.values()):
            network = record.network
            try:
                await self._drivers.call(NETWORK, network.driver, "remove", partial(_remove, network=network))
            except ScowError as error:
                log.warning("network %s is left: %s", network.name, error)

    def get(self, ref: str) -> NetworkRecord:
        """By id, name or unique id prefix; raises `NotFound` ("network x not found")."""
        try:
            return find(ref, "network", self._records, self._names)
        except NotFound:
            raise NotFound(f"network {ref} not found") from None

    async def remove(self, ref: str) -> None:
        """The network is gone, here and in the kernel. Raises `Forbidden` for a built-in one, `Conflict` while a
        container has an endpoint in it, `NotFound`."""
        record = self.get(ref)
        network = record.network
        if record.builtin:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        users = [c.name for c in self._containers() if any(e.network_id == network.id for e in c.endpoints.values())]
        if users:
            raise Conflict(f"network {network.name} has active endpoints ({', '.join(users)})")
        await self._drivers.call(NETWORK, network.driver, "remove", partial(_remove, network=network))
        await self._state.commit(Delete(KIND, network.id))
        del self._records[network.id]
        self._names.pop(network.name, None)

    def _matches(self, record: NetworkRecord, filters: Mapping[str, Sequence[str]]) -> bool:
        network = record.network
        tests: dict[str, Callable[[str], bool]] = {
            "driver": lambda value: shown_driver(network) == value,
            "id": lambda value: match_pattern([value], network.id),
            "name": lambda value: match_pattern([value], network.name),
            "scope": lambda value: value == "local",
            "type": lambda value: (value == "builtin") == record.builtin,
            "dangling": lambda value: (
                (value.lower() in ("1", "true")) == (not record.builtin and not self.containers(network.id))
            ),
        }
        for name, values in filters.items():
            if name == "label":
                if not match_labels(values, network.labels):
                    return False
            elif not any(tests[name](value) for value in values):
                return False
        return True

    def containers(self, network_id: str) -> list[Container]:
        """The containers that are attached to the network now."""
        return [
            container
            for container in self._containers()
            if any(e.network_id == network_id and e.attachment for e in container.endpoints.values())
        ]

    async def _save(self, record: NetworkRecord) -> None:
        network = replace(record.network, options=dict(record.network.options), labels=dict(record.network.labels))
        record = msgspec.structs.replace(record, network=network)
        await self._state.commit(Put(KIND, network.id, network.name, msgspec.json.encode(record)))
        self._keep(record)

    def _keep(self, record: NetworkRecord) -> None:
        self._records[record.network.id] = record
        self._names[record.network.name] = record.network.id

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[NetworkRecord]:
        """Newest first; filters as Docker has them."""
        filters = check_filters(filters or {}, FILTERS)
        for value in filters.get("type", ()):
            if value not in ("builtin", "custom"):
                raise InvalidArgument(f"invalid filter 'type={value}'", hint="known: builtin, custom")
        found = sorted(self._records.values(), key=lambda record: record.created_ns, reverse=True)
        return [record for record in found if self._matches(record, filters)]


def _remove(driver: NetworkDriver, network: Network) -> None:
    driver.remove(network)
