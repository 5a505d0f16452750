"""Times as the Engine API writes and reads them: RFC 3339 with nanoseconds, unix seconds, and Docker's rough durations."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone

from scow.errors import InvalidArgument

SECOND_NS = 1_000_000_000
ZERO = "0001-01-01T00:00:00Z"  # Go's zero time

_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9})\d*)?")
_FRACTION = re.compile(r"\.(\d+)")

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def rfc3339(time_ns: int) -> str:
    """*time_ns* (since the epoch) as RFC 3339 with as many fractional digits as it needs; 0 is Go's zero time."""
    if not time_ns:
        return ZERO
    seconds, fraction = divmod(time_ns, SECOND_NS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def parse_time(text: str) -> int:
    """ns since the epoch from ``seconds[.fraction]`` or RFC 3339 (a date alone is midnight UTC); 0 for ``""`` and
    ``"0"``. Raises `InvalidArgument`."""
    if not text:
        return 0
    if match := _UNIX.fullmatch(text):
        fraction = int((match[2] or "").ljust(9, "0"))
        seconds = int(match[1])
        return seconds * SECOND_NS + (-fraction if text.startswith("-") else fraction)
    digits = _FRACTION.search(text)
    try:
        moment = datetime.fromisoformat(_FRACTION.sub("", text, count=1).replace("Z", "+00:00"))
    except ValueError:
        hint = "expected unix seconds or RFC 3339"
        raise InvalidArgument(f"failed to parse value as time: {text!r}", hint=hint) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    fraction = int(digits[1][:9].ljust(9, "0")) if digits else 0
    return int(moment.timestamp()) * SECOND_NS + fraction


def human_duration(seconds: float) -> str:
    """About how long, in the words of Docker's ``units.HumanDuration`` ("5 seconds", "About an hour", "3 weeks")."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    if whole < 2 * _MINUTE:
        return "About a minute"
    if whole < _HOUR:
        return f"{whole // _MINUTE} minutes"
    hours = int(seconds / _HOUR + 0.5)
    if hours <= 1:
        return "About an hour"
    return _long_duration(hours)


def _long_duration(hours: int) -> str:
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 365:
        return f"{days // 30} months"
    return f"{days // 365} years"
