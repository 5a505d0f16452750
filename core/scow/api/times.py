"""Times as the Engine API shows them: RFC 3339 as Go writes it, and Docker's rough durations."""

from __future__ import annotations

import time

SECOND_NS = 1_000_000_000
ZERO = "0001-01-01T00:00:00Z"  # Go's zero time

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def rfc3339(time_ns: int) -> str:
    """*time_ns* (since the epoch) as RFC 3339 with as many fractional digits as it needs; 0 is Go's zero time."""
    if not time_ns:
        return ZERO
    seconds, fraction = divmod(time_ns, SECOND_NS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


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
