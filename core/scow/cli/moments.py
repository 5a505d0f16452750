"""Points in time that people type: ``42m`` ago, a date, Unix seconds."""

from __future__ import annotations

import datetime
import re
import time

from scow.cli.sizes import duration
from scow.errors import InvalidArgument

_UNIX = re.compile(r"\d+(\.\d+)?")


def timestamp(text: str | None) -> str | None:
    """*text* as Unix seconds with nine decimals, as the API wants it; dates without a zone are local."""
    if not text:
        return None
    if _UNIX.fullmatch(text):
        return text
    try:
        nanoseconds = duration(text)
    except InvalidArgument:
        return _date(text)
    return _seconds(time.time_ns() - nanoseconds)


def _date(text: str) -> str:
    head, dot, tail = text.partition(".")
    fraction = re.match(r"\d{1,9}", tail) if dot else None
    rest = tail[fraction.end() :] if fraction else tail
    try:
        moment = datetime.datetime.fromisoformat(head + rest)
    except ValueError as error:
        hint = "use a date (2026-01-02T13:23:37Z), Unix seconds, or an age (42m)"
        raise InvalidArgument(f"invalid time {text!r}", hint=hint) from error
    whole = int(moment.timestamp())
    return _seconds(whole * 10**9 + int((fraction[0] if fraction else "0").ljust(9, "0")))


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
