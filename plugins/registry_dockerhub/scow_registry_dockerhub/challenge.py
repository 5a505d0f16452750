"""Reads ``WWW-Authenticate`` (RFC 9110 section 11.6.1; distribution-spec, "token authentication")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each is tried at one place and reads a character once: the time is linear, whatever a registry sends. (One expression
# for a whole parameter took ten seconds for two thousand blanks.)
_SEPARATORS = re.compile(r"[\s,]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_EQUALS = re.compile(r"\s*=\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BARE = re.compile(r'[^\s,"]*')
_LONGEST = 1 << 14


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks for: *scheme* in lower case (``basic``, ``bearer``), parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of *header*, in order; what cannot be read is left out, and what is beyond 16 KiB."""
    header = header[:_LONGEST]
    found: list[tuple[str, dict[str, str]]] = []
    at = _end(_SEPARATORS, header, 0)
    while at < len(header):
        token = _TOKEN.match(header, at)
        if token is None:
            at += 1
        elif equals := _EQUALS.match(header, token.end()):
            quoted = _QUOTED.match(header, equals.end())
            at = quoted.end() if quoted else _end(_BARE, header, equals.end())
            value = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header[equals.end() : at]
            if found:
                found[-1][1].setdefault(token[0].lower(), value)
        else:
            at = token.end()
            if at == len(header) or header[at] in " \t,":
                found.append((token[0].lower(), {}))
        at = _end(_SEPARATORS, header, at)
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where *pattern*, which may match nothing, ends."""
    match = pattern.match(text, at)
    return match.end() if match else at
