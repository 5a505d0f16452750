"""Signals by name or number, as kill(1) takes them."""

from __future__ import annotations

import signal

from scow.errors import InvalidArgument

_HIGHEST = 64


def number(text: str) -> int:
    """The number of the signal *text*: ``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``. Raises `InvalidArgument`."""
    if text.isdigit():
        if int(text) > _HIGHEST:
            raise InvalidArgument(f"unknown signal {text!r}")
        return int(text)
    name, plus, more = text.upper().removeprefix("SIG").partition("+")
    found = getattr(signal, f"SIG{name}", None)
    if isinstance(found, signal.Signals) and (not plus or more.isdigit()):
        total = int(found) + int(more or 0)
        if total <= _HIGHEST:
            return total
    raise InvalidArgument(f"unknown signal {text!r}")
