"""``ps``: which containers a client wants to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.engine.filters import check_filters, match_labels, match_pattern
from scow.engine.publish import host_ports, parse_port, published
from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scow.engine.containers import Containers
    from scow.engine.model import Container

STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
FILTERS = (
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)


def select(containers: Containers, all: bool, limit: int, filters: Mapping[str, Sequence[str]]) -> list[Container]:
    """Newest first, at most *limit* (0: no bound); raises `InvalidArgument` for a filter or status unknown."""
    filters = check_filters(filters, FILTERS)
    for status in filters.get("status", ()):
        if status not in STATUSES:
            raise InvalidArgument(f"invalid filter 'status={status}'", hint=f"known: {', '.join(STATUSES)}")
    found = sorted(containers.records(), key=lambda c: c.created_ns, reverse=True)
    if not (all or limit > 0 or "status" in filters or "exited" in filters):
        found = [c for c in found if c.state.running or c.state.status == "restarting"]
    tests = [_test(containers, name, values) for name, values in filters.items()]
    found = [c for c in found if c.state.status != "removing" and _all(tests, c)]
    return found[:limit] if limit > 0 else found


def _all(tests: Sequence[Callable[[Container], bool]], container: Container) -> bool:
    return False not in (test(container) for test in tests)


def _test(containers: Containers, name: str, values: Sequence[str]) -> Callable[[Container], bool]:
    if name == "label":
        return lambda c: match_labels(values, c.config.labels)
    if name in ("before", "since"):
        edge = containers.get(values[0]).created_ns
        return lambda c: c.created_ns < edge if name == "before" else c.created_ns > edge
    if name == "ancestor":
        return lambda c: any(_descends(containers, c, value) for value in values)
    one = _ONE[name]
    return lambda c: any(one(c, value) for value in values)


def _descends(containers: Containers, container: Container, ref: str) -> bool:
    if container.image_ref == ref or container.image_id.removeprefix("sha256:").startswith(ref):
        return True
    return any(image.id == container.image_id for image in containers.images.matching(ref))


def _exited(container: Container, value: str) -> bool:
    if not value.lstrip("-").isdigit():
        raise InvalidArgument(f"invalid filter 'exited={value}'")
    state = container.state
    return state.status == "exited" and bool(state.started_ns) and state.exit_code == int(value)


def _published(container: Container, value: str) -> bool:
    ports, protocol = _port_range(value)
    return any(port.host_port in ports and port.protocol == protocol for port in published(container))


def _exposed(container: Container, value: str) -> bool:
    ports, protocol = _port_range(value)
    found: set[tuple[int, str]] = {(port.container_port, port.protocol) for port in published(container)}
    if container.state.running:
        found |= {parse_port(text) for text in container.config.exposed_ports}
    return any(number in ports and kind == protocol for number, kind in found)


def _port_range(value: str) -> tuple[Sequence[int], str]:
    """The ports and the protocol that ``80``, ``8000-8010`` or ``53/udp`` mean."""
    numbers, _, protocol = value.partition("/")
    return host_ports(numbers), protocol.lower() or "tcp"


def _networks(container: Container, value: str) -> bool:
    return any(value in (e.network_name, e.network_id) for e in container.endpoints.values())


_ONE: dict[str, Callable[[Container, str], bool]] = {
    "exited": _exited,
    "expose": _exposed,
    "health": lambda c, value: value == "none",
    "id": lambda c, value: match_pattern([value], c.id),
    "is-task": lambda c, value: value.lower() in ("0", "false"),
    "isolation": lambda c, value: value in ("", "default"),
    "name": lambda c, value: match_pattern([value], f"/{c.name}") or match_pattern([value], c.name),
    "network": _networks,
    "publish": _published,
    "status": lambda c, value: c.state.status == value,
    "volume": lambda c, value: any(value in (p.name, p.source, p.destination) for p in c.mounts),
}
