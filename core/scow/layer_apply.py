"""Unpacks one OCI layer (image-spec layer.md) into a directory, with ``*at()`` calls on descriptors of directories.

Nothing is ever written outside the directory: names are cleaned as text (one that climbs out is refused), parents are
opened with ``openat2(RESOLVE_IN_ROOT)``, the last name is never followed. Whiteouts become overlayfs's (a character
device 0/0, ``trusted.overlay.opaque``) or deletions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import InvalidArgument
from scow.layer_directories import OPAQUE_XATTR, Directories, clean_name, entry_path, is_whiteout, shown
from scow.layer_files import HOLE_BYTES, write, write_sparse, write_with_holes
from scow.layer_lower import LowerLayers
from scow.linux.trees import remove_at
from scow.tar_reader import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Member, TarReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_METADATA = b".wh..wh."  # of AUFS; says nothing about files
_NAMES_LIMIT_BYTES = 512 << 20  # of what is remembered of a layer: some three million directories or whiteouts
_ENTRY_BYTES = 100  # what the memory of a name costs beside its own length
_OWN_XATTRS = (b"trusted.overlay.", b"user.overlay.")  # overlayfs acts on them: not for images to set
_TYPES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}
# The file itself is not to be had: a name that the filesystem refuses is the tar's fault, a full disk is not.
_REFUSED = {
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EINVAL,
    errno.EISDIR,
    errno.EXDEV,
    errno.ERANGE,
}


class Whiteouts(Enum):
    """What a whiteout in a layer becomes on disk."""

    OVERLAY = "overlay"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Applied:
    """What a layer brought: bytes of its regular files, and entries; and whether it says what its root is like."""

    size_bytes: int
    inodes: int
    root_described: bool


def apply_layer(
    layer: BinaryIO, root: str, whiteouts: Whiteouts, lower: Sequence[str] | Callable[[], Sequence[str]] = ()
) -> Applied:
    """*root* (an existing directory) is changed by the uncompressed tar *layer*, which is read to its end.

    *lower* are the directories of the layers below, uppermost first, with overlayfs's whiteouts: directories that the
    tar leaves out get their owner and mode from there. A callable is called for them once, and only where the tar
    leaves out a directory or has a hard link to a file of theirs: until then nothing of them is needed.
    Raises `InvalidArgument` for a hostile or malformed tar and OSError (ENOSPC …); *root* is then half changed.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    applier = _Applier(root_fd, whiteouts, LowerLayers(lower))
    try:
        return applier.run(TarReader(layer))
    finally:
        applier.close()


class _Applier:
    def __init__(self, root_fd: int, whiteouts: Whiteouts, lower: LowerLayers) -> None:
        self._directories = Directories(root_fd, lower)
        self._overlay = whiteouts is Whiteouts.OVERLAY
        self._lower = lower
        self._own = os.geteuid() == 0
        self._directories.pass_group = not self._overlay  # directories that were there before may
        self._umask = _umask()
        self._made: set[bytes] = set()  # for DELETE: entries of this layer and their parents, which its whiteouts leave
        self._size = self._inodes = self._remembered = 0
        self._root_described = False

    def run(self, tar: TarReader) -> Applied:
        while (member := tar.next()) is not None:
            name = clean_name(member.name)
            if member.type == DIRECTORY or WHITEOUT in name or not self._overlay:
                self._remembered += len(name) + _ENTRY_BYTES
                if self._remembered > _NAMES_LIMIT_BYTES:
                    raise InvalidArgument("malicious layer: more directories than can be remembered")
            try:
                self._member(tar, member, name)
            except OSError as error:
                if error.errno in _REFUSED:
                    raise InvalidArgument(f"layer member {shown(name)}: {os.strerror(error.errno)}") from error
                raise
            except (ValueError, OverflowError) as error:  # a NUL in a name, an owner or time out of range
                raise InvalidArgument(f"layer member {shown(name)}: {error}") from error
        tar.drain()
        if b"" in self._directories.opaque:
            for base in self._lower.names():
                self._hide(self._directories.root, base)
        if self._directories.hidden:
            self._drop_idle_whiteouts()
        self._directories.settle()
        return Applied(self._size, self._inodes + self._directories.made, self._root_described)

    def close(self) -> None:
        self._directories.close()

    def _member(self, tar: TarReader, member: Member, name: bytes) -> None:
        parent_name, _, base = name.rpartition(b"/")
        if base.startswith(WHITEOUT):
            try:
                self._whiteout(parent_name, base)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
            return  # umoci also writes those below what is a file now: there is nothing to delete
        if not name:
            if member.type != DIRECTORY:
                raise InvalidArgument("malicious layer: the root is not a directory")
            self._root_described = True
            self._attributes(member, self._directories.root, b".")
            self._directories.times[name] = member.mtime_ns
            return
        parent = self._directories.get(parent_name)
        kind = member.type
        if kind == REGULAR:
            self._regular(tar, member, parent, base, name)
        elif kind == DIRECTORY:
            self._directory(member, parent, base, name)
        else:
            self._special(member, parent, base, name)
        self._inodes += 1
        if not self._overlay:
            self._keep(self._directories.place(parent, base))

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
                write_sparse(fd, tar, member)
            elif member.size_bytes < HOLE_BYTES:
                for piece in tar.pieces():
                    write(fd, piece)
            else:
                write_with_holes(fd, tar, member)
            self._size += member.size_bytes
            if self._own and (member.uid or member.gid or self._directories.pass_group):
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
            if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
                _drop_xattrs(entry_path(parent, base), member.xattrs)
            else:
                self._clear(parent, base, name)
                os.mkdir(base, 0o700, dir_fd=parent)
        hidden = self._directories.hidden
        if hidden and self._directories.place(parent, base) in hidden:  # it shows nothing of the layers below
            os.setxattr(entry_path(parent, base), OPAQUE_XATTR, b"y", follow_symlinks=False)
        self._attributes(member, parent, base)
        self._directories.times[name] = member.mtime_ns

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
                raise InvalidArgument(f"malformed layer: symbolic link {shown(member.name)} to nothing")
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
        if target == clean_name(member.name):
            raise InvalidArgument(f"malformed layer: {shown(member.name)} is a hard link to itself")
        above, _, last = target.rpartition(b"/")
        try:
            source = self._directories.get(above, make=False)
            if target in self._directories.hidden and is_whiteout(os.stat(last, dir_fd=source, follow_symlinks=False)):
                raise InvalidArgument(f"malformed layer: {shown(member.name)} is a hard link to what the layer deletes")
            os.link(last, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if self._directories.covers(target) or not self._lower.copy_file(target, parent, base):
                raise InvalidArgument(
                    f"malformed layer: {shown(member.name)} is a hard link to {shown(target)}, which is not there"
                ) from None
        except PermissionError as error:  # to a directory
            raise InvalidArgument(f"malicious layer: hard link to {shown(target)}: not permitted") from error

    def _attributes(self, member: Member, parent: int, base: bytes) -> None:
        """Owner, mode and xattrs of what is no regular file; chown clears set-id bits, so the mode comes second."""
        if self._own:
            os.chown(base, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.type != SYMLINK:
            os.chmod(base, member.mode, dir_fd=parent)
            self._directories.pass_group |= bool(member.mode & stat.S_ISGID)
        if member.xattrs:
            if b"system.posix_acl_default" in member.xattrs:
                self._umask = 0o777  # new files below inherit the ACL: their mode is always set
            _set_xattrs(entry_path(parent, base), member.xattrs)

    # Whiteouts

    def _whiteout(self, parent_name: bytes, base: bytes) -> None:
        if base == OPAQUE:
            self._opaque(parent_name)
            return
        if base.startswith(_METADATA):
            return
        base = base[len(WHITEOUT) :]
        if base in (b"", b".", b".."):
            raise InvalidArgument(f"malicious layer: whiteout of {shown(base)}")
        if self._overlay:
            self._hide(self._directories.get(parent_name), base)
        else:
            parent = self._directories.get(parent_name, make=False)
            self._delete(parent, base, self._directories.place(parent, base))

    def _hide(self, parent: int, base: bytes) -> None:
        """A whiteout deletes what the layers below have; an entry of this layer stays (image-spec layer.md)."""
        self._directories.hidden.add(self._directories.place(parent, base))
        try:
            os.mknod(base, stat.S_IFCHR, 0, dir_fd=parent)
            self._inodes += 1
        except FileExistsError:
            if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
                os.setxattr(entry_path(parent, base), OPAQUE_XATTR, b"y", follow_symlinks=False)

    def _drop_idle_whiteouts(self) -> None:
        """No whiteout lies in a directory that the layers below have not: overlayfs lists its name there, though there
        is nothing (a directory of one layer is read without looking for whiteouts). The root is in every layer."""
        places: dict[bytes, list[bytes]] = {}
        for name in self._directories.hidden:
            place, _, base = name.rpartition(b"/")
            places.setdefault(place, []).append(base)
        for place, bases in places.items():
            cut = place in self._directories.opaque or self._directories.covers(place)
            if not place or (not cut and self._lower.has_directory(place)):
                continue
            try:
                fd = self._directories.get(place, make=False)
                for base in bases:
                    if is_whiteout(os.stat(base, dir_fd=fd, follow_symlinks=False)):
                        os.unlink(base, dir_fd=fd)
                        self._inodes -= 1
                self._directories.drop_empty(place)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # deleted by a later member
                    raise

    def _opaque(self, name: bytes) -> None:
        if self._overlay:
            fd = self._directories.get(name)
            self._directories.opaque.add(place := self._directories.name_of(fd))
            if place:  # overlayfs takes no root for opaque: its names are hidden one by one, in the end
                os.setxattr(f"/proc/self/fd/{fd}", OPAQUE_XATTR, b"y")
            return
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directories.get(name))
        try:
            place = self._directories.name_of(fd)
            self._keep(place)
            self._delete_entries(fd, place)
        finally:
            os.close(fd)

    def _keep(self, name: bytes) -> None:
        """*name* and its parents are of this layer: its whiteouts leave them."""
        while name and name not in self._made:
            self._made.add(name)
            name = name.rpartition(b"/")[0]

    def _delete(self, parent: int, base: bytes, name: bytes) -> None:
        """*base* is gone but for what this layer made in it."""
        if name not in self._made:
            self._clear(parent, base, name)
        elif stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._delete_entries(fd, name)
            finally:
                os.close(fd)

    def _delete_entries(self, fd: int, name: bytes) -> None:
        for entry in os.listdir(fd):
            base = os.fsencode(entry)
            self._delete(fd, base, name + b"/" + base if name else base)

    # Directories

    def _clear(self, parent: int, base: bytes, name: bytes) -> None:
        """Nothing is called *base* in *parent*; where paths may have led through it, they are looked up anew."""
        if remove_at(parent, base):
            self._directories.forget_below(name, parent)


def _set_xattrs(target: int | bytes, xattrs: dict[bytes, bytes]) -> None:
    """Every xattr that images may set; those that the filesystem has not are left out, as Docker does."""
    for key, value in xattrs.items():
        if key.startswith(_OWN_XATTRS):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, key, value)
            else:
                os.setxattr(target, key, value, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and (os.geteuid() or key[:5] == b"user.")):
                continue
            raise


def _drop_xattrs(path: bytes, wanted: dict[bytes, bytes]) -> None:
    """*path* has no xattrs but *wanted* and overlayfs's own."""
    for key in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
        if key not in wanted and not key.startswith(_OWN_XATTRS):
            with contextlib.suppress(OSError):  # some cannot be removed: SELinux's label
                os.removexattr(path, key, follow_symlinks=False)


def _umask() -> int:
    """The process's umask, read without changing it for other threads."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0o777)
