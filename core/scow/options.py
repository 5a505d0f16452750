"""Scow's own options of a container: one table, for users of clients that do not know them.

An option is asked for by the annotation ``scow.<name>`` or else the label ``scow.<name>`` of a create request (a flag
of ``scow`` is sent as the annotation); where neither is given, the config's ``container_options.<name>`` holds. The
labels of an *image* are never looked at: an image must not grant itself anything. ``request_options.<name>: deny`` in
the config keeps requests from using it.

A new option is a field of `Options` and a line of `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scow import rates
from scow.errors import Forbidden, InvalidArgument
from scow.ports.network import Rates

PREFIX = "scow."
POLICIES = ("allow", "deny")
USERNS_MODES = ("", "host", "auto")  # "": as the config says


@dataclass(frozen=True, slots=True)
class Options:
    """What Scow's own options say of one container; a field that nobody named has its default."""

    net_rate: Rates = Rates()
    userns: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the table. *field* is its place in `Options`, *parse* makes a text its value or raises
    `InvalidArgument`, *show* is the way back (one text a value). *key* is the config's for its default, where that is
    not in ``container_options``."""

    field: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    key: str = ""


def _userns(text: str) -> str:
    if text not in USERNS_MODES:
        raise InvalidArgument(f"invalid userns mode: {text}", hint="use auto or host")
    return text


TABLE: dict[str, Option] = {
    "net-rate": Option("net_rate", rates.parse, rates.show),
    "userns": Option("userns", _userns, key="userns"),
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """*options* hold; *asked* are those of them that the request named, as annotations in one spelling."""

    options: Options
    asked: dict[str, str]


def resolve(
    annotations: Mapping[str, str],
    labels: Mapping[str, str],
    defaults: Mapping[str, str],
    policies: Mapping[str, str],
) -> Resolved:
    """The options of a create request; *defaults* and *policies* are the config's, by name.

    Raises `InvalidArgument` for an option that there is not (listing those there are) or a value that it does not take,
    and `Forbidden` for one that the config denies.
    """
    values = {name: option(name).parse(text) for name, text in defaults.items()}
    named: dict[str, Any] = {}
    for kind, source in (("label", labels), ("annotation", annotations)):  # the later counts more
        for key, text in source.items():
            if key.startswith(PREFIX):
                name = key.removeprefix(PREFIX)
                named[name] = _value(name, text, kind, policies)
    values.update(named)
    fields = {TABLE[name].field: value for name, value in values.items()}
    asked = {PREFIX + name: TABLE[name].show(value) for name, value in named.items()}
    return Resolved(Options(**fields), asked)


def option(name: str) -> Option:
    """The option *name* (without prefix); raises `InvalidArgument` that lists those there are."""
    if name not in TABLE:
        raise InvalidArgument(f"unknown option '{PREFIX}{name}'", hint=f"known: {', '.join(PREFIX + n for n in TABLE)}")
    return TABLE[name]


def check_allowed(name: str, policies: Mapping[str, str]) -> None:
    """Raises `Forbidden` where the config denies requests the option *name*."""
    if policies.get(name) == "deny":
        raise Forbidden(
            f"option '{PREFIX}{name}' is denied by the configuration of this engine",
            hint=f"request_options.{name} says so",
        )


def check_config(key: str, text: str) -> None:
    """Raises `InvalidArgument` where *text* cannot be the config's ``container_options.<name>`` or
    ``request_options.<name>``."""
    section, _, name = key.partition(".")
    known = option(name)
    if section == "container_options":
        if known.key:
            raise InvalidArgument(f"the default of '{PREFIX}{name}' is another key", hint=f"set {known.key}")
        known.parse(text)
    elif text not in POLICIES:
        raise InvalidArgument(f"expected {' or '.join(POLICIES)}, got {text!r}")


def _value(name: str, text: str, kind: str, policies: Mapping[str, str]) -> Any:
    known = option(name)
    check_allowed(name, policies)
    try:
        return known.parse(text)
    except InvalidArgument as error:
        error.message = f"{kind} {PREFIX}{name}: {error.message}"
        raise
