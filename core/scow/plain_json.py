"""JSON by the interpreter's own scanner and encoder, for processes that start often or are forked.

What `json` adds (regular expressions, enumerations, classes to inherit from) takes two milliseconds to import, and
pages of memory in every fork, where each further object that is looked at is a page.
"""

from __future__ import annotations

import _json
from typing import Any, NoReturn, cast

_WHITE = " \t\n\r"


class _Decoding:
    """What `json.JSONDecoder` has for the scanner."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"object of type {type(value).__name__} is not JSON serializable")


_parts = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True)
_scan = cast(Any, _json.make_scanner)(_Decoding)


def encode_json(value: Any) -> bytes:
    """*value*, a tree of plain values, as JSON. Raises `TypeError` for any other."""
    return "".join(_parts(value, 0)).encode()


def decode_json(text: str) -> Any:
    """The value that *text* is. Raises `ValueError`."""
    text = text.strip(_WHITE)
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):  # the scanner of 3.11 has no error to raise where `json` is not imported
        raise ValueError(f"not JSON: {text[:40]!r}") from None
    if end != len(text):
        raise ValueError(f"more than JSON: {text[end : end + 40]!r}")
    return value
