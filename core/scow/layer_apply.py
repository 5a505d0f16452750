"""Unpacks one OCI layer (image-spec layer.md) into a directory, with ``*at()`` calls on descriptors of directories.

Nothing is ever written outside the directory: names are cleaned as text (one that climbs out is refused), parents are
opened with ``openat2(RESOLVE_IN_ROOT)``, the last name is never followed. Whiteouts become overlayfs's (a character
device 0/0, ``trusted.overlay.opaque``) or deletions.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import InvalidArgument
from scow.layer_lower import LowerLayers
from scow.linux import syscalls as sys
from scow.linux.trees import remove_at
from scow.tar_reader import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Member, TarReader

if TYPE_CHECKING:
    from collections.abc import Sequence

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_METADATA = b".wh..wh."  # of AUFS; says nothing about files
_OPAQUE_XATTR = "trusted.overlay.opaque"
_OWN_XATTRS = (b"trusted.overlay.", b"user.overlay.")  # overlayfs acts on them: not for images to set
_PARENTS_KEPT = 128
_TYPES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}
# The file itself is not to be had: a name that the filesystem refuses is the tar's fault, a full disk is not.
_REFUSED = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.EXDEV, errno.ERANGE}


class Whiteouts(Enum):
    """What a whiteout in a layer becomes on disk."""

    OVERLAY = "overlay"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Applied:
    """What a layer brought: bytes of its regular files, and entries."""

    size_bytes: int
    inodes: int


def apply_layer(layer: BinaryIO, root: str, whiteouts: Whiteouts, lower: Sequence[str] = ()) -> Applied:
    """*root* (an existing directory) is changed by the uncompressed tar *layer*, which is read to its end.

    *lower* are the directories of the layers below, uppermost first, with overlayfs's whiteouts: directories that the
    tar leaves out get their owner and mode from there. Raises `InvalidArgument` for a hostile or malformed tar and
    OSError (ENOSPC …); *root* is then half changed.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    applier = _Applier(root_fd, whiteouts, LowerLayers(lower))
    try:
        return applier.run(TarReader(layer))
    finally:
        applier.close()


def clean_name(name: bytes) -> bytes:
    """*name* relative to the root without ``.``, ``..`` and empty parts; ``b""`` is the root. Raises
    `InvalidArgument` where it climbs out of the root or holds a NUL."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidArgument(f"malicious layer: {_shown(name)} lies outside the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class _Applier:
    def __init__(self, root_fd: int, whiteouts: Whiteouts, lower: LowerLayers) -> None:
        self._root = root_fd
        self._overlay = whiteouts is Whiteouts.OVERLAY
        self._lower = lower
        self._parents: dict[bytes, int] = {b"": root_fd}
        self._own = os.geteuid() == 0
        self._umask = _umask()
        self._directories: dict[bytes, int] = {}  # path → mtime_ns, set last: entries made in them change it
        self._made: set[bytes] = set()  # for DELETE: what whiteouts of this layer must not touch
        self._hidden: set[bytes] = set()  # for OVERLAY: names whited out in this layer
        self._size = self._inodes = 0

    def run(self, tar: TarReader) -> Applied:
        while (member := tar.next()) is not None:
            name = clean_name(member.name)
            try:
                self._member(tar, member, name)
            except OSError as error:
                if error.errno in _REFUSED:
                    raise InvalidArgument(f"layer member {_shown(name)}: {os.strerror(error.errno)}") from error
                raise
        tar.drain()
        self._settle_directories()
        return Applied(self._size, self._inodes)

    def close(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()

    def _member(self, tar: TarReader, member: Member, name: bytes) -> None:
        parent_name, _, base = name.rpartition(b"/")
        if base.startswith(WHITEOUT):
            self._whiteout(parent_name, base)
            return
        if not name:
            if member.type != DIRECTORY:
                raise InvalidArgument("malicious layer: the root is not a directory")
            self._attributes(member, self._root, b".")
            self._directories[name] = member.mtime_ns
            return
        parent = self._parent(parent_name)
        kind = member.type
        if kind == REGULAR:
            self._regular(tar, member, parent, base, name)
        elif kind == DIRECTORY:
            self._directory(member, parent, base, name)
        else:
            self._special(member, parent, base, name)
        self._inodes += 1
        if not self._overlay:
            self._made.add(name)

    def _regular(self, tar: TarReader, member: Member, parent: int, base: bytes, name: bytes) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = member.mode
        try:
            fd = os.open(base, flags, mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._clear(parent, base, name)
            fd = os.open(base, flags, mode & 0o777, dir_fd=parent)
        try:
            if member.sparse is not None:
                _write_sparse(fd, tar, member)
            else:
                for piece in tar.pieces():
                    _write(fd, piece)
            self._size += member.size_bytes
            if self._own and (member.uid or member.gid):
                os.chown(fd, member.uid, member.gid)
            if mode & (self._umask | 0o7000):
                os.chmod(fd, mode)
            if member.xattrs:
                _set_xattrs(fd, member.xattrs)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, member: Member, parent: int, base: bytes, name: bytes) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
                self._clear(parent, base, name)
                os.mkdir(base, 0o700, dir_fd=parent)
        if name in self._hidden:  # a directory over what this layer deleted shows nothing of the layers below
            os.setxattr(_path(parent, base), _OPAQUE_XATTR, b"y", follow_symlinks=False)
        self._attributes(member, parent, base)
        self._directories[name] = member.mtime_ns

    def _special(self, member: Member, parent: int, base: bytes, name: bytes) -> None:
        try:
            self._make_special(member, parent, base)
        except FileExistsError:
            self._clear(parent, base, name)
            self._make_special(member, parent, base)
        if member.type != LINK:
            self._attributes(member, parent, base)
            os.utime(base, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _make_special(self, member: Member, parent: int, base: bytes) -> None:
        if member.type == SYMLINK:
            if not member.link or b"\0" in member.link:
                raise InvalidArgument(f"malformed layer: symbolic link {_shown(member.name)} to nothing")
            os.symlink(member.link, base, dir_fd=parent)
        elif member.type == LINK:
            self._hard_link(member, parent, base)
        elif member.type == FIFO:
            os.mkfifo(base, member.mode & 0o777, dir_fd=parent)
        else:
            device = os.makedev(member.major, member.minor)
            os.mknod(base, _TYPES[member.type] | member.mode & 0o777, device, dir_fd=parent)

    def _hard_link(self, member: Member, parent: int, base: bytes) -> None:
        target = clean_name(member.link)
        above, _, last = target.rpartition(b"/")
        try:
            source = self._parent(above, make=False)
            os.link(last, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if not self._lower.copy_file(target, parent, base):
                raise InvalidArgument(
                    f"malformed layer: {_shown(member.name)} is a hard link to {_shown(target)}, which is not there"
                ) from None
        except PermissionError as error:  # to a directory
            raise InvalidArgument(f"malicious layer: hard link to {_shown(target)}: not permitted") from error

    def _attributes(self, member: Member, parent: int, base: bytes) -> None:
        """Owner, mode and xattrs of an entry that is no regular file; chown clears set-id bits, so mode comes second."""
        if self._own:
            os.chown(base, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.type != SYMLINK:
            os.chmod(base, member.mode, dir_fd=parent)
        if member.xattrs:
            if b"system.posix_acl_default" in member.xattrs:
                self._umask = 0o777  # new files below inherit the ACL: their mode is always set
            _set_xattrs(_path(parent, base), member.xattrs)

    # Whiteouts

    def _whiteout(self, parent_name: bytes, base: bytes) -> None:
        if base == OPAQUE:
            self._opaque(parent_name)
            return
        if base.startswith(_METADATA):
            return
        base = base[len(WHITEOUT) :]
        if base in (b"", b".", b".."):
            raise InvalidArgument(f"malicious layer: whiteout of {_shown(base)}")
        name = parent_name + b"/" + base if parent_name else base
        if self._overlay:
            self._hide(self._parent(parent_name), base, name)
        else:
            try:
                self._delete(self._parent(parent_name, make=False), base, name)
            except (FileNotFoundError, NotADirectoryError):
                pass  # nothing to delete

    def _hide(self, parent: int, base: bytes, name: bytes) -> None:
        """A whiteout deletes what the layers below have; an entry of this layer stays (image-spec layer.md)."""
        self._hidden.add(name)
        try:
            os.mknod(base, stat.S_IFCHR, 0, dir_fd=parent)
            self._inodes += 1
        except FileExistsError:
            if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
                os.setxattr(_path(parent, base), _OPAQUE_XATTR, b"y", follow_symlinks=False)

    def _opaque(self, name: bytes) -> None:
        if self._overlay:
            os.setxattr(f"/proc/self/fd/{self._parent(name)}", _OPAQUE_XATTR, b"y")
            return
        directory = self._parent(name)
        for entry in os.listdir(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)):
            base = os.fsencode(entry)
            self._delete(directory, base, name + b"/" + base if name else base)

    def _delete(self, parent: int, base: bytes, name: bytes) -> None:
        """*base* is gone but for what this layer made in it."""
        if name not in self._made and not any(made.startswith(name + b"/") for made in self._made):
            self._clear(parent, base, name)
            return
        if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                for entry in os.listdir(fd):
                    child = os.fsencode(entry)
                    self._delete(fd, child, name + b"/" + child)
            finally:
                os.close(fd)

    # Directories

    def _clear(self, parent: int, base: bytes, name: bytes) -> None:
        """Nothing has the name *base* in *parent* any more; descriptors of what may have lain below it are forgotten."""
        if remove_at(parent, base):
            kept = self._parents.pop(b"")
            keep_parent = {path: fd for path, fd in self._parents.items() if fd == parent}
            for path, fd in self._parents.items():
                if path not in keep_parent:
                    os.close(fd)
            self._parents = {b"": kept, **keep_parent}
            self._directories = {
                path: mtime
                for path, mtime in self._directories.items()
                if path != name and not path.startswith(name + b"/")
            }

    def _parent(self, name: bytes, *, make: bool = True) -> int:
        """A descriptor of the directory *name*, made where it is missing (with *make*); it belongs to the cache."""
        fd = self._parents.get(name)
        if fd is not None:
            return fd
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            fd = sys.openat2(self._root, name, flags, resolve=sys.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            if not make:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
            self._make_parents(name)
            fd = sys.openat2(self._root, name, flags, resolve=sys.RESOLVE_IN_ROOT)
        if len(self._parents) >= _PARENTS_KEPT:
            oldest = next(path for path in self._parents if path)
            os.close(self._parents.pop(oldest))
        self._parents[name] = fd
        return fd
