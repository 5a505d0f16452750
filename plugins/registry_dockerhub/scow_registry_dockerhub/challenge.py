"""Reads ``WWW-Authenticate`` (RFC 9110 section 11.6.1; distribution-spec, "token authentication")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?=\s|,|$)(?!\s*=)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks for: *scheme* in lower case (``basic``, ``bearer``), parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of *header*, in order; what cannot be read is left out."""
    found: list[Challenge] = []
    at = 0
    while at < len(header):
        if scheme := _SCHEME.match(header, at):
            at = scheme.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, at):
                quoted, bare = parameter.group(2), parameter.group(3)
                value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters.setdefault(parameter.group(1).lower(), value)
                at = parameter.end()
            found.append(Challenge(scheme.group(1).lower(), parameters))
        else:
            at += 1
    return found
