"""The terminal of this process: raw mode and back, its size, and the keys that detach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from scow.errors import InvalidArgument

DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q, docker's default


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Bytes go through unchanged inside the block; the former mode is back after it."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)  # not TCSAFLUSH: what was typed ahead is for the container
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def size() -> tuple[int, int] | None:
    """Rows and columns of the terminal on standard output (or input); None without one."""
    for descriptor in (1, 0):
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return rows, columns
    return None


def detach_keys(text: str | None) -> bytes:
    """``ctrl-p,ctrl-q`` as the bytes that a terminal sends; raises `InvalidArgument`."""
    if not text:
        return DETACH_KEYS
    keys = bytearray()
    for word in text.split(","):
        if len(word) == 1:
            keys += word.encode()
        elif word.startswith("ctrl-") and len(word) == 6 and (word[5].isalpha() or word[5] in "@[\\]^_"):
            keys.append(ord(word[5].upper()) - 64)
        else:
            raise InvalidArgument(
                f"invalid detach keys {text!r}: {word!r}", hint="use letters or ctrl-LETTER: ctrl-x,x"
            )
    return bytes(keys)


class KeyWatch:
    """Sees whether *keys* were typed one after the other, over any cut of the input.

    The daemon acts on them; this side only has to know that the end of the stream was a detach and not an exit.
    """

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self.matched = 0
        self.seen = False

    def feed(self, data: bytes) -> None:
        if not self.seen and self.matched == 0 and self.keys[0] not in data:
            return
        for byte in data:
            if byte == self.keys[self.matched]:
                self.matched += 1
            else:
                self.matched = int(byte == self.keys[0])
            if self.matched == len(self.keys):
                self.seen, self.matched = True, 0
