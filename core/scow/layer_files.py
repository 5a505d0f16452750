"""The data of regular files while a layer is unpacked: holes stay holes, whether the tar tells of them or not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scow.tar_reader import Member, TarReader

HOLE_BYTES = 1 << 17  # zeros of this length are left out
_ZEROS = bytes(HOLE_BYTES)


def write(fd: int, piece: memoryview) -> None:
    """All of *piece* is in the file."""
    while piece:
        piece = piece[os.write(fd, piece) :]


def write_sparse(fd: int, tar: TarReader, member: Member) -> None:
    """The file *fd* is what the sparse *member* says."""
    pieces = tar.pieces()
    rest = memoryview(b"")
    for offset, length in member.sparse or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            rest = rest or next(pieces)
            write(fd, rest[:length])
            length, rest = length - len(rest[:length]), rest[length:]
    os.ftruncate(fd, member.size_bytes)


def write_with_holes(fd: int, tar: TarReader, member: Member) -> None:
    """The file *fd* has *member*'s data; what is `HOLE_BYTES` of zeros in it takes no room on the disk. Engines write
    holes as zeros into a layer, and a file of a database may be large and nearly empty."""
    skipped = False
    for piece in tar.pieces():
        begin = 0
        for position in range(0, len(piece) - HOLE_BYTES + 1, HOLE_BYTES):
            block = piece[position : position + HOLE_BYTES]
            if block[0] or block[-1] or block[HOLE_BYTES // 2] or bytes(block) != _ZEROS:
                continue
            write(fd, piece[begin:position])
            begin = position + HOLE_BYTES
            os.lseek(fd, HOLE_BYTES, os.SEEK_CUR)
            skipped = True
        write(fd, piece[begin:])
    if skipped:
        os.ftruncate(fd, member.size_bytes)
