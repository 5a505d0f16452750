"""Detach keys: the sequence by which a client leaves a terminal that goes on.

Notation and meaning are Docker's (moby/term ``ToBytes`` and its escape proxy): keys separated by commas, each one
character or ``ctrl-`` and a letter or one of ``@ [ \\ ] ^ _``, or ``DEL``.
"""

from __future__ import annotations

from scow.errors import InvalidArgument

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_CONTROL = {f"ctrl-{chr(code + 96)}": code for code in range(1, 27)} | {
    "ctrl-@": 0,
    "ctrl-[": 27,
    "ctrl-\\": 28,
    "ctrl-]": 29,
    "ctrl-^": 30,
    "ctrl-_": 31,
    "DEL": 127,
}


def parse_keys(notation: str) -> bytes:
    """The bytes of *notation*; of ctrl-p,ctrl-q when it is empty. Raises `InvalidArgument` in Docker's words."""
    keys = bytearray()
    for key in (notation or DEFAULT_KEYS).split(","):
        if key in _CONTROL:
            keys.append(_CONTROL[key])
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise InvalidArgument(f"invalid detach keys ({notation}) provided")
    return bytes(keys)


class DetachScanner:
    """Finds *keys* in a client's input, also when they come in several reads.

    The beginning of the sequence is withheld until the next byte decides: it is part of the keys, or it is input.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of the input so far is for the process, and whether the keys came (what follows them is dropped)."""
        if not self._keys:
            return data, False
        data = self._held + data
        self._held = b""
        position = data.find(self._keys)
        if position >= 0:
            return data[:position], True
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length], False
        return data, False
