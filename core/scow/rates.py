"""Rates of a network in words, as tc(8) spells them: ``in=10mbit,out=1mbit``."""

from __future__ import annotations

import re
from dataclasses import replace

from scow.errors import InvalidArgument
from scow.ports.network import Rates

TAKES = (
    "in=RATE,out=RATE, one of them, or off; RATE: a number with bit, kbit, mbit, gbit, bps, kbps, mbps or gbps, or off"
)
OFF = ("off", "0", "false", "none")  # false: YAML's reading of a bare off
LOWEST_BITS, HIGHEST_BITS = 8_000, 10**12  # a full frame takes 1.5 s at the lowest
UNLIMITED = Rates()
_UNITS = {
    f"{prefix}{unit}": bits * factor
    for unit, bits in (("bit", 1), ("bps", 8))
    for prefix, factor in (("", 1), ("k", 10**3), ("m", 10**6), ("g", 10**9), ("t", 10**12))
}
_RATE = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,9})?)([a-z]*)")


def parse(text: str, before: Rates = UNLIMITED) -> Rates:
    """*text* as rates; a side that it does not name keeps that of *before*. Raises `InvalidArgument`."""
    if text.strip().lower() in OFF:
        return UNLIMITED
    sides: dict[str, int] = {}
    for part in text.split(","):
        side, equals, rate = (word.strip().lower() for word in part.partition("="))
        if side not in ("in", "out") or not equals or side in sides:
            raise InvalidArgument(f"{text!r} is no pair of network rates", hint=f"use {TAKES}")
        sides[side] = bits(rate)
    return replace(before, **{f"{side}_bits": value for side, value in sides.items()})


def bits(text: str) -> int:
    """Bits per second of ``10mbit`` or ``1.25mbps`` (bytes); a bare number is bits; 0 for ``off``."""
    if text.lower() in OFF:
        return 0
    match = _RATE.fullmatch(text.lower())
    factor = _UNITS.get(match[2] or "bit") if match else None
    if match is None or factor is None:
        raise InvalidArgument(
            f"{text!r} is no network rate", hint="use a number with bit, kbit, mbit, gbit (bits) or bps, kbps … (bytes)"
        )
    value = round(float(match[1]) * factor)
    if not LOWEST_BITS <= value <= HIGHEST_BITS:
        raise InvalidArgument(f"network rate {text} is not within 8kbit and 1tbit")
    return value


def show(rates: Rates) -> str:
    """*rates* in the spelling that `parse` reads."""
    sides = [f"{side}={_shown(value)}" for side, value in (("in", rates.in_bits), ("out", rates.out_bits)) if value]
    return ",".join(sides) or "off"


def _shown(value: int) -> str:
    for unit, factor in (("gbit", 10**9), ("mbit", 10**6), ("kbit", 10**3)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return f"{value}bit"
