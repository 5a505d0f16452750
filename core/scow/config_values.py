"""Parsers of values: (value as found, key, origin) -> value, or `InvalidArgument` that names key and origin."""

from __future__ import annotations

import ipaddress  # pathlib has loaded it already
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scow.errors import InvalidArgument

Parser = Callable[[Any, str, str], Any]


def wrong(key: str, origin: str, expected: str, value: Any) -> InvalidArgument:
    return InvalidArgument(f"{key} (from {origin}): expected {expected}, got {type_name(value)} {value!r}")


def type_name(value: Any) -> str:
    return {dict: "mapping", list: "list", str: "string", int: "number", bool: "flag"}.get(
        type(value), type(value).__name__
    )


def string(value: Any, key: str, origin: str) -> str:
    if not isinstance(value, str) or not value:
        raise wrong(key, origin, "a string", value)
    return value


def path(value: Any, key: str, origin: str) -> Path:
    path = Path(string(str(value) if isinstance(value, Path) else value, key, origin))
    if not path.is_absolute():
        raise InvalidArgument(f"{key} (from {origin}): {str(path)!r} is not an absolute path")
    return path


def flag(value: Any, key: str, origin: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = value if isinstance(value, bool) else known.get(str(value).lower())
    if found is None:
        raise wrong(key, origin, "true or false", value)
    return found


def unless(value: Any, key: str, origin: str) -> bool:
    """A flag that its variable says the other way round: ``NO_PLUGINS`` is ``enabled: false``."""
    return not flag(value, key, origin) if origin == "SCOW_NO_PLUGINS" else flag(value, key, origin)


def strings(value: Any, key: str, origin: str) -> tuple[str, ...]:
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise wrong(key, origin, "a list of strings", value)
    return tuple(item for item in items if item)


def hosts(value: Any, key: str, origin: str) -> tuple[str, ...]:
    hosts = strings(value, key, origin)
    for host in hosts:
        if not re.fullmatch(r"unix:///.+|tcp://.*[^/]|fd://\d+", host):
            raise InvalidArgument(
                f"{key} (from {origin}): {host!r} is not an address",
                hint="unix:///path/to.sock, tcp://address:port or fd://3 (a socket from systemd)",
            )
    return hosts


def proxy(value: Any, key: str, origin: str) -> str:
    """``[http[s]://][user:password@]host[:port]``; no error quotes it."""
    address = urlsplit(value if "://" in value else f"http://{value}") if isinstance(value, str) else None
    try:
        usable = address is not None and address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(
            f"{key} (from {origin}): not the address of a proxy", hint="http://[user:password@]host:port"
        )
    return str(value)


def interface(value: Any, key: str, origin: str) -> str:
    name = string(value, key, origin)
    if len(name) > 15 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):  # IFNAMSIZ
        raise InvalidArgument(
            f"{key} (from {origin}): {name!r} is not an interface name (1 to 15 of A-Z a-z 0-9 _ . -)"
        )
    return name


def identifier(value: Any, key: str, origin: str) -> str:
    name = string(value, key, origin)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
        raise InvalidArgument(
            f"{key} (from {origin}): {name!r} must begin with a letter and hold A-Z a-z 0-9 _ . - only"
        )
    return name


def cgroup(value: Any, key: str, origin: str) -> str:
    name = string(value, key, origin).strip("/")
    if not name or ".." in name.split("/"):
        raise InvalidArgument(f"{key} (from {origin}): {value!r} is not a cgroup path")
    return name


def userns(value: Any, key: str, origin: str) -> str:
    if value not in ("host", "auto"):
        raise wrong(key, origin, "host or auto", value)
    return str(value)


def compression(value: Any, key: str, origin: str) -> str:
    if value not in ("gzip", "zstd"):
        raise wrong(key, origin, "gzip or zstd", value)
    return str(value)


def keeping(value: Any, key: str, origin: str) -> str:
    if value not in ("always", "until-unpacked"):
        raise wrong(key, origin, "always or until-unpacked", value)
    return str(value)


def size(value: Any, key: str, origin: str) -> int:
    """Bytes of ``64g``, ``512m`` …; a bare number is bytes."""
    found = re.fullmatch(r"([1-9][0-9]{0,17})([kmgt]?)b?", str(value).lower())
    if found is None or isinstance(value, bool):
        raise wrong(key, origin, "a size as 64g or 512m", value)
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2]]


def ids(value: Any, key: str, origin: str) -> int:
    if not str(value).isdecimal() or not 1 <= int(value) <= 1 << 31:
        raise wrong(key, origin, "a number of ids", value)
    return int(value)


def directories(value: Any, key: str, origin: str) -> tuple[str, ...]:
    return tuple(str(path(item, key, origin)) for item in strings(value, key, origin))


def subnets(value: Any, key: str, origin: str) -> str:
    subnets = strings(value, key, origin)
    try:
        return ",".join(str(ipaddress.ip_network(subnet)) for subnet in subnets)
    except ValueError as exc:
        raise InvalidArgument(f"{key} (from {origin}): {exc}") from exc


def mapping(value: Any, key: str, origin: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise wrong(key, origin, "a mapping", value)
    return value


def scalar(value: Any, key: str, origin: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise wrong(key, origin, "a string", value)
    return str(value)


def option(value: Any, key: str, origin: str) -> str:
    """The value of ``container_options.<name>`` or ``request_options.<name>``."""
    from scow.options import check_config  # it needs the drivers' values, which others that read a config do not

    text = scalar(value, key, origin)
    try:
        check_config(key, text)
    except InvalidArgument as exc:
        raise InvalidArgument(f"{key} (from {origin}): {exc}", hint=exc.hint) from exc
    return text
