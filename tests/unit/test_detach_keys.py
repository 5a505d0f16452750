"""Detach keys: Docker's notation, and finding them in split input."""

from __future__ import annotations

import pytest

from scow.engine.detach import DetachScanner, parse_keys
from scow.errors import InvalidArgument


def test_the_default_is_ctrl_p_ctrl_q() -> None:
    assert parse_keys("") == b"\x10\x11"


def test_the_notation_is_dockers() -> None:
    assert parse_keys("ctrl-x,a") == b"\x18a"
    assert parse_keys("ctrl-@,ctrl-\\,ctrl-_,DEL,Z") == b"\x00\x1c\x1f\x7fZ"


@pytest.mark.parametrize("keys", ["ctrl-", "ctrl-1", "abc", "a,,b", "é", "CTRL-A"])
def test_what_is_no_notation_is_refused(keys: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid detach keys"):
        parse_keys(keys)


def test_keys_are_found_however_the_input_is_split() -> None:
    data = b"some\x10text\x10\x10\x11dropped"
    for cut in range(len(data) + 1):
        scanner = DetachScanner(b"\x10\x11")
        head, found = scanner.feed(data[:cut])
        rest, found_later = (b"", False) if found else scanner.feed(data[cut:])
        assert (head + rest, found or found_later) == (b"some\x10text\x10", True)


def test_the_beginning_of_the_keys_is_input_when_the_rest_does_not_come() -> None:
    scanner = DetachScanner(b"\x10\x11")
    assert scanner.feed(b"a\x10") == (b"a", False)
    assert scanner.feed(b"b") == (b"\x10b", False)
    assert scanner.feed(b"\x10") == (b"", False)
    assert scanner.feed(b"\x10") == (b"\x10", False)
    assert scanner.feed(b"\x11") == (b"", True)


def test_a_single_key_and_repeated_ones_are_found() -> None:
    assert DetachScanner(b"q").feed(b"abqc") == (b"ab", True)
    scanner = DetachScanner(b"aab")
    assert scanner.feed(b"aaa") == (b"a", False)
    assert scanner.feed(b"b") == (b"", True)
