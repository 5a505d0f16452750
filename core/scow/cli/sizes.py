"""Amounts as docker reads them: bytes (``10m``), durations (``1m30s``), CPUs (``1.5``), ulimits, rates, key=value."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from scow.errors import InvalidArgument

_UNITS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"([0-9.]+) ?(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]*\.?[0-9]*)(ns|us|µs|ms|s|m|h)")
_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
ULIMITS = frozenset(
    ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc")
    + ("rss", "rtprio", "rttime", "sigpending", "stack")
)


def size(text: str) -> int:
    """Bytes in *text*; units are powers of 1024 (go-units ``RAMInBytes``)."""
    match = _SIZE.fullmatch(text)
    try:
        number = Decimal(match[1]) if match else None
    except InvalidOperation:
        number = None
    if match is None or number is None:
        raise InvalidArgument(f"invalid size: {text!r}", hint="use a number and b, k, m, g, t or p: 512m")
    return int(number * 1024 ** _UNITS.get((match[2] or "").lower(), 0))


def size_or_unlimited(text: str) -> int:
    """As `size`, and ``-1`` for no limit."""
    return -1 if text == "-1" else size(text)


def duration(text: str) -> int:
    """Nanoseconds in *text* (Go's ``ParseDuration``): ``1h2m3.5s``, ``0``."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, position = Decimal(0), 0
    for match in _DURATION.finditer(rest):
        if match.start() != position or match[1] in ("", "."):
            break
        total += Decimal(match[1]) * _NS[match[2]]
        position = match.end()
    if not rest or position != len(rest):
        raise InvalidArgument(f"invalid duration: {text!r}", hint="use numbers with units: 300ms, 1m30s, 2h")
    return sign * int(total)


def nano_cpus(text: str) -> int:
    """Billionths of a CPU in *text*."""
    try:
        nano = Decimal(text) * 10**9
        whole = int(nano)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise InvalidArgument(f"invalid number of CPUs: {text!r}") from error
    if nano != whole:
        raise InvalidArgument(f"invalid number of CPUs: {text!r} is too precise")
    return whole


def ulimit(text: str) -> dict[str, object]:
    """``nofile=1024:2048`` as the API's Ulimit."""
    name, equals, limits = text.partition("=")
    soft_text, colon, hard_text = limits.partition(":")
    if not equals or name not in ULIMITS:
        raise InvalidArgument(
            f"invalid ulimit: {text!r}", hint=f"use NAME=SOFT[:HARD]; names: {', '.join(sorted(ULIMITS))}"
        )
    try:
        soft = int(soft_text)
        hard = int(hard_text) if colon else soft
    except ValueError as error:
        raise InvalidArgument(f"invalid ulimit: {text!r}: limits are whole numbers") from error
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidArgument(f"invalid ulimit: {text!r}: the soft limit is above the hard limit")
    return {"Name": name, "Soft": soft, "Hard": hard}


def rate(text: str, *, in_bytes: bool) -> dict[str, object]:
    """``/dev/sda:1mb`` as the API's ThrottleDevice."""
    path, amount = _device_value(text, "RATE")
    if in_bytes:
        return {"Path": path, "Rate": size(amount)}
    if not amount.isdecimal():
        raise InvalidArgument(f"invalid rate for {path}: {amount!r} is not a positive number")
    return {"Path": path, "Rate": int(amount)}


def weight(text: str) -> dict[str, object]:
    """``/dev/sda:200`` as the API's WeightDevice."""
    path, amount = _device_value(text, "WEIGHT")
    if not amount.isdecimal() or int(amount) and not 10 <= int(amount) <= 1000:
        raise InvalidArgument(f"invalid weight for {path}: {amount!r} is not between 10 and 1000, nor 0")
    return {"Path": path, "Weight": int(amount)}


def _device_value(text: str, what: str) -> tuple[str, str]:
    path, _, value = text.partition(":")
    if not path.startswith("/dev/") or not value:
        raise InvalidArgument(f"bad format for a device: {text!r}", hint=f"use /dev/NAME:{what}")
    return path, value


def pairs(values: tuple[str, ...] | list[str]) -> dict[str, str]:
    """``k=v`` words as a mapping; a bare ``k`` has the value ``""``."""
    return {key: value for key, _, value in (word.partition("=") for word in values)}
