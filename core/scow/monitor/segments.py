"""The log of a container as the monitor writes it: numbered segment files of raw output.

Format (little-endian). A segment is ``<10 digits>.seg``; the highest number is written to, all others are immutable. It
begins with a 16-byte segment header: magic ``SCOWLOG1`` and its time of creation (u64, ns since the epoch). Records
follow without gaps::

    0   u16  magic 0x5C0D
    2   u8   stream: 1 stdout (also tty), 2 stderr, 0 a gap
    3   u8   flags, 0
    4   u32  length of the payload, n
    8   u64  time of writing, ns since the epoch
    16  n bytes of payload: what the container wrote, unchanged; a record may hold half a line or ten thousand lines
    16+n  u32  n once more      } the trailer: it is written last, so a record is whole when its trailer is there,
    20+n  u32  magic 0x0D5C1E60 } and a reader walks backwards from the end of the file by it

The payload of a gap is the number of bytes that were lost (u64), because the filesystem took no more.

Writing never blocks on a full filesystem and never fails: bytes that find no room are counted, and a gap is written
before the next ones that do. A segment is full when the next record would take it past *max_bytes*; then the next
number begins and the oldest beyond *max_files* is deleted. Opening a log cuts off a record that a crash tore.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import termios
import time

MAGIC = 0x5C0D
TRAILER_MAGIC = 0x0D5C1E60
SEGMENT_MAGIC = b"SCOWLOG1"
SEGMENT_HEADER = struct.Struct("<8sQ")
HEADER = struct.Struct("<HBBIQ")
TRAILER = struct.Struct("<II")
GAP = struct.Struct("<Q")
OVERHEAD = HEADER.size + TRAILER.size
STDOUT, STDERR, LOST = 1, 2, 0

_MAX_RECORD = 256 << 10  # several fit a block of a reader, and its time stays fine-grained
_SPLICE_FROM = 32 << 10  # below it one read and one write cost less than three calls for a splice
_RETRY_NS = 50_000_000  # how long a full filesystem is left alone
_NO_INT = b"\0\0\0\0"


def segment_name(number: int) -> str:
    """The file name of segment *number*."""
    return f"{number:010d}.seg"


def segment_numbers(directory: str | os.PathLike[str]) -> list[int]:
    """The numbers of the segments in *directory*, ascending; empty where there is no such directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".seg") and name[:-4].isdigit())


def waiting(pipe: int) -> int:
    """How many bytes can be read from *pipe* now."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, _NO_INT), sys.byteorder)


def end_of_records(fd: int, size: int) -> int:
    """Where the last whole record of the segment ends; 0 where even the segment header is missing.

    One look when the file ends with a whole record; else all record headers are walked through from the start.
    """
    if size < SEGMENT_HEADER.size or os.pread(fd, 8, 0) != SEGMENT_MAGIC:
        return 0
    if size == SEGMENT_HEADER.size or previous_record(fd, size) is not None:
        return size
    offset = SEGMENT_HEADER.size
    while offset + OVERHEAD <= size:
        magic, _stream, _flags, length, _time_ns = HEADER.unpack(os.pread(fd, HEADER.size, offset))
        following = offset + OVERHEAD + length
        if magic != MAGIC or following > size:
            break
        if os.pread(fd, TRAILER.size, following - TRAILER.size) != TRAILER.pack(length, TRAILER_MAGIC):
            break
        offset = following
    return offset


def previous_record(fd: int, end: int) -> int | None:
    """The offset of the record that ends at *end*; None where no whole record does."""
    if end < SEGMENT_HEADER.size + OVERHEAD:
        return None
    length, magic = TRAILER.unpack(os.pread(fd, TRAILER.size, end - TRAILER.size))
    start: int = end - OVERHEAD - length
    if magic != TRAILER_MAGIC or start < SEGMENT_HEADER.size:
        return None
    head = HEADER.unpack(os.pread(fd, HEADER.size, start))
    return start if head[0] == MAGIC and head[3] == length else None


class SegmentWriter:
    """Appends to the log in *directory* (made when absent). *lost* is how many bytes wait to be told of as a gap."""

    __slots__ = ("_directory", "_max_bytes", "_max_files", "_fd", "_number", "_offset", "_retry_at_ns", "lost")

    def __init__(self, directory: str, max_bytes: int, max_files: int) -> None:
        self._directory = directory
        self._max_bytes = max(max_bytes, 4096)
        self._max_files = max(max_files, 1)
        self._fd = -1
        self._number = 0
        self._offset = 0
        self._retry_at_ns = 0
        self.lost = 0
        try:
            self._open()
        except OSError as error:
            self._failed(error)

    def write(self, stream: int, data: bytes) -> None:
        """*data* is in the log, or counted as lost. Never raises `OSError`."""
        view = memoryview(data)
        while view:
            room = self._room(len(view)) if self._ready() else 0
            if not room:
                self.lost += len(view)
                return
            part = view[:room]
            if not self._append(stream, part):
                self.lost += len(view)
                return
            view = view[room:]

    def pump(self, source: int, stream: int) -> int:
        """What waits in the pipe *source* (up to 256 KiB) is in the log or counted as lost: its length, 0 at the end.

        Raises `BlockingIOError` when nothing waits there.
        """
        there = waiting(source)
        if there >= _SPLICE_FROM and self._ready():
            room = self._room(min(there, _MAX_RECORD))
            if room >= _SPLICE_FROM:
                return self._splice(source, stream, room)
        data = os.read(source, _SPLICE_FROM)
        self.write(stream, data)
        return len(data)

    def close(self) -> None:
        """The log is complete: a gap that was still to be told is written if there is room by now."""
        self._retry_at_ns = 0
        self._ready()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, stream: int, data: bytes | memoryview) -> bool:
        length = len(data)
        record = (HEADER.pack(MAGIC, stream, 0, length, time.time_ns()), data, TRAILER.pack(length, TRAILER_MAGIC))
        try:
            done = os.pwritev(self._fd, record, self._offset)
            if done != length + OVERHEAD:
                os.pwrite(self._fd, b"".join(record)[done:], self._offset + done)
                # a second short write is told by the file's size
                if os.fstat(self._fd).st_size < self._offset + length + OVERHEAD:
                    raise OSError(errno.ENOSPC, "no space left on device")
        except OSError as error:
            self._failed(error)
            return False
        self._offset += length + OVERHEAD
        return True

    def _splice(self, source: int, stream: int, length: int) -> int:
        payload = self._offset + HEADER.size
        moved = 0
        try:
            os.pwrite(self._fd, HEADER.pack(MAGIC, stream, 0, length, time.time_ns()), self._offset)
            while moved < length:
                count = os.splice(source, self._fd, length - moved, offset_dst=payload + moved)
                if not count:
                    break
                moved += count
        except BlockingIOError:
            pass  # another reader of the pipe was faster; what was moved is kept
        except OSError as error:
            self._failed(error)
            dropped = len(os.read(source, length - moved))
            self.lost += moved + dropped
            return moved + dropped
        self._seal(stream, length, moved)
        return moved

    def _seal(self, stream: int, announced: int, length: int) -> None:
        """The record at the offset has *length* bytes of payload, and its trailer."""
        try:
            if length != announced:
                os.pwrite(self._fd, HEADER.pack(MAGIC, stream, 0, length, time.time_ns()), self._offset)
            end = self._offset + HEADER.size + length
            if os.pwrite(self._fd, TRAILER.pack(length, TRAILER_MAGIC), end) != TRAILER.size:
                raise OSError(errno.ENOSPC, "no space left on device")
        except OSError as error:
            self._failed(error)
            self.lost += length
            return
        self._offset += OVERHEAD + length

    def _ready(self) -> bool:
        """Whether records can be written now; after a failure it tries again, and writes the gap first."""
        if not self._retry_at_ns and not self.lost:
            return True
        if time.monotonic_ns() < self._retry_at_ns:
            return False
        try:
            if self._fd < 0:
                self._open()
        except OSError as error:
            self._failed(error)
            return False
        lost, self.lost = self.lost, 0
        if lost and not (self._room(GAP.size) and self._append(LOST, GAP.pack(lost))):
            self.lost = lost
            return False
        self._retry_at_ns = 0
        return True

    def _failed(self, error: OSError) -> None:
        """The record that was being written is not there; the next try comes later."""
        self._retry_at_ns = time.monotonic_ns() + _RETRY_NS
        if self._fd >= 0:
            try:
                os.ftruncate(self._fd, self._offset)
            except OSError:
                os.close(self._fd)
                self._fd = -1
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # those are expected; others are told where a human looks
            sys.stderr.write(f"log {self._directory}: {error}\n")

    def _room(self, wanted: int) -> int:
        """How many bytes of payload the next record may hold; 0 where a new segment was needed and cannot be made."""
        room = self._max_bytes - self._offset - OVERHEAD
        if room < wanted and room < 4096 and self._offset > SEGMENT_HEADER.size:
            try:
                self._begin(self._number + 1)
            except OSError as error:
                self._failed(error)
                return 0
            room = self._max_bytes - self._offset - OVERHEAD
        return max(1, min(wanted, room, _MAX_RECORD))

    def _open(self) -> None:
        """The last segment is open behind its last whole record; a first one is made in an empty directory."""
        try:
            os.mkdir(self._directory, mode=0o750)
        except FileExistsError:
            pass
        except FileNotFoundError:
            os.makedirs(self._directory, mode=0o750)
        numbers = segment_numbers(self._directory)
        if not numbers:
            self._begin(1)
            return
        self._number = numbers[-1]
        fd = os.open(f"{self._directory}/{segment_name(self._number)}", os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(fd).st_size
        end = end_of_records(fd, size)
        if not end:
            os.close(fd)
            self._begin(self._number + 1)
            return
        if end < size:
            os.ftruncate(fd, end)
        self._fd, self._offset = fd, end
        self._delete(numbers[: -self._max_files])

    def _begin(self, number: int) -> None:
        """Segment *number* is the one that is written to. The oldest go first: that may make the room needed."""
        numbers = segment_numbers(self._directory)
        self._delete(numbers[: max(0, len(numbers) + 1 - self._max_files)][: len(numbers) - 1])
        path = f"{self._directory}/{segment_name(number)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            header = SEGMENT_HEADER.pack(SEGMENT_MAGIC, time.time_ns())
            if os.pwrite(fd, header, 0) != len(header):
                raise OSError(errno.ENOSPC, "no space left on device")
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._number, self._offset = fd, number, SEGMENT_HEADER.size
        if self._max_files == 1:
            self._delete(numbers)

    def _delete(self, numbers: list[int]) -> None:
        for number in numbers:
            try:
                os.unlink(f"{self._directory}/{segment_name(number)}")
            except FileNotFoundError:
                pass
