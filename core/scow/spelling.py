"""Names of JSON members as Go's decoder takes them: without regard to case.

Docker's clients lean on it: docker-py sends ``detachKeys`` where the Engine API says ``DetachKeys``.
"""

from __future__ import annotations

import functools
import typing
from typing import Any

import msgspec


def respelled(value: Any, model: type[msgspec.Struct]) -> Any:
    """*value* (decoded JSON) with its members spelled as *model* and the structs in it have them. Unknown members stay
    as they are, and of two spellings of one member the right one wins."""
    if not isinstance(value, dict):
        return value
    members = _members(model)
    found: dict[str, Any] = {}
    for key, item in value.items():
        name, kind = members.get(key.lower(), (key, None))
        if name == key or (name not in value and name not in found):
            found[name] = _inside(item, kind) if kind is not None else item
    return found


def _inside(value: Any, kind: tuple[type[msgspec.Struct], bool]) -> Any:
    model, mapped = kind
    if isinstance(value, list):
        return [_inside(item, kind) for item in value]
    if mapped and isinstance(value, dict):
        return {key: _inside(item, (model, False)) for key, item in value.items()}
    return respelled(value, model)


@functools.cache
def _members(model: type[msgspec.Struct]) -> dict[str, tuple[str, tuple[type[msgspec.Struct], bool] | None]]:
    """By name in lower case: the name, and the struct that the member holds (and whether in a map)."""
    fields = msgspec.structs.fields(model)
    return {field.encode_name.lower(): (field.encode_name, _struct_in(field.type, False)) for field in fields}


def _struct_in(kind: Any, mapped: bool) -> tuple[type[msgspec.Struct], bool] | None:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind, mapped
    mapped = mapped or typing.get_origin(kind) is dict
    return next((found for part in typing.get_args(kind) if (found := _struct_in(part, mapped))), None)
