"""The monitor's log writer: format, rotation, torn records, full filesystems."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scow.monitor import segments as seg
from scow.ports.log import LogQuery
from scow_log_local.reader import SegmentReader


def payload(directory: Path) -> bytes:
    """Everything in the log, as a terminal would show it."""
    reader = SegmentReader(directory, LogQuery(framed=False))
    parts = []
    while data := reader.read(1 << 16):
        parts.append(data)
    reader.close()
    return b"".join(parts)


def numbered(count: int, first: int = 0) -> bytes:
    """Lines with numbers."""
    return b"".join(b"%08d\n" % number for number in range(first, first + count))


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
    for number in range(50):
        writer.write(seg.STDOUT + number % 2, b"%d," % number)
    writer.close()
    assert payload(tmp_path) == b"".join(b"%d," % number for number in range(50))


def test_a_log_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    for run in range(3):
        writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
        writer.write(seg.STDOUT, b"run %d\n" % run)
        writer.close()
    assert payload(tmp_path) == b"run 0\nrun 1\nrun 2\n"
    assert seg.segment_numbers(tmp_path) == [1]


def test_segments_are_bounded_in_size_and_number_and_keep_the_newest(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 20_000, 3)
    data = numbered(20_000)
    for offset in range(0, len(data), 777):
        writer.write(seg.STDOUT, data[offset : offset + 777])
    writer.close()
    numbers = seg.segment_numbers(tmp_path)
    assert len(numbers) == 3 and numbers[0] > 1
    assert all((tmp_path / seg.segment_name(number)).stat().st_size <= 20_000 for number in numbers)
    kept = payload(tmp_path)
    assert data.endswith(kept) and len(kept) > 40_000


def test_a_single_write_larger_than_all_segments_leaves_its_end(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 10_000, 2)
    data = numbered(100_000)
    writer.write(seg.STDOUT, data)
    writer.close()
    kept = payload(tmp_path)
    assert data.endswith(kept) and len(kept) > 10_000


@pytest.mark.parametrize("size", [10, 32_768, 200_000, 900_000])
def test_a_pipe_is_pumped_whole_whatever_its_size(tmp_path: Path, size: int) -> None:
    import fcntl

    source, sink = os.pipe()
    fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(source, False)
    data = numbered(size // 9 + 1)
    os.write(sink, data)
    os.close(sink)
    writer = seg.SegmentWriter(str(tmp_path), 300_000, 10)
    moved = 0
    while count := writer.pump(source, seg.STDOUT):
        moved += count
    os.close(source)
    writer.close()
    assert moved == len(data)
    assert payload(tmp_path) == data


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 20, 31])
def test_a_torn_last_record_is_cut_off_and_the_log_goes_on(tmp_path: Path, cut: int) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
    writer.write(seg.STDOUT, b"whole\n")
    writer.write(seg.STDOUT, b"torn\n")
    writer.close()
    path = tmp_path / seg.segment_name(1)
    os.truncate(path, path.stat().st_size - min(cut, 28))
    assert payload(tmp_path) == b"whole\n"
    writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
    writer.write(seg.STDOUT, b"after\n")
    writer.close()
    assert payload(tmp_path) == b"whole\nafter\n"


def test_zeroes_at_the_end_after_a_crash_of_the_host_are_cut_off(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
    writer.write(seg.STDOUT, b"whole\n")
    writer.close()
    path = tmp_path / seg.segment_name(1)
    os.truncate(path, path.stat().st_size + 4096)
    seg.SegmentWriter(str(tmp_path), 1 << 20, 3).close()
    assert payload(tmp_path) == b"whole\n"


def test_a_segment_that_is_none_is_left_alone_and_the_next_number_begins(tmp_path: Path) -> None:
    (tmp_path / seg.segment_name(4)).write_bytes(b"rubbish")
    writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
    writer.write(seg.STDOUT, b"line\n")
    writer.close()
    assert seg.segment_numbers(tmp_path) == [4, 5]
    assert payload(tmp_path) == b"line\n"


def test_a_log_without_directory_loses_bytes_and_raises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = seg.SegmentWriter(str(tmp_path / "file" / "log"), 1 << 20, 3)
    writer.write(seg.STDOUT, b"12345")
    writer.close()
    assert writer.lost == 5
    assert "file/log" in capsys.readouterr().err


class FullDisk:
    """Stands for `os` in the writer: a filesystem that takes no more than *room* further bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def pwritev(self, fd: int, buffers: tuple[bytes, ...], offset: int) -> int:
        return self.pwrite(fd, b"".join(buffers), offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "no space left on device")
        count = os.pwrite(fd, data[: self.room], offset)
        self.room -= count
        return count

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def full_disk_writer(directory: Path, room: int) -> tuple[seg.SegmentWriter, FullDisk, Callable[[], None]]:
    """A writer on a full disk, the disk, and what makes the writer try again at once."""
    disk = FullDisk(room)

    class Writer(seg.SegmentWriter):
        __slots__ = ()

        def retry(self) -> None:
            self._retry_at_ns = 1

    writer = Writer(str(directory), 1 << 20, 3)
    return writer, disk, writer.retry


def test_bytes_that_find_no_room_are_counted_and_told_as_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, disk, retry = full_disk_writer(tmp_path, 110)
    monkeypatch.setattr(seg, "os", disk)
    writer.write(seg.STDOUT, b"before\n")
    writer.write(seg.STDOUT, b"x" * 1000)
    writer.write(seg.STDOUT, b"y" * 10)
    assert writer.lost == 1010
    disk.room = 1 << 20
    retry()
    writer.write(seg.STDOUT, b"after\n")
    assert writer.lost == 0
    writer.close()
    told = b"scow: 1010 bytes of output are missing here: the filesystem of the log was full\n"
    assert payload(tmp_path) == b"before\n" + told + b"after\n"


def test_gaps_that_follow_each_other_are_one(tmp_path: Path) -> None:
    writer = seg.SegmentWriter(str(tmp_path), 1 << 20, 3)
    writer.write(seg.STDOUT, b"before\n")
    for lost in (1000, 10):
        writer.write(seg.LOST, seg.GAP.pack(lost))
    writer.write(seg.STDOUT, b"after\n")
    writer.close()
    told = b"scow: 1010 bytes of output are missing here: the filesystem of the log was full\n"
    assert payload(tmp_path) == b"before\n" + told + b"after\n"
