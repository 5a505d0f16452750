"""Docker's filters of ``GET /events``, with its exact rules (moby: daemon/events/filter.go).

Values of one filter are alternatives, except ``label``, whose values must all hold; different filters must all hold.
Names and ids of objects match by prefix, ``type``, ``scope`` and ``event`` exactly, but ``health_status``,
``exec_create`` and ``exec_start`` as an event match whatever follows the colon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument
from scow.reference import Reference

if TYPE_CHECKING:
    from scow.engine.model import Event

SCOPE = "local"  # every object of Scow belongs to this host
BY_OBJECT = ("daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config")
ACCEPTED = frozenset((*BY_OBJECT, "event", "type", "scope", "image", "label"))
OPEN_ENDED = frozenset(("health_status", "exec_create", "exec_start"))


class EventFilter:
    """Says of each event whether a client wants it. Raises `InvalidArgument` for a filter that Docker does not know."""

    def __init__(self, filters: Mapping[str, Sequence[str]]) -> None:
        for key in filters:
            if key not in ACCEPTED:
                raise InvalidArgument(f"invalid filter '{key}'", hint=f"valid filters: {', '.join(sorted(ACCEPTED))}")
        self._exact = {key: frozenset(filters[key]) for key in ("type", "scope", "event", "image") if filters.get(key)}
        self._objects = {key: tuple(filters[key]) for key in BY_OBJECT if filters.get(key)}
        self._labels = [label.partition("=") for label in filters.get("label", ())]
        self._events_by_prefix = not OPEN_ENDED.isdisjoint(filters.get("event", ()))
        self._everything = not (self._exact or self._objects or self._labels)

    def matches(self, event: Event) -> bool:
        """Whether *event* passes every filter."""
        return self._everything or (
            self._is("type", event.type)
            and self._is("scope", SCOPE)
            and self._event(event.action)
            and self._object(event)
            and self._image(event)
            and self._label(event.attributes)
        )

    def _is(self, key: str, value: str) -> bool:
        return key not in self._exact or value in self._exact[key]

    def _event(self, action: str) -> bool:
        if self._is("event", action):
            return True
        return self._events_by_prefix and action.startswith(tuple(self._exact["event"]))

    def _object(self, event: Event) -> bool:
        name = event.attributes.get("name", "")
        return all(event.actor_id.startswith(wanted) or name.startswith(wanted) for wanted in self._objects.values())

    def _image(self, event: Event) -> bool:
        if "image" not in self._exact:
            return True
        named = event.attributes.get("name" if event.type == "image" else "image", "")
        candidates = {event.actor_id, named, without_tag(event.actor_id), without_tag(named)}
        return not candidates.isdisjoint(self._exact["image"])

    def _label(self, attributes: Mapping[str, str]) -> bool:
        return all(
            key in attributes and (not equals or attributes[key] == value) for key, equals, value in self._labels
        )


def without_tag(image: str) -> str:
    """The familiar name of the repository of *image*, or *image* where it is no reference (an id)."""
    try:
        return Reference.parse(image).familiar_name
    except InvalidArgument:
        return image
