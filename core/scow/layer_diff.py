"""The way back: what a directory changes over its parent, as an OCI layer tar (image-spec layer.md).

`overlay_diff` reads an overlayfs upper directory, `tree_diff` compares two whole trees (for vfs). Entries are sorted:
the same tree gives the same bytes. A container may write to the tree meanwhile: nothing outside is read (each directory
is opened anew below the root, without following links), and what disappears is left out.

A tar cannot hold sockets, xattrs with ``=`` in their names, and files that are called as whiteouts are (``.wh.…``):
they are left out.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import InvalidArgument
from scow.layer_apply import OPAQUE, WHITEOUT
from scow.layer_directories import OPAQUE_XATTR, entry_path, is_whiteout, shown
from scow.linux import syscalls as sys
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
_ZEROS = bytes(CHUNK_BYTES)
_SPARSE_BYTES = 1 << 16  # smaller files are read, holes or not
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}  # or another thing is there by now
_NO_LINKS = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS


def overlay_diff(upper: str, parent: str | None = None) -> Iterator[bytes]:
    """The layer of the upper directory *upper*. It describes its root where that differs from the directory *parent*
    in owner or mode (without one: from root's, 0755)."""
    with _opened_roots(upper, parent) as (root, below):
        writer = _Writer()
        yield from writer.root(root, below)
        yield from writer.overlay(root)
    yield END


def tree_diff(tree: str, parent: str | None) -> Iterator[bytes]:
    """The layer that makes *tree* of *parent*, or of nothing."""
    with _opened_roots(tree, parent) as (root, below):
        writer = _Writer()
        yield from writer.root(root, below)
        yield from writer.compare(root, below)
    yield END


class _Entry(NamedTuple):
    """One name in an open directory. *file* is a descriptor of a regular file, else -1."""

    directory: int
    base: bytes
    status: os.stat_result
    file: int

    def xattrs(self) -> dict[bytes, bytes]:
        return _xattrs(self.file if self.file >= 0 else entry_path(self.directory, self.base))

    def link(self) -> bytes:
        return os.readlink(self.base, dir_fd=self.directory)


class _Writer:
    def __init__(self) -> None:
        self._links: dict[tuple[int, int], bytes] = {}  # inode → the name it was written under

    def root(self, root: int, below: int | None) -> Iterator[bytes]:
        """The root's own member, where it is not as below."""
        wanted = (0o755, 0, 0)
        if below is not None:
            was = os.fstat(below)
            wanted = (stat.S_IMODE(was.st_mode), was.st_uid, was.st_gid)
        status = os.fstat(root)
        mode = stat.S_IMODE(status.st_mode)
        if (mode, status.st_uid, status.st_gid) != wanted:
            yield member_header(
                Member(b"./", DIRECTORY, mode, status.st_uid, status.st_gid, 0, status.st_mtime_ns, b"", 0, 0, {})
            )

    def overlay(self, root: int) -> Iterator[bytes]:
        """All below *root*, a directory's entries before those of the directories in it."""
        todo = [b""]
        while todo:
            name = todo.pop()
            directories = []
            with _directory(root, name) as fd:
                if fd is None:
                    continue
                if _is_opaque(fd):
                    yield from file_member(_join(name, OPAQUE), b"")
                for base in _names(fd):
                    inner = _join(name, base)
                    with _entry(fd, base) as found:
                        if found is None:
                            continue
                        if is_whiteout(found.status):
                            yield from file_member(_join(name, WHITEOUT + base), b"")
                            continue
                        yield from self.member(found, inner)
                        if stat.S_ISDIR(found.status.st_mode):
                            directories.append(inner)
            todo += reversed(directories)

    def compare(self, root: int, below: int | None) -> Iterator[bytes]:
        """What makes *root* of *below*."""
        relinked = _relinked(root, below) if below is not None else set()
        todo = [(b"", below is not None)]
        while todo:
            name, is_below = todo.pop()
            directories = []
            with _directory(root, name) as fd, _directory(below if is_below else None, name) as was:
                if fd is None:
                    continue
                here, before = _names(fd), _names(was) if was is not None else []
                for base in sorted(set(before).difference(here)):
                    yield from file_member(_join(name, WHITEOUT + base), b"")
                old = set(before)
                for base in here:
                    inner = _join(name, base)
                    with _entry(fd, base) as found, _entry(was if base in old else None, base) as other:
                        if found is None:
                            continue
                        if other is None or inner in relinked or not _same(found, other):
                            yield from self.member(found, inner)
                        if stat.S_ISDIR(found.status.st_mode):
                            was_directory = other is not None and stat.S_ISDIR(other.status.st_mode)
                            directories.append((inner, was_directory))
            todo += reversed(directories)

    def member(self, entry: _Entry, name: bytes) -> Iterator[bytes]:
        """*entry* with its data; a further name of a file that was written is a hard link."""
        status = entry.status
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        is_device = kind in (CHAR, BLOCK_DEVICE)
        try:
            member = Member(
                name + b"/" if kind == DIRECTORY else name,
                kind,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_size if kind == REGULAR else 0,
                status.st_mtime_ns,
                entry.link() if kind == SYMLINK else b"",
                os.major(status.st_rdev) if is_device else 0,
                os.minor(status.st_rdev) if is_device else 0,
                entry.xattrs(),
            )
        except OSError as error:
            if error.errno in _GONE or error.errno == errno.EINVAL:  # no symbolic link any more
                return
            raise
        if status.st_nlink > 1 and kind != DIRECTORY:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                member.type, member.link, member.size_bytes, member.xattrs = LINK, first, 0, {}
        yield member_header(member)
        if member.type == REGULAR:
            yield from _data(entry.file, status)


def _data(file: int, status: os.stat_result) -> Iterator[bytes]:
    """Exactly the bytes that *status* says, whatever happens to the file meanwhile: the header has said so. Holes are
    not read."""
    left = size = status.st_size
    is_sparse = size >= _SPARSE_BYTES and status.st_blocks * 512 < size
    hole = 0  # bytes until the next data
    while left:
        if is_sparse and not hole:
            hole = _hole(file, size - left)
        if hole:
            piece = _ZEROS[: min(left, hole, CHUNK_BYTES)]
            hole -= len(piece)
        else:
            piece = os.pread(file, min(left, CHUNK_BYTES), size - left) or _ZEROS[: min(left, CHUNK_BYTES)]
        left -= len(piece)
        yield piece
    yield padding(size)


def _hole(file: int, position: int) -> int:
    """The length of the hole at *position*: 0 in the midst of data, very large for the last one."""
    try:
        return os.lseek(file, position, os.SEEK_DATA) - position
    except OSError as error:
        if error.errno == errno.ENXIO:
            return 1 << 62
        raise


def _same(entry: _Entry, other: _Entry) -> bool:
    status, was = entry.status, other.status
    if (status.st_mode, status.st_uid, status.st_gid, status.st_rdev) != (
        was.st_mode,
        was.st_uid,
        was.st_gid,
        was.st_rdev,
    ):
        return False
    if not stat.S_ISDIR(status.st_mode) and (status.st_size, status.st_mtime_ns) != (was.st_size, was.st_mtime_ns):
        return False
    if stat.S_ISLNK(status.st_mode) and entry.link() != other.link():
        return False
    return entry.xattrs() == other.xattrs()


def _relinked(root: int, below: int) -> set[bytes]:
    """Names of hard links that must be written though they look the same: one of their file's names changed, or they
    were names of another file."""
    here, before = _hard_links(root), _hard_links(below)
    changed = {name for name in here.keys() | before.keys() if here.get(name) != before.get(name)}
    for names in set(here.values()):
        if changed.isdisjoint(names):
            directory, _, base = min(names).rpartition(b"/")
            with (
                _directory(root, directory) as fd,
                _directory(below, directory) as was,
                _entry(fd, base) as entry,
                _entry(was, base) as other,
            ):
                if entry is not None and other is not None and _same(entry, other):
                    continue
        changed |= names
    return changed


def _hard_links(root: int) -> dict[bytes, frozenset[bytes]]:
    """Every name of a file with several of them, and all of its names."""
    names: dict[tuple[int, int], list[bytes]] = {}
    todo = [b""]
    while todo:
        name = todo.pop()
        with _directory(root, name) as fd:
            for base in _names(fd) if fd is not None else ():
                status = os.stat(base, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(_join(name, base))
                elif status.st_nlink > 1:
                    names.setdefault((status.st_dev, status.st_ino), []).append(_join(name, base))
    groups = [frozenset(group) for group in names.values()]
    return {name: group for group in groups for name in group}


@contextmanager
def _opened_roots(tree: str, parent: str | None) -> Iterator[tuple[int, int | None]]:
    with ExitStack() as open_ones:
        opened = []
        for path in (tree, parent):
            if path is not None:
                opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                open_ones.callback(os.close, opened[-1])
        yield opened[0], opened[1] if len(opened) > 1 else None


@contextmanager
def _directory(root: int | None, name: bytes) -> Iterator[int | None]:
    """A descriptor of the directory *name* below *root*; None where it is no directory any more."""
    if root is None:
        yield None
        return
    try:
        fd = sys.openat2(root, name or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_NO_LINKS)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidArgument(f"{shown(name)} … is too long a path for a layer") from error
        if error.errno not in _GONE:
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _entry(directory: int | None, base: bytes) -> Iterator[_Entry | None]:
    """What *directory* has under the name *base*, or None."""
    if directory is None:
        yield None
        return
    file = -1
    try:
        status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO by now would block
            file = os.open(base, flags, dir_fd=directory)
            status = os.fstat(file)
    except OSError as error:
        if error.errno not in _GONE | {errno.ENXIO}:
            raise
        yield None
        return
    try:
        yield _Entry(directory, base, status, file) if file < 0 or stat.S_ISREG(status.st_mode) else None
    finally:
        if file >= 0:
            os.close(file)


def _names(fd: int) -> list[bytes]:
    return sorted(base for base in map(os.fsencode, os.listdir(fd)) if not base.startswith(WHITEOUT))


def _xattrs(target: int | bytes) -> dict[bytes, bytes]:
    """Those that a layer may have; none where the filesystem has none."""
    follow = isinstance(target, int)
    found = {}
    try:
        for key in os.listxattr(target, follow_symlinks=follow):
            if not key.startswith(_OVERLAY_XATTRS) and "=" not in key:
                found[os.fsencode(key)] = os.getxattr(target, key, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise
    return found


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False


def _join(name: bytes, base: bytes) -> bytes:
    return name + b"/" + base if name else base
