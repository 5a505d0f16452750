"""The way back: what a directory changes over its parent, as an OCI layer tar (image-spec layer.md).

`overlay_diff` reads an overlayfs upper directory, `tree_diff` compares two whole trees (for vfs). Entries are sorted:
the same tree gives the same bytes. Sockets are left out, as tar cannot hold them.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from scow.layer_apply import OPAQUE, WHITEOUT
from scow.layer_directories import OPAQUE_XATTR
from scow.tar_reader import BLOCK_DEVICE, CHAR, CHUNK_BYTES, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Member
from scow.tar_writer import END, file_member, member_header, padding

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


def overlay_diff(upper: str) -> Iterator[bytes]:
    """The layer of the upper directory *upper*."""
    yield from _Writer().overlay(os.fsencode(upper), b"")
    yield END


def tree_diff(tree: str, parent: str | None) -> Iterator[bytes]:
    """The layer that makes *tree* of *parent*, or of nothing."""
    yield from _Writer().compare(os.fsencode(tree), None if parent is None else os.fsencode(parent), b"")
    yield END


class _Writer:
    def __init__(self) -> None:
        self._links: dict[tuple[int, int], bytes] = {}  # inode → the name it was written under

    def overlay(self, directory: bytes, name: bytes) -> Iterator[bytes]:
        for base in sorted(os.listdir(directory)):
            path, inner = directory + b"/" + base, _join(name, base)
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                yield from file_member(_join(name, WHITEOUT + base), b"")
                continue
            yield from self.entry(path, inner, status)
            if stat.S_ISDIR(status.st_mode):
                if _is_opaque(path):
                    yield from file_member(_join(inner, OPAQUE), b"")
                yield from self.overlay(path, inner)

    def compare(self, directory: bytes, parent: bytes | None, name: bytes) -> Iterator[bytes]:
        below = set(os.listdir(parent)) if parent is not None else set()
        here = set(os.listdir(directory))
        for base in sorted(below - here):
            yield from file_member(_join(name, WHITEOUT + base), b"")
        for base in sorted(here):
            path, inner = directory + b"/" + base, _join(name, base)
            status = os.lstat(path)
            other = parent + b"/" + base if parent is not None and base in below else None
            if other is None or not _same(path, status, other):
                yield from self.entry(path, inner, status)
            if stat.S_ISDIR(status.st_mode):
                was_directory = other is not None and stat.S_ISDIR(os.lstat(other).st_mode)
                yield from self.compare(path, other if was_directory else None, inner)

    def entry(self, path: bytes, name: bytes, status: os.stat_result) -> Iterator[bytes]:
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        member = Member(
            name + b"/" if kind == DIRECTORY else name,
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_size if kind == REGULAR else 0,
            status.st_mtime_ns,
            os.readlink(path) if kind == SYMLINK else b"",
            os.major(status.st_rdev) if kind in (CHAR, BLOCK_DEVICE) else 0,
            os.minor(status.st_rdev) if kind in (CHAR, BLOCK_DEVICE) else 0,
            _xattrs(path),
        )
        if status.st_nlink > 1 and kind != DIRECTORY:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                member.type, member.link, member.size_bytes, member.xattrs = LINK, first, 0, {}
        yield member_header(member)
        if member.type == REGULAR:
            yield from _data(path, member.size_bytes)


def _data(path: bytes, size: int) -> Iterator[bytes]:
    """Exactly *size* bytes, whatever happens to the file meanwhile: the header has said so."""
    left = size
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while left:
            piece = os.read(fd, min(left, CHUNK_BYTES)) or bytes(min(left, CHUNK_BYTES))
            left -= len(piece)
            yield piece
    finally:
        os.close(fd)
    yield padding(size)


def _same(path: bytes, status: os.stat_result, other: bytes) -> bool:
    was = os.lstat(other)
    if (status.st_mode, status.st_uid, status.st_gid, status.st_rdev) != (
        was.st_mode,
        was.st_uid,
        was.st_gid,
        was.st_rdev,
    ):
        return False
    if not stat.S_ISDIR(status.st_mode) and (status.st_size, status.st_mtime_ns) != (was.st_size, was.st_mtime_ns):
        return False
    if stat.S_ISLNK(status.st_mode) and os.readlink(path) != os.readlink(other):
        return False
    return _xattrs(path) == _xattrs(other)


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    return {
        os.fsencode(key): os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
        if not key.startswith(_OVERLAY_XATTRS)
    }


def _is_opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _join(name: bytes, base: bytes) -> bytes:
    return name + b"/" + base if name else base
