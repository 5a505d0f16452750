"""Times as images and filters write them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from scow.errors import InvalidArgument

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_FRACTION = re.compile(r"\.(\d{1,9})\d*")


def parse_rfc3339_ns(text: str) -> int:
    """``2024-05-01T12:00:00.5Z`` in ns since the epoch; 0 for ``""`` and times before 1970 (Go's zero time).
    Raises `InvalidArgument`."""
    if not text:
        return 0
    fraction = _FRACTION.search(text)
    try:
        moment = datetime.fromisoformat(_FRACTION.sub("", text))
    except ValueError as error:
        raise InvalidArgument(f"invalid time {text!r}", hint="expected RFC 3339") from error
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return max(0, seconds * 1_000_000_000 + (int(fraction[1].ljust(9, "0")) if fraction else 0))


def parse_time_ns(text: str) -> int:
    """A point in time: seconds since the epoch, RFC 3339, or a duration before now (``24h``). Raises
    `InvalidArgument`."""
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
    ago_ns = _duration_ns(text)
    return parse_rfc3339_ns(text) if ago_ns is None else time.time_ns() - ago_ns


def parse_duration_ns(text: str) -> int:
    """``1m30s`` in ns. Raises `InvalidArgument`."""
    found = _duration_ns(text)
    if found is None:
        raise InvalidArgument(f"invalid duration {text!r}", hint="expected a number and h, m, s, ms, us or ns")
    return found


def _duration_ns(text: str) -> int | None:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return int(sum(float(number) * _SECONDS[unit] for number, unit in parts) * 1e9)


def rfc3339(time_ns: int) -> str:
    """*time_ns* as images write it: UTC, with as many digits as it needs (Go's RFC3339Nano)."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    fraction = f".{time_ns % 1_000_000_000:09d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"
