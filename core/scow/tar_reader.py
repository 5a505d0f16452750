"""A lean reader of tar streams: ustar, PAX, GNU long names, all sparse forms (POSIX.1-2017 pax; GNU tar manual).

`tarfile` makes an object with twenty fields per member and reads in small pieces; a layer of 9,000 files takes three
times as long with it. Names and values stay bytes. Everything malformed is an `InvalidArgument` that says where.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
CHUNK_BYTES = 1 << 20
EXTENDED_LIMIT = 1 << 20  # bytes of one PAX header or long name (archive/tar of Go has the same)
HEADERS_LIMIT = 4 << 20  # bytes of all extended headers before one member; of the global records that hold at a time
SPARSE_LIMIT = 1 << 20  # bytes of a sparse map

REGULAR, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_TYPES = frozenset({b"0", b"\0", b"7", b"S"})
_KNOWN = frozenset({LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO}) | _REGULAR_TYPES

_TIME_LIMIT_NS = (1 << 62) * 1_000_000_000  # year 1, which Go's zero time is, lies within

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_XATTR = b"SCHILY.xattr."
_NO_XATTRS: dict[bytes, bytes] = {}


@dataclass(slots=True)
class Member:
    """One entry. *size_bytes* is what a reader of the file sees; *sparse* lists (offset, length) of what the stream
    holds of it, or is None. *mtime_ns* is since the epoch. *xattrs* come from ``SCHILY.xattr.`` records."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    sparse: list[tuple[int, int]] | None = None


class TarReader:
    """Reads *stream* in large pieces; `next` goes from member to member, `pieces` gives the data of the current one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = memoryview(b"")
        self._position = 0
        self._left = 0  # data bytes of the current member not yet taken
        self._padding = 0
        self._offset = 0  # of the buffer's start in the stream, for messages
        self._global: dict[bytes, bytes] = {}

    def next(self) -> Member | None:
        """The next member, or None at the end of the archive; the data of the last one is skipped."""
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        pax: dict[bytes, bytes] = {}
        long_name = long_link = b""
        extended = 0
        while True:
            header = self._header()
            if header is None:
                if pax or long_name or long_link:
                    raise self._malformed("an extended header without its member")
                return None
            kind, size = header[156:157], self._size_of(header)
            if kind in b"xgLK":
                extended += BLOCK + size
                if extended > HEADERS_LIMIT:
                    raise self._malformed("extended headers without end")
            if kind in b"xg":
                records = _pax_records(self._extended(size))
                if kind == b"g":
                    self._global.update(records)
                    if sum(len(key) + len(value) for key, value in self._global.items()) > HEADERS_LIMIT:
                        raise self._malformed("global headers without end")
                else:
                    pax.update(records)
            elif kind == b"L":
                long_name = self._extended(size).split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = self._extended(size).split(b"\0", 1)[0]
            else:
                return self._member(header, {**self._global, **pax} if self._global else pax, long_name, long_link)

    def pieces(self) -> Iterator[memoryview]:
        """The current member's data as it lies in the stream; each piece is valid until the next is asked for."""
        while self._left:
            if self._position == len(self._buffer):
                self._fill()
            piece = self._buffer[self._position : self._position + self._left]
            self._position += len(piece)
            self._left -= len(piece)
            yield piece

    def drain(self) -> None:
        """The stream is read to its end, so that whoever hashes it has seen all of it."""
        self._buffer, self._position = memoryview(b""), 0
        while self._stream.read(CHUNK_BYTES):
            pass

    def _member(self, header: bytes, pax: dict[bytes, bytes], long_name: bytes, long_link: bytes) -> Member:
        name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, _, major, minor, prefix = _FIELDS.unpack(header)
        name = name.split(b"\0", 1)[0]
        if magic == b"ustar\0" and prefix[0]:
            name = prefix.split(b"\0", 1)[0] + b"/" + name
        if kind not in _KNOWN:
            raise self._malformed(f"member {_shown(name)} of unknown type {kind!r}")
        if kind in b"\0" + REGULAR and (pax.get(b"path") or long_name or name).endswith(b"/"):  # *name* may be cut
            kind = DIRECTORY
        try:
            member = Member(
                long_name or name,
                REGULAR if kind in _REGULAR_TYPES else kind,
                _number(mode) & 0o7777,
                _number(uid),
                _number(gid),
                _number(size),
                _number(mtime) * 1_000_000_000,
                long_link or link.split(b"\0", 1)[0],
                _number(major) if kind in b"34" else 0,
                _number(minor) if kind in b"34" else 0,
                _NO_XATTRS,
            )
            if pax:
                _override(member, pax)
            if abs(member.mtime_ns) > _TIME_LIMIT_NS:
                raise ValueError("a time that no clock shows")
        except ValueError as error:
            raise self._malformed(f"member {_shown(name)}: {error}") from error
        stored = member.size_bytes if member.type == REGULAR else 0
        if stored < 0:
            raise self._malformed(f"member {_shown(name)} of negative size")
        self._left, self._padding = stored, -stored % BLOCK
        try:
            if kind == b"S":
                self._old_sparse(header, member)
            elif pax and stored and any(key.startswith(b"GNU.sparse.") for key in pax):
                self._pax_sparse(member, pax)
        except ValueError as error:
            raise self._malformed(f"member {_shown(member.name)} with a bad sparse map") from error
        return member

    def _header(self) -> bytes | None:
        """The next header block, or None at the end: a zero block, or the end of the stream on a block's border."""
        block = self._take(BLOCK, at_end=True)
        if not block or not block.rstrip(b"\0"):
            return None
        if len(block) < BLOCK:
            raise self._malformed("truncated in a header")
        stored = block[148:156]
        try:
            wanted = _number(stored)
        except ValueError:
            wanted = -1
        # adler32 started at 0 sums the bytes modulo 65521 in its lower half: 20 times faster than sum()
        actual = (zlib.adler32(block, 0) & 0xFFFF) - sum(stored) + 256
        if (wanted - actual) % 65521:
            actual -= 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # old tars sum up signed bytes
        if wanted < 0 or (wanted - actual) % 65521:
            raise self._malformed("a header with a wrong checksum (not a tar?)")
        return block

    def _size_of(self, header: bytes) -> int:
        try:
            return _number(header[124:136])
        except ValueError as error:
            raise self._malformed(f"a member of size {header[124:136]!r}") from error

    def _extended(self, size: int) -> bytes:
        if not 0 <= size <= EXTENDED_LIMIT:
            raise self._malformed(f"an extended header of {size} bytes")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _old_sparse(self, header: bytes, member: Member) -> None:
        """Type S: four entries in the header, then blocks of 21 (GNU tar manual, "Old GNU Format")."""
        entries = _sparse_entries(header[386:482])
        more, member.size_bytes = header[482], _number(header[483:495])
        while more:
            block = self._take(BLOCK)
            entries += _sparse_entries(block[:504])
            more = block[504]
            if len(entries) * 24 > SPARSE_LIMIT:
                raise self._malformed(f"member {_shown(member.name)} with too many holes")
        self._use_sparse(member, entries)

    def _pax_sparse(self, member: Member, pax: dict[bytes, bytes]) -> None:
        if pax.get(b"GNU.sparse.major") == b"1":
            entries = self._map_in_data()
        else:
            numbers = [_decimal(number) for number in pax.get(b"GNU.sparse.map", b"").split(b",") if number]
            entries = list(zip(numbers[::2], numbers[1::2], strict=True))
        size = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size") or b"%d" % member.size_bytes
        member.size_bytes = _decimal(size)
        member.name = _text(pax.get(b"GNU.sparse.name", member.name))
        self._use_sparse(member, entries)

    def _map_in_data(self) -> list[tuple[int, int]]:
        """Form 1.0: decimal numbers, one a line, in whole blocks before the data."""
        text = b""
        while True:
            if len(text) > SPARSE_LIMIT or self._left < BLOCK:
                raise ValueError
            text += self._take(BLOCK)
            self._left -= BLOCK
            lines = text.split(b"\n")
            count = _decimal(lines[0]) if len(lines) > 1 else 1 << 30
            if count < 0:
                raise ValueError
            if len(lines) > 2 * count + 1:
                numbers = [_decimal(line) for line in lines[1 : 2 * count + 1]]
                return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _use_sparse(self, member: Member, entries: list[tuple[int, int]]) -> None:
        end = 0
        for offset, length in entries:
            if offset < end or length < 0:
                raise self._malformed(f"member {_shown(member.name)} with a bad sparse map")
            end = offset + length
        if end > member.size_bytes or sum(length for _, length in entries) != self._left:
            raise self._malformed(f"member {_shown(member.name)} with a bad sparse map")
        member.sparse = entries

    def _take(self, count: int, *, at_end: bool = False) -> bytes:
        """*count* bytes; with *at_end* fewer where the stream ends."""
        end = self._position + count
        if end <= len(self._buffer):
            data = bytes(self._buffer[self._position : end])
            self._position = end
            return data
        parts = []
        while count:
            if self._position == len(self._buffer):
                try:
                    self._fill()
                except InvalidArgument:
                    if at_end:
                        break
                    raise
            part = bytes(self._buffer[self._position : self._position + count])
            self._position += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count > len(self._buffer) - self._position:
            count -= len(self._buffer) - self._position
            self._fill()
        self._position += count

    def _fill(self) -> None:
        self._offset += len(self._buffer)
        self._buffer, self._position = memoryview(self._stream.read(CHUNK_BYTES)), 0
        if not self._buffer:
            raise self._malformed("truncated")

    def _malformed(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"malformed tar: {what} (near byte {self._offset + self._position})")


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "replace"))


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the top bit is set (GNU and star)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():  # int() takes more than other readers do: signs, underscores, prefixes
        raise ValueError(f"number {digits!r}")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    """A PAX number: digits, with a minus before them at most."""
    if not text.removeprefix(b"-").isdigit():
        raise ValueError(f"number {text[:40]!r}")
    return int(text)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """``length key=value\\n`` records; the offsets of sparse form 0.0 are gathered as form 0.1's map."""
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space]
        end = position + int(digits) if space > 0 and digits.isdigit() else 0
        if not position < space < end <= len(data) or data[end - 1] != 0x0A:
            raise InvalidArgument("malformed tar: a PAX record of wrong length")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise InvalidArgument("malformed tar: a PAX record without a value")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        records[key] = value
        position = end
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def _override(member: Member, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key.startswith(_XATTR):
            if member.xattrs is _NO_XATTRS:
                member.xattrs = {}
            member.xattrs[key[len(_XATTR) :]] = value
        elif not value:
            continue
        elif key == b"path":
            member.name = _text(value)
        elif key == b"linkpath":
            member.link = _text(value)
        elif key == b"size":
            member.size_bytes = _decimal(value)
        elif key == b"mtime":
            member.mtime_ns = _time_ns(value)
        elif key == b"uid":
            member.uid = _decimal(value)
        elif key == b"gid":
            member.gid = _decimal(value)


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise ValueError("a name with a NUL byte")
    return value


def _time_ns(value: bytes) -> int:
    seconds, _, fraction = value.partition(b".")
    nanoseconds = _decimal(fraction[:9].ljust(9, b"0")) if fraction else 0
    whole = _decimal(seconds)
    return whole * 1_000_000_000 + (-nanoseconds if seconds.startswith(b"-") else nanoseconds)


def _sparse_entries(data: bytes) -> list[tuple[int, int]]:
    entries = []
    for position in range(0, len(data) - 23, 24):
        if not data[position]:
            break
        entries.append((_number(data[position : position + 12]), _number(data[position + 12 : position + 24])))
    return entries
