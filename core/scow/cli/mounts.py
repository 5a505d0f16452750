"""``-v``, ``--mount``, ``--tmpfs`` and ``--device``: from docker's notation to the API's objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from scow.cli.sizes import size
from scow.errors import InvalidArgument

_BARE = {"readonly", "ro", "volume-nocopy", "idmap", "ridmap"}
_OF_BINDS = {"type", "source", "target", "readonly", "bind-propagation", "idmap", "ridmap"}
_SYNONYMS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_RECURSIVE = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}


def volume(text: str) -> tuple[str, str]:
    """One ``-v``: ``(bind, "")`` with a source, ``("", path)`` for an anonymous volume."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]):
        raise InvalidArgument(f"invalid volume specification: {text!r}", hint="use [SOURCE:]TARGET[:OPTIONS]")
    if len(parts) == 1:
        return "", text
    if parts[0].startswith("."):
        parts[0] = os.path.abspath(parts[0])
    return ":".join(parts), ""


def mount(text: str) -> dict[str, Any]:
    """One ``--mount type=bind,src=…,dst=…`` as the API's Mount."""
    fields = list(_fields(text))
    result: dict[str, Any] = {"Type": "volume"}
    options: dict[str, dict[str, Any]] = {"bind": {}, "volume": {}, "tmpfs": {}, "image": {}}
    for key, value in fields:
        if key in _PLAIN:
            _PLAIN[key](result, value)
            continue
        kind, _, name = key.partition("-")
        setter = _OPTIONS.get(key)
        if setter is None:
            raise InvalidArgument(f"unknown option {key!r} in --mount {text!r}")
        setter(options[kind], value, name)
    if not result.get("Target"):
        raise InvalidArgument(f"no target in --mount {text!r}", hint="add target=PATH")
    for kind, chosen in options.items():
        if chosen and kind != result["Type"]:
            raise InvalidArgument(f"cannot mix '{kind}-*' options with mount type {result['Type']!r}")
        if chosen:
            result[f"{kind.capitalize()}Options"] = chosen
    return result


def idmapped_bind(text: str) -> str:
    """``--mount type=bind,…,idmap`` as a ``-v``, for which alone the API has that word; ``""`` for any other mount."""
    fields = dict(_fields(text))
    words: list[str] = [key for key in ("idmap", "ridmap") if key in fields]
    if not words:
        return ""
    given = {"type": "volume", "source": "", "target": "", **fields}
    if given["type"].lower() != "bind" or not given["source"] or not given["target"] or set(fields) - _OF_BINDS:
        raise InvalidArgument(
            f"{words[0]} in --mount {text!r}: only a bind with source and target can be idmapped",
            hint="beside them it takes readonly and bind-propagation",
        )
    source: dict[str, Any] = {}
    _source(source, given["source"])
    words += ["ro"] if boolean(fields.get("readonly", "false"), "readonly") else []
    words += [fields["bind-propagation"].lower()] if "bind-propagation" in fields else []
    return f"{source['Source']}:{given['target']}:{','.join(words)}"


def _fields(text: str) -> Iterable[tuple[str, str]]:
    for field in csv(text):
        key, equals, value = field.partition("=")
        key = _SYNONYMS.get(key.strip().lower(), key.strip().lower())
        if not equals:
            if key not in _BARE:
                raise InvalidArgument(f"invalid field {field!r} in --mount {text!r}: must be a key=value pair")
            value = "true"
        yield key, value


def csv(text: str) -> list[str]:
    """The comma-separated fields of *text*; one that is in double quotes may hold commas."""
    if '"' not in text:
        return text.split(",")
    import csv as csv_format

    return next(csv_format.reader([text], strict=True))


def boolean(text: str, name: str) -> bool:
    """Go's ``ParseBool``."""
    value = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}.get(text.lower())
    if value is None:
        raise InvalidArgument(f"invalid value for {name}: {text!r} is not true or false")
    return value


def _source(result: dict[str, Any], value: str) -> None:
    result["Source"] = os.path.abspath(value) if value == "." or value.startswith("./") else value


def _type(result: dict[str, Any], value: str) -> None:
    result["Type"] = value.lower()


def _readonly(result: dict[str, Any], value: str) -> None:
    result["ReadOnly"] = boolean(value, "readonly")


_PLAIN: dict[str, Callable[[dict[str, Any], str], None]] = {
    "type": _type,
    "source": _source,
    "target": lambda result, value: result.update(Target=value),
    "readonly": _readonly,
    "consistency": lambda result, value: result.update(Consistency=value.lower()),
}


def _propagation(options: dict[str, Any], value: str, name: str) -> None:
    options["Propagation"] = value.lower()


def _recursive(options: dict[str, Any], value: str, name: str) -> None:
    if value not in _RECURSIVE:
        raise InvalidArgument(
            f"invalid value for bind-recursive: {value!r}", hint=f"use one of {', '.join(_RECURSIVE)}"
        )
    options.update(_RECURSIVE[value])


def _nocopy(options: dict[str, Any], value: str, name: str) -> None:
    options["NoCopy"] = boolean(value, "volume-nocopy")


def _subpath(options: dict[str, Any], value: str, name: str) -> None:
    options["Subpath"] = value


def _label(options: dict[str, Any], value: str, name: str) -> None:
    key, _, text = value.partition("=")
    options.setdefault("Labels", {})[key] = text


def _driver(options: dict[str, Any], value: str, name: str) -> None:
    options.setdefault("DriverConfig", {})["Name"] = value


def _driver_option(options: dict[str, Any], value: str, name: str) -> None:
    key, _, text = value.partition("=")
    options.setdefault("DriverConfig", {}).setdefault("Options", {})[key] = text


def _tmpfs_size(options: dict[str, Any], value: str, name: str) -> None:
    options["SizeBytes"] = size(value)


def _tmpfs_mode(options: dict[str, Any], value: str, name: str) -> None:
    try:
        options["Mode"] = int(value, 8)
    except ValueError as error:
        raise InvalidArgument(f"invalid value for tmpfs-mode: {value!r} is not octal") from error


_OPTIONS: dict[str, Callable[[dict[str, Any], str, str], None]] = {
    "bind-propagation": _propagation,
    "bind-recursive": _recursive,
    "volume-nocopy": _nocopy,
    "volume-subpath": _subpath,
    "volume-label": _label,
    "volume-driver": _driver,
    "volume-opt": _driver_option,
    "image-subpath": _subpath,
    "tmpfs-size": _tmpfs_size,
    "tmpfs-mode": _tmpfs_mode,
}


def tmpfs(values: Iterable[str]) -> dict[str, str]:
    """Each ``--tmpfs PATH[:OPTIONS]``."""
    return {path: options for path, _, options in (value.partition(":") for value in values)}


def device(text: str) -> dict[str, str]:
    """One ``--device HOST[:CONTAINER][:rwm]`` as the API's DeviceMapping."""
    source, *rest = text.split(":")
    target, permissions = source, "rwm"
    if len(rest) == 2:
        target, permissions = rest
    elif len(rest) == 1 and _is_mode(rest[0]):
        permissions = rest[0]
    elif len(rest) == 1:
        target = rest[0]
    if len(rest) > 2 or not source or not _is_mode(permissions):
        raise InvalidArgument(f"invalid device specification: {text!r}", hint="use HOST[:CONTAINER][:rwm]")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": permissions}


def is_cdi_name(text: str) -> bool:
    """``vendor.com/class=name``: a device of the Container Device Interface, not a path."""
    kind, equals, name = text.partition("=")
    return bool(equals and name and not text.startswith("/") and kind.count("/") == 1)


def _is_mode(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and set(text) <= set("rwm")


def gpus(text: str) -> dict[str, Any]:
    """``--gpus``: ``all``, a number, or ``driver=…,count=…,"device=0,1",capabilities=…``."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    for field in csv(text):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", field
        if key == "count":
            request["Count"] = -1 if value == "all" else _whole(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*dict.fromkeys([*value.split(","), "gpu"])]]
        elif key == "options":
            request["Options"] = dict(option.partition("=")[::2] for option in csv(value))
        else:
            raise InvalidArgument(f"unexpected key {key!r} in --gpus {text!r}")
    if not request["Count"] and not request["DeviceIDs"]:
        request["Count"] = 1
    return request


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise InvalidArgument(f"invalid count in --gpus: {text!r} is not a number or 'all'")
    return int(text)
