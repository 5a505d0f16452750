"""Amounts, ports, mounts, times, keys: what people type on the command line."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from scow.cli import mounts, ports, sizes
from scow.cli.hosts import DEFAULT_HOST, choose
from scow.cli.moments import timestamp
from scow.cli.terminal import DETACH_KEYS, KeyWatch, detach_keys
from scow.errors import InvalidArgument, Unsupported


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("32", 32),
        ("32b", 32),
        ("32B", 32),
        ("32k", 32 << 10),
        ("32KB", 32 << 10),
        ("32Kib", 32 << 10),
        ("32.5 kB", int(32.5 * 1024)),
        ("1.5g", 1610612736),
        ("3T", 3 << 40),
        ("1p", 1 << 50),
        (".5m", 1 << 19),
    ],
)
def test_sizes_are_in_powers_of_1024(text: str, expected: int) -> None:
    assert sizes.size(text) == expected


@pytest.mark.parametrize("text", ["", "hello", "-32", "32x", "32kbx", "32bb", "1..2m", " 32", "32  k", "m"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        sizes.size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1m30s", 90 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("300ms", 3 * 10**8),
        ("2us", 2000),
        ("2µs", 2000),
        ("7ns", 7),
        ("-1s", -(10**9)),
    ],
)
def test_durations_are_gos(text: str, expected: int) -> None:
    assert sizes.duration(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "1s 2s", ".s", "1m2"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid duration"):
        sizes.duration(text)


def test_a_range_with_one_container_port_is_any_port_of_the_range() -> None:
    assert ports.publish("8000-8010:80") == [ports.Published("80/tcp", "", "8000-8010")]


def test_ranges_are_published_port_by_port() -> None:
    assert [p.host_port for p in ports.publish("127.0.0.1:8000-8002:90-92/udp")] == ["8000", "8001", "8002"]


def test_the_error_of_a_port_names_what_was_typed() -> None:
    with pytest.raises(InvalidArgument, match="'x' in '80:x'"):
        ports.publish("80:x")


def test_a_volume_with_too_many_parts_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid volume specification"):
        mounts.volume("a:b:c:d")


def test_a_relative_source_is_made_absolute() -> None:
    assert mounts.volume("./x:/y:ro") == (f"{os.getcwd()}/x:/y:ro", "")


def test_a_quoted_field_of_a_mount_may_hold_commas() -> None:
    spec = mounts.mount('type=volume,dst=/v,"volume-opt=o=addr=1.2.3.4,rw"')
    assert spec["VolumeOptions"]["DriverConfig"]["Options"] == {"o": "addr=1.2.3.4,rw"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1700000000", "1700000000"), ("2023-11-14T22:13:20Z", "1700000000.000000000"), (None, None), ("", None)],
)
def test_moments_are_unix_seconds(text: str | None, expected: str | None) -> None:
    assert timestamp(text) == expected


def test_a_date_keeps_its_nanoseconds() -> None:
    assert timestamp("2023-11-14T22:13:20.123456789Z") == "1700000000.123456789"


def test_an_age_counts_from_now() -> None:
    assert float(timestamp("1h") or 0) == pytest.approx(time.time() - 3600, abs=5)


def test_what_is_no_moment_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid time 'yesterday'"):
        timestamp("yesterday")


@pytest.mark.parametrize(
    ("flag", "environ", "expected", "origin"),
    [
        ("unix:///a", {"SCOW_HOST": "unix:///b"}, "unix:///a", "--host"),
        (None, {"SCOW_HOST": "unix:///b", "DOCKER_HOST": "unix:///c"}, "unix:///b", "SCOW_HOST"),
        (None, {"DOCKER_HOST": "tcp://box:99"}, "tcp://box:99", "DOCKER_HOST"),
        (None, {}, DEFAULT_HOST, ""),
    ],
)
def test_the_flag_goes_before_the_environment(flag: str | None, environ: Any, expected: str, origin: str) -> None:
    host = choose(flag, environ)
    assert (host.text, host.origin, host.is_default) == (expected, origin, origin == "")


def test_a_tcp_host_has_dockers_port() -> None:
    assert choose("tcp://box", {})[2:4] == ("box", 2375)


@pytest.mark.parametrize(("host", "verify"), [("https://box", ""), ("tcp://box", "1")])
def test_plain_tcp_does_not_stand_in_for_tls(host: str, verify: str) -> None:
    with pytest.raises(Unsupported, match="TLS to .* is not spoken"):
        choose(host, {"DOCKER_TLS_VERIFY": verify})


def test_a_host_that_cannot_be_read_names_where_it_comes_from() -> None:
    with pytest.raises(InvalidArgument, match=r"'ftp://x' \(from SCOW_HOST\)"):
        choose(None, {"SCOW_HOST": "ftp://x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, DETACH_KEYS), ("ctrl-a", b"\x01"), ("ctrl-x,x", b"\x18x"), ("ctrl-@,ctrl-_", b"\0\x1f")],
)
def test_detach_keys(text: str | None, expected: bytes) -> None:
    assert detach_keys(text) == expected


def test_unknown_detach_keys_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid detach keys"):
        detach_keys("shift-a")


@pytest.mark.parametrize(
    ("reads", "seen"),
    [([b"\x10\x11"], True), ([b"ab\x10", b"\x11"], True), ([b"\x10", b"x", b"\x11"], False), ([b"\x10\x10\x11"], True)],
)
def test_detach_keys_are_seen_over_any_cut(reads: list[bytes], seen: bool) -> None:
    watch = KeyWatch(DETACH_KEYS)
    for data in reads:
        watch.feed(data)
    assert watch.seen is seen
