"""The directories of a layer while it is unpacked: found inside its root, made where members left them out."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from scow.errors import InvalidArgument
from scow.layer_lower import LowerLayers, copy_attributes, exists_as_link
from scow.linux import syscalls as sys

OPAQUE_XATTR = "trusted.overlay.opaque"
_KEPT = 128
_LINKS_FOLLOWED = 40  # as the kernel


class Directories:
    """Descriptors of the directories below *root_fd* (which is closed with them).

    *hidden* are the names that whiteouts of this layer hid, *opaque* the directories of which it hid all that lies
    below; *times* are the modification times (ns) that `settle` sets when nothing more is made in them; *made* counts
    those that no member described. *pass_group* says that there may be one with the set-group-ID bit: what is made in
    it belongs to its group at first.
    """

    def __init__(self, root_fd: int, lower: LowerLayers) -> None:
        self.root = root_fd
        self.hidden: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.times: dict[bytes, int] = {}
        self.made = 0
        self.pass_group = False
        self._lower = lower
        self._kept: dict[bytes, int] = {}  # least lately used first

    def close(self) -> None:
        """No descriptor is open any more."""
        self.forget(None)
        os.close(self.root)

    def forget_below(self, name: bytes, kept_fd: int) -> None:
        """*name* is gone: paths that may have led through it are looked up anew. *kept_fd* stays open."""
        self.forget(kept_fd)
        below = name + b"/"
        for path in [path for path in self.times if path == name or path.startswith(below)]:
            del self.times[path]

    def forget(self, kept_fd: int | None) -> None:
        """Only *kept_fd* stays open."""
        for path, fd in list(self._kept.items()):
            if fd != kept_fd:
                os.close(fd)
                del self._kept[path]

    def get(self, name: bytes, *, make: bool = True) -> int:
        """A descriptor of the directory *name*, made where it is missing (with *make*). It belongs to the cache, and
        is good until `_KEPT` others were asked for."""
        if not name:
            return self.root
        fd = self._kept.pop(name, -1)
        if fd < 0:
            try:
                fd = self._open(name)
            except FileNotFoundError:
                if not make:
                    raise
                fd = self._make_parents(name, 0)
            if len(self._kept) >= _KEPT:
                os.close(self._kept.pop(next(iter(self._kept))))
        self._kept[name] = fd
        return fd

    def _open(self, name: bytes) -> int:
        try:
            return sys.openat2(self.root, name or b".", os.O_PATH | os.O_DIRECTORY, resolve=sys.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno == errno.ENOENT or (error.errno == errno.ENOTDIR and self._whited_out(name)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
            raise

    def _make_parents(self, name: bytes, links: int) -> int:
        """A new descriptor of the directory *name* with all that was missing on the way; links are followed inside the
        root, those of the layers below included."""
        if links > _LINKS_FOLLOWED:
            raise InvalidArgument(f"malicious layer: too many links on the way to {shown(name)}")
        parts = name.split(b"/")
        fd = self._open(b"")
        for index, part in enumerate(parts):
            path = b"/".join(parts[: index + 1])
            parent, fd = fd, -1
            try:
                fd = self._open(path)
            except FileNotFoundError:
                link = self._make_directory(parent, part, path)
                if link is None:
                    fd = self._open(path)
            finally:
                os.close(parent)
            if fd < 0 and link is not None:
                start = b"" if link.startswith(b"/") else b"/".join(parts[:index])
                followed = _clamp(start + b"/" + link + b"/" + b"/".join(parts[index + 1 :]))
                return self._make_parents(followed, links + 1) if followed else self._open(b"")
        return fd

    def _make_directory(self, parent: int, base: bytes, path: bytes) -> bytes | None:
        """The directory *base*, which no member described, exists, like that of the layers below; or what the symbolic
        link says that is there instead."""
        link = exists_as_link(parent, base)
        below = self._lower.find(path) if link is None and not self.covers(path) else None
        if below is not None and below.link is not None:
            link = below.link
        elif below is not None and not stat.S_ISDIR(below.status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if link is None:
            if path in self.hidden:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(base, dir_fd=parent)  # the whiteout
            os.mkdir(base, 0o755, dir_fd=parent)
            if os.geteuid() == 0:
                os.chown(base, 0, 0, dir_fd=parent, follow_symlinks=False)  # whatever group its parent passes on
            os.chmod(base, 0o755, dir_fd=parent)  # whatever the umask
            self.made += 1
            if path in self.hidden:
                os.setxattr(entry_path(parent, base), OPAQUE_XATTR, b"y", follow_symlinks=False)
            elif below is not None:
                copy_attributes(below, entry_path(parent, base))
                self.pass_group |= bool(below.status.st_mode & stat.S_ISGID)
                self.times[path] = below.status.st_mtime_ns
        return link

    def _whited_out(self, name: bytes) -> bool:
        """Whether a whiteout of this layer is in the way to the directory *name*: there is nothing, then."""
        while name:
            if name in self.hidden:
                fd = sys.openat2(self.root, name, os.O_PATH | os.O_NOFOLLOW, resolve=sys.RESOLVE_IN_ROOT)
                try:
                    return is_whiteout(os.fstat(fd))
                finally:
                    os.close(fd)
            name = name.rpartition(b"/")[0]
        return False

    def drop_empty(self, name: bytes) -> None:
        """*name* and its parents are gone as far as they are empty and no member described them."""
        self.forget(None)
        while name and name not in self.times:
            above, _, base = name.rpartition(b"/")
            try:
                os.rmdir(base, dir_fd=self.get(above, make=False))
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    return
                raise
            self.made -= 1
            name = above

    def name_of(self, fd: int) -> bytes:
        """Where the open directory *fd* lies below the root, whatever links led there."""
        top, path = (os.readlink(b"/proc/self/fd/%d" % each) for each in (self.root, fd))
        return path[len(top) + 1 :]

    def place(self, fd: int, base: bytes) -> bytes:
        """Where *base* in the open directory *fd* lies."""
        above = self.name_of(fd)
        return above + b"/" + base if above else base

    def covers(self, name: bytes) -> bool:
        """Whether whiteouts of this layer hide what the layers below have called *name*."""
        if not self.hidden and not self.opaque:
            return False
        if name in self.hidden or b"" in self.opaque:
            return True
        while slash := name.rfind(b"/") + 1:
            name = name[: slash - 1]
            if name in self.hidden or name in self.opaque:
                return True
        return False

    def settle(self) -> None:
        """Every directory has its modification time."""
        for name, mtime_ns in self.times.items():
            above, _, base = name.rpartition(b"/")
            try:
                parent = self.get(above, make=False)
                os.utime(base or b".", ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue  # deleted by a later member


def clean_name(name: bytes) -> bytes:
    """*name* relative to the root without ``.``, ``..`` and empty parts; ``b""`` is the root. Raises
    `InvalidArgument` where it climbs out of the root or holds a NUL."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidArgument(f"malicious layer: {shown(name)} lies outside the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs takes it for a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _clamp(name: bytes) -> bytes:
    """*name* cleaned as a process in the root sees it: ``..`` of the root is the root."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def entry_path(parent: int, base: bytes) -> bytes:
    """A path to *base* in *parent*, for calls without a ``dir_fd``."""
    return b"/proc/self/fd/%d/%s" % (parent, base)


def shown(name: bytes) -> str:
    """*name* for a message."""
    return repr(name[:200].decode("utf-8", "replace"))
