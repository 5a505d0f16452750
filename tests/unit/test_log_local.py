"""The log driver of segments: options, frames, tail, times, following."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.engine import logs
from scow.errors import InvalidArgument, Unsupported
from scow.monitor import segments as seg
from scow.ports import DriverContext
from scow.ports.log import LogDriver, LogLimits, LogQuery
from scow_log_local import LocalLog, NoLog
from scow_log_local.reader import SegmentReader
from tests.unit.monitor_lab import frames

OUT, ERR = seg.STDOUT, seg.STDERR


def driver(name: str = "local") -> LocalLog:
    """A driver as the engine makes it."""
    return LocalLog(DriverContext(name, Path("/none"), Path("/none")))


def write(directory: Path, *records: tuple[int, bytes], max_bytes: int = 1 << 20) -> None:
    """Records appended by a writer of its own."""
    writer = seg.SegmentWriter(str(directory), max_bytes, 100)
    for stream, data in records:
        writer.write(stream, data)
    writer.close()


def read(directory: Path, block: int = 1 << 16, **query: Any) -> bytes:
    """Everything that the query gives."""
    reader = SegmentReader(directory, LogQuery(**query))
    reader.finish()
    parts = []
    while data := reader.read(block):
        parts.append(data)
    reader.close()
    return b"".join(parts)


def test_the_drivers_fulfil_the_protocol() -> None:
    assert isinstance(driver(), LogDriver)
    assert isinstance(NoLog(DriverContext("none", Path("/none"), Path("/none"))), LogDriver)


def test_limits_come_from_dockers_options_and_others_change_nothing() -> None:
    assert driver().limits({}) == LogLimits(20_000_000, 5)
    assert driver().limits({"max-size": "10m", "max-file": "3", "compress": "true"}) == LogLimits(10 << 20, 3)
    assert driver().limits({"max-size": "1.5k", "labels": "a", "tag": "x"}) == LogLimits(1536, 5)


@pytest.mark.parametrize("options", [{"max-size": "big"}, {"max-size": "0"}, {"max-file": "0"}, {"max-files": "3"}])
def test_an_option_that_is_wrong_is_named(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        driver("json-file").limits(options)


def test_none_keeps_nothing_and_cannot_be_read() -> None:
    none = NoLog(DriverContext("none", Path("/none"), Path("/none")))
    assert none.limits({}).max_files == 0 and not none.readable
    with pytest.raises(Unsupported, match="configured logging driver does not support reading"):
        none.open(Path("/none"), LogQuery())


def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "log", tail=5) == b""


def test_each_line_has_a_frame_also_one_that_was_written_in_pieces(tmp_path: Path) -> None:
    write(tmp_path, (OUT, b"a\nb"), (ERR, b"E1\nE"), (OUT, b"c\n\nd\n"), (ERR, b"2\n"), (OUT, b"half"))
    assert frames(read(tmp_path)) == [
        (1, b"a\n"),
        (2, b"E1\n"),
        (1, b"bc\n"),
        (1, b"\n"),
        (1, b"d\n"),
        (2, b"E2\n"),
        (1, b"half"),
    ]


def test_the_same_bytes_come_whatever_the_block_size(tmp_path: Path) -> None:
    lines = [b"line %d " % number + b"x" * (number % 300) + b"\n" for number in range(5000)]
    data = b"".join(lines)
    write(tmp_path, *[(OUT, data[offset : offset + 1000]) for offset in range(0, len(data), 1000)], max_bytes=50_000)
    for block in (1, 4096, 1 << 20):
        assert [payload for _, payload in frames(read(tmp_path, block))] == lines
        assert read(tmp_path, block, framed=False) == data


def test_what_is_written_after_the_end_was_marked_does_not_come(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 200, 100)
    writer.write(OUT, b"before\n" * 20)
    reader = SegmentReader(tmp_path, LogQuery(framed=False))
    reader.finish()
    parts = []
    while data := reader.read(64):  # the writer is quicker than the reader, and rotates
        parts.append(data)
        writer.write(OUT, b"after\n" * 40)
        assert len(parts) < 100
    reader.close()
    writer.close()
    assert b"".join(parts) == b"before\n" * 20


def test_what_was_asked_for_before_the_log_was_removed_comes(tmp_path: Path) -> None:
    write(tmp_path / "log", (1, b"last words\n"))
    reader = driver().open(tmp_path / "log", LogQuery(framed=False))
    shutil.rmtree(tmp_path / "log")
    reader.finish()
    assert reader.read(4096) == b"last words\n"
    assert reader.read(4096) == b""
    reader.close()


def test_only_the_streams_that_were_asked_for_come(tmp_path: Path) -> None:
    write(tmp_path, (OUT, b"a\n"), (ERR, b"b\n"), (OUT, b"c\n"))
    assert frames(read(tmp_path, stderr=False)) == [(1, b"a\n"), (1, b"c\n")]
    assert frames(read(tmp_path, stdout=False)) == [(2, b"b\n")]


def test_timestamps_are_rfc3339_with_nine_digits_and_once_a_line(tmp_path: Path) -> None:
    begin = time.time_ns()
    write(tmp_path, (OUT, b"one\ntwo\nth"), (OUT, b"ree\n"))
    for framed in (True, False):
        data = read(tmp_path, timestamps=True, framed=framed)
        lines = [payload for _, payload in frames(data)] if framed else data.splitlines(keepends=True)
        assert [line[31:] for line in lines] == [b"one\n", b"two\n", b"three\n"]
        for line in lines:
            assert line[:20] == time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(begin // 10**9)).encode()[:20] or (
                time.time_ns() // 10**9 != begin // 10**9
            )
            assert line[19:20] == b"." and line[20:29].isdigit() and line[29:31] == b"Z "


def test_long_lines_come_in_pieces_and_complete(tmp_path: Path) -> None:
    line = b"y" * 700_000
    write(tmp_path, *[(OUT, line[offset : offset + 50_000]) for offset in range(0, len(line), 50_000)], (OUT, b"\nz\n"))
    found = frames(read(tmp_path))
    assert b"".join(payload for _, payload in found) == line + b"\nz\n"
    assert found[-1] == (1, b"z\n")
    assert read(tmp_path, timestamps=True, framed=False).count(b"Z ") == 2


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 7, 100, 999, 5000])
@pytest.mark.parametrize("half", [b"", b"half"])
def test_tail_gives_the_last_lines_across_segments(tmp_path: Path, lines: int, half: bytes) -> None:
    written = [b"line %d\n" % number for number in range(1000)] + ([half] if half else [])
    data = b"".join(written)
    write(tmp_path, *[(OUT, data[offset : offset + 37]) for offset in range(0, len(data), 37)], max_bytes=4096)
    assert len(seg.segment_numbers(tmp_path)) > 3
    wanted = b"".join(written[-lines:]) if lines else b""
    assert read(tmp_path, tail=lines, framed=False) == wanted
    assert b"".join(payload for _, payload in frames(read(tmp_path, tail=lines))) == wanted


def test_tail_does_not_begin_with_half_a_line_of_the_other_stream(tmp_path: Path) -> None:
    write(tmp_path, (OUT, b"o1\no2\n"), (ERR, b"begun "), (OUT, b"o3\no4\n"), (ERR, b"ended\n"))
    assert frames(read(tmp_path, tail=2)) == [(1, b"o3\n"), (1, b"o4\n")]  # counted by where lines begin
    assert frames(read(tmp_path, tail=3)) == [(1, b"o3\n"), (1, b"o4\n"), (2, b"begun ended\n")]
    assert len(frames(read(tmp_path, tail=4))) == 4


def test_tail_reads_no_more_than_it_gives(tmp_path: Path) -> None:
    write(tmp_path, *[(OUT, b"x" * 99 + b"\n") for _ in range(3000)], max_bytes=20_000)
    for number in seg.segment_numbers(tmp_path)[:-1]:
        os.truncate(tmp_path / seg.segment_name(number), 16)  # would be noticed
    assert len(frames(read(tmp_path, tail=5))) == 5


def test_since_and_until_are_bounds_of_time(tmp_path: Path) -> None:
    stamps = []
    for number in range(5):
        write(tmp_path, (OUT, b"%d\n" % number))
        time.sleep(0.002)
        stamps.append(time.time_ns())
        time.sleep(0.002)
    assert read(tmp_path, since_ns=stamps[1], framed=False) == b"2\n3\n4\n"
    assert read(tmp_path, until_ns=stamps[1], framed=False) == b"0\n1\n"
    assert read(tmp_path, since_ns=stamps[0], until_ns=stamps[2], framed=False) == b"1\n2\n"
    assert read(tmp_path, since_ns=time.time_ns() + 10**9) == b""
    reader = SegmentReader(tmp_path, LogQuery(until_ns=stamps[1]))
    while reader.read(4096):
        pass
    assert reader.done()
    reader.close()


def test_a_half_line_is_given_after_a_second_and_its_rest_later(tmp_path: Path) -> None:
    write(tmp_path, (OUT, b"login: "))
    reader = SegmentReader(tmp_path, LogQuery())
    assert reader.read(4096) == b""
    time.sleep(1.01)
    assert frames(reader.read(4096)) == [(1, b"login: ")]
    write(tmp_path, (OUT, b"root\n"))
    assert frames(reader.read(4096)) == [(1, b"root\n")]
    reader.close()


def test_a_slow_reader_goes_on_at_the_oldest_segment_that_is_left(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 4096, 2)
    writer.write(OUT, b"first\n")
    reader = SegmentReader(tmp_path, LogQuery(framed=False))
    assert reader.read(4096) == b"first\n"
    for number in range(2000):
        writer.write(OUT, b"%06d\n" % number)
    rest = b""
    while data := reader.read(4096):
        rest += data
    assert rest.startswith(b"000000\n")  # the segment that it was in
    assert rest.endswith(b"001999\n")
    writer.close()
    reader.close()


def test_a_record_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, (OUT, b"one\n"), (OUT, b"two\n"))
    path = tmp_path / seg.segment_name(1)
    whole = path.read_bytes()
    reader = SegmentReader(tmp_path, LogQuery(framed=False))
    path.write_bytes(whole[:-3])
    assert reader.read(4096) == b"one\n"
    assert reader.read(4096) == b""
    path.write_bytes(whole)
    assert reader.read(4096) == b"two\n"
    reader.close()


async def collect(stream: Any, into: list[bytes]) -> None:
    async for block in stream:
        into.append(block)


@pytest.fixture
def loop_run() -> Iterator[Any]:
    """asyncio.run with a deadline."""
    yield lambda coroutine: asyncio.run(asyncio.wait_for(coroutine, 20))


def test_following_gives_lines_as_they_come_across_rotation_and_ends_with_the_container(
    tmp_path: Path, loop_run: Any
) -> None:
    async def story() -> None:
        ended = asyncio.Event()
        got: list[bytes] = []
        directory = tmp_path / "log"
        reader = SegmentReader(directory, LogQuery(framed=False))
        following = asyncio.create_task(collect(logs.stream(reader, directory, True, ended), got))
        await asyncio.sleep(0.05)
        writer = seg.SegmentWriter(str(directory), 4096, 5)
        for number in range(1000):
            writer.write(OUT, b"%06d\n" % number)
            if number % 100 == 0:
                begin = asyncio.get_running_loop().time()
                while not b"".join(got).endswith(b"%06d\n" % number):
                    await asyncio.sleep(0.001)
                    assert asyncio.get_running_loop().time() - begin < 2
        writer.write(OUT, b"no newline")
        writer.close()
        ended.set()
        await following
        assert b"".join(got) == b"".join(b"%06d\n" % number for number in range(1000)) + b"no newline"

    loop_run(story())


def test_following_stops_at_until(tmp_path: Path, loop_run: Any) -> None:
    async def story() -> None:
        until = time.time_ns() + 200_000_000
        write(tmp_path, (OUT, b"line\n"))
        got: list[bytes] = []
        reader = SegmentReader(tmp_path, LogQuery(until_ns=until, framed=False))
        await collect(logs.stream(reader, tmp_path, True, asyncio.Event(), until), got)
        assert got == [b"line\n"] and time.time_ns() >= until

    loop_run(story())


def test_a_follower_that_is_cancelled_leaves_no_descriptor(tmp_path: Path, loop_run: Any) -> None:
    async def story() -> None:
        write(tmp_path, (OUT, b"line\n"))
        before = len(os.listdir("/proc/self/fd"))
        streams = []
        for _ in range(5):
            stream = logs.stream(SegmentReader(tmp_path, LogQuery()), tmp_path, True, asyncio.Event())
            assert frames(await anext(stream)) == [(1, b"line\n")]
            streams.append(stream)
        for stream in streams:
            await stream.aclose()
        assert len(os.listdir("/proc/self/fd")) == before

    loop_run(story())


def test_tail_gives_exactly_as_many_lines_of_mixed_streams(tmp_path: Path) -> None:
    import random

    chance = random.Random(4)
    for trial in range(30):
        directory = tmp_path / str(trial)
        counts = {OUT: 0, ERR: 0}
        records = []
        for _ in range(chance.randrange(1, 40)):
            stream = chance.choice([OUT, ERR])
            lines = b""
            for _ in range(chance.randrange(0, 4)):
                lines += b"%d.%d\n" % (stream, counts[stream])
                counts[stream] += 1
            records.append((stream, lines + chance.choice([b"", b"piece "]) or b"x"))
        write(directory, *records, max_bytes=4096)
        everything = frames(read(directory))
        for tail in (1, 2, 3, 5, 10, len(everything), len(everything) + 1):
            found = frames(read(directory, tail=tail))
            assert len(found) == min(tail, len(everything)), (records, tail)
            assert all(frame in everything for frame in found)
