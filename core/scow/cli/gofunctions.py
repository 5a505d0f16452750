"""The functions of Go's templates and of docker's (``json``, ``join``, ``upper`` …), and how Go prints values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any


class _Missing:
    """A field that is not there: false, and printed as Go prints it."""

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()
_VERB = re.compile(r"%([-+ 0#]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")


def go_text(value: Any) -> str:
    """*value* as ``fmt.Print`` shows it: ``true``, ``[a b]``, ``map[k:v]``, ``<no value>``."""
    if value is MISSING or value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    if isinstance(value, float):
        return _float(value)
    return go_text(value()) if callable(value) else str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else go_text(value)


def _float(value: float) -> str:
    """Go's ``%v`` of a float: the shortest form, an exponent from 1e21 on and below 1e-4."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


def to_json(value: Any) -> str:
    """As docker's ``json``: without spaces, without escaping ``<``, ``>`` and ``&``."""
    return json.dumps(None if value is MISSING else value, separators=(",", ":"), ensure_ascii=False)


def truth(value: Any) -> bool:
    """Go's truth: not zero, not empty, not nil."""
    return bool(value() if callable(value) else value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, MISSING)
        elif isinstance(value, (list, tuple, str)):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = value[key]
        elif value is None or value is MISSING:
            raise ValueError("index of a value that is not there")
        else:
            raise ValueError(f"can't index {go_text(value)}")
    return value


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    return value[start : len(value) if end is None else end]


def _length(value: Any) -> int:
    if value is None or value is MISSING:
        return 0
    return len(value)


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _and(*values: Any) -> Any:
    for value in values:
        if not truth(value):
            return value
    return values[-1]


def _or(*values: Any) -> Any:
    for value in values:
        if truth(value):
            return value
    return values[-1]


def _print(*values: Any) -> str:
    """Spaces between operands when neither is a string."""
    parts: list[str] = []
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(values[i - 1], str):
            parts.append(" ")
        parts.append(go_text(value))
    return "".join(parts)


def _padded(text: str, flags: str, width: int) -> str:
    if "-" in flags:
        return text.ljust(width)
    return text.zfill(width) if "0" in flags else text.rjust(width)


def _printf(pattern: str, *values: Any) -> str:
    """``printf`` with %s %v %q %d %t %x %f %g %e, flags, widths and precisions."""
    arguments = iter(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        value: Any = next(arguments, MISSING)
        if value is MISSING:
            return f"%!{verb}(MISSING)"
        if verb in "feg":
            shown = f"%{flags.replace('-', '')}.{precision or 6}{verb}" % float(value)
        elif verb in "dxXob":
            shown = format(int(value), "" if verb == "d" else verb)
        else:
            shown = go_text(value)
            shown = shown[: int(precision)] if precision else shown
            shown = json.dumps(shown, ensure_ascii=False) if verb == "q" else shown
        return _padded(str(shown), flags, int(width or 0))

    return _VERB.sub(one, pattern)


def _join(values: Any, separator: str) -> str:
    return separator.join(go_text(value) for value in values or ())


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": _join,
    "split": lambda text, separator: str(text).split(separator),
    "title": lambda text: str(text).title(),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "pad": _pad,
    "truncate": lambda text, length: str(text)[:length],
    "table": lambda *_: "",
    "index": _index,
    "slice": _slice,
    "len": _length,
    "print": _print,
    "println": lambda *values: " ".join(go_text(value) for value in values) + "\n",
    "printf": _printf,
    "html": lambda *values: _escape_html(_print(*values)),
    "js": lambda *values: json.dumps(_print(*values))[1:-1],
    "urlquery": lambda *values: _quote(_print(*values)),
    "call": lambda function, *values: function(*values),
    "and": _and,
    "or": _or,
    "not": lambda value: not truth(value),
    "eq": _equal,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def _escape_html(text: str) -> str:
    from html import escape

    return escape(text, quote=True)


def _quote(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text)
