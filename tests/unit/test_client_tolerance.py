"""What clients may do: spell members in any case, mix terminals and frames, filter by regular expressions."""

from __future__ import annotations

import pytest

from scow.engine.filters import match_pattern
from scow.engine.framing import STDERR, AddFrames, StripFrames, between, frame
from scow.engine.net_stats import parse
from scow.types import CreateRequest, ExecRequest, decode

NET_DEV = """Inter-|   Receive                            |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  100       1    0    0    0     0          0         0   100       1    0    0    0     0       0          0
  eth0:  516       6    1    2    0     0          0         0    90       3    4    5    0     0       0          0
"""


def test_members_are_known_in_any_case() -> None:
    assert decode(b'{"detachKeys": "ctrl-a", "CMD": ["x"]}', ExecRequest) == ExecRequest(
        detach_keys="ctrl-a", cmd=["x"]
    )
    request = decode(
        b'{"image": "x", "Labels": {"Image": "kept", "a": "b"}, "hostconfig": {"MEMORY": 5, '
        b'"portbindings": {"80/tcp": [{"hostport": "1"}]}, "mounts": [{"TARGET": "/v"}]}}',
        CreateRequest,
    )
    assert (request.image, request.labels) == ("x", {"Image": "kept", "a": "b"})
    assert request.host_config.memory == 5
    mappings = request.host_config.port_bindings["80/tcp"]
    assert mappings is not None
    assert mappings[0].host_port == "1"
    assert request.host_config.mounts[0].target == "/v"


@pytest.mark.parametrize("body", [b'{"Image": "right", "image": "wrong"}', b'{"image": "wrong", "Image": "right"}'])
def test_of_two_spellings_the_right_one_wins(body: bytes) -> None:
    assert decode(body, CreateRequest).image == "right"


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_frames_are_stripped_whatever_pieces_they_come_in(size: int) -> None:
    data = frame(b"one") + frame(b"lost", STDERR) + frame(b"") + frame(b"two")
    strip = StripFrames()
    assert b"".join(strip.feed(data[at : at + size]) for at in range(0, len(data), size)) == b"onetwo"


def test_framing_stands_between_a_process_and_a_client_that_differ() -> None:
    assert between(True, True) is None
    assert between(False, False) is None
    assert isinstance(between(False, True), StripFrames)
    assert AddFrames().feed(b"abc") == b"\x01\0\0\0\0\0\0\x03abc"


def test_counters_of_interfaces_are_read_without_the_loopback() -> None:
    assert parse(NET_DEV) == {
        "eth0": {
            "rx_bytes": 516, "rx_packets": 6, "rx_errors": 1, "rx_dropped": 2,
            "tx_bytes": 90, "tx_packets": 3, "tx_errors": 4, "tx_dropped": 5,
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "text", "found"),
    [(["b"], "abc", True), (["^b"], "abc", False), (["x", "^a.c$"], "abc", True), (["a("], "a(b", True)],
)
def test_names_are_matched_by_regular_expressions(patterns: list[str], text: str, found: bool) -> None:
    assert match_pattern(patterns, text) is found
