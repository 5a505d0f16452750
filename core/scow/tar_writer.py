"""Writes tar streams: ustar, with PAX records for what does not fit (POSIX.1-2017 pax). Times in whole seconds."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scow.tar_reader import BLOCK, REGULAR, Member

if TYPE_CHECKING:
    from collections.abc import Iterator

END = bytes(2 * BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_OCTAL_11 = 0o77777777777
_OCTAL_7 = 0o7777777


def member_header(member: Member) -> bytes:
    """The blocks before *member*'s data. Of *mtime_ns* the whole seconds are written."""
    records: dict[bytes, bytes] = {}
    name, prefix = _split(member.name)
    if not _plain(member.name) or len(name) > 100:
        records[b"path"] = member.name
    if not _plain(member.link) or len(member.link) > 100:
        records[b"linkpath"] = member.link
    size = member.size_bytes if member.type == REGULAR else 0
    seconds = member.mtime_ns // 1_000_000_000
    for key, value, limit in (
        (b"size", size, _OCTAL_11),
        (b"mtime", seconds, _OCTAL_11),
        (b"uid", member.uid, _OCTAL_7),
        (b"gid", member.gid, _OCTAL_7),
    ):
        if not 0 <= value <= limit:
            records[key] = b"%d" % value
    for xattr, value_bytes in sorted(member.xattrs.items()):
        records[b"SCHILY.xattr." + xattr] = value_bytes
    header = _ustar(member, name, prefix, size, seconds)
    return _pax_header(records) + header if records else header


def padding(size_bytes: int) -> bytes:
    """What fills the last block after *size_bytes* of data."""
    return bytes(-size_bytes % BLOCK)


def file_member(name: bytes, data: bytes, mode: int = 0o644) -> Iterator[bytes]:
    """A whole regular file of root at the epoch."""
    yield member_header(Member(name, REGULAR, mode, 0, 0, len(data), 0, b"", 0, 0, {}))
    yield data
    yield padding(len(data))


def _ustar(member: Member, name: bytes, prefix: bytes, size: int, seconds: int) -> bytes:
    fields = [
        name[:100],
        b"%07o" % member.mode,
        b"%07o" % (member.uid if 0 <= member.uid <= _OCTAL_7 else 0),
        b"%07o" % (member.gid if 0 <= member.gid <= _OCTAL_7 else 0),
        b"%011o" % (size if size <= _OCTAL_11 else 0),
        b"%011o" % (seconds if 0 <= seconds <= _OCTAL_11 else 0),
        b" " * 8,
        member.type,
        member.link[:100],
        b"ustar\x0000",
        b"",
        b"",
        b"%07o" % member.major,
        b"%07o" % member.minor,
        prefix,
    ]
    fields[6] = b"%06o\0 " % sum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _pax_header(records: dict[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records.items())
    member = Member(b"PaxHeaders/0", b"x", 0o644, 0, 0, len(data), 0, b"", 0, 0, {})
    return _ustar(member, member.name, b"", len(data), 0) + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def _split(name: bytes) -> tuple[bytes, bytes]:
    """*name* and prefix fields; a first part over 100 bytes says that it cannot be split."""
    if len(name) <= 100:
        return name, b""
    slash = name.find(b"/", max(0, len(name) - 101))
    if 0 < slash <= 155 and len(name) - slash - 1 <= 100 and slash + 1 < len(name):
        return name[slash + 1 :], name[:slash]
    return name, b""


def _plain(text: bytes) -> bool:
    return text.isascii()
