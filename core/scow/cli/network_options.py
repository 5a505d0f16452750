"""``--network`` in both notations, ``--ip``, ``--network-alias``, ``--link``, ``--mac-address``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scow.cli.mounts import csv
from scow.errors import InvalidArgument

_LISTS = {"alias": "Aliases", "link-local-ip": "LinkLocalIPs"}
_WORDS = {"ip": "IPv4Address", "ip6": "IPv6Address", "mac-address": "MacAddress"}
Endpoint = dict[str, Any]


def is_user_defined(mode: str) -> bool:
    """Neither one of the built-in modes nor another container's network."""
    return mode not in ("", "default", "bridge", "host", "none") and not mode.startswith("container:")


def networks_of(flags: Mapping[str, Any]) -> tuple[str, dict[str, Endpoint]]:
    """The network mode (the first network) and the API's EndpointsConfig; raises `InvalidArgument`."""
    targets = [_parse(text) for text in [*flags["network"], *flags["net"]]]
    if not targets:
        targets = [("default", {})]
    mode = targets[0][0]
    kinds = {is_user_defined(name) for name, _ in targets}
    if len(kinds) > 1:
        raise InvalidArgument("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    _add_flags(targets[0][1], mode, flags)
    if targets[0][1].get("Aliases") and not is_user_defined(mode):
        raise InvalidArgument("network-scoped aliases are only supported for user-defined networks")
    endpoints: dict[str, Endpoint] = {}
    for name, options in targets:
        if name in endpoints:
            raise InvalidArgument(f"network {name!r} is specified multiple times")
        endpoints[name] = _endpoint(options)
    if len(endpoints) == 1 and not endpoints[mode]:
        endpoints = {}
    return mode, endpoints


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """``NAME`` or ``name=NAME,alias=…,ip=…,driver-opt=k=v,gw-priority=1``."""
    if "=" not in text:
        return text, {}
    options: dict[str, Any] = {}
    name = ""
    for field in csv(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            raise InvalidArgument(f"invalid field {field!r} in --network {text!r}: must be a key=value pair")
        if key == "name":
            name = value
        elif key in _LISTS:
            options.setdefault(_LISTS[key], []).append(value)
        elif key in _WORDS:
            options[_WORDS[key]] = value
        elif key == "driver-opt":
            option, _, content = value.partition("=")
            options.setdefault("DriverOpts", {})[option.lower()] = content
        elif key == "gw-priority":
            options["GwPriority"] = _whole(value)
        else:
            raise InvalidArgument(f"invalid field key {key!r} in --network {text!r}")
    if not name:
        raise InvalidArgument(f"network name or id is not specified in --network {text!r}")
    return name, options


def _add_flags(options: dict[str, Any], mode: str, flags: Mapping[str, Any]) -> None:
    """The flags that stand for themselves are for the first network."""
    given = {
        "Aliases": [*flags["network_alias"], *flags["net_alias"]],
        "IPv4Address": flags["ip"],
        "IPv6Address": flags["ip6"],
        "LinkLocalIPs": list(flags["link_local_ip"]),
        "MacAddress": flags["mac_address"],
        "Links": list(flags["link"]) if is_user_defined(mode) else None,
    }
    for key, value in given.items():
        if not value:
            continue
        if options.get(key):
            raise InvalidArgument(f"conflicting options: {key} is given by a flag and in --network")
        options[key] = value


def _endpoint(options: Mapping[str, Any]) -> Endpoint:
    ipam = {key: options[key] for key in ("IPv4Address", "IPv6Address", "LinkLocalIPs") if options.get(key)}
    endpoint = {key: value for key, value in options.items() if key not in ipam and value}
    if ipam:
        endpoint["IPAMConfig"] = ipam
    return endpoint


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid gw-priority: {text!r} is not a number") from error
