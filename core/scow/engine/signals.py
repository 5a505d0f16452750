"""Signals by name and number, as Docker's clients write them."""

from __future__ import annotations

import signal

from scow.errors import InvalidArgument

_NAMES = {name.removeprefix("SIG"): member.value for name, member in signal.Signals.__members__.items()}
_NAMES |= {f"RTMIN+{n}": signal.SIGRTMIN + n for n in range(1, 16)}
_NAMES |= {f"RTMAX-{n}": signal.SIGRTMAX - n for n in range(1, 16)}


def parse_signal(text: str) -> int:
    """``KILL``, ``SIGKILL``, ``sigkill`` or ``9`` as a number; raises `InvalidArgument`."""
    if text.isdigit():
        number = int(text)
        if 0 < number <= signal.SIGRTMAX:
            return number
    name = text.upper().removeprefix("SIG")
    if name in _NAMES:
        return _NAMES[name]
    raise InvalidArgument(f"invalid signal: {text}")
