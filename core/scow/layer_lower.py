"""What the layers below an overlay layer say of a path, without mounting them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import SyscallError
from scow.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_COPY_BYTES = 16 << 20
_OPAQUE_XATTR = "trusted.overlay.opaque"


class Entry(NamedTuple):
    """One entry of the merged tree: its attributes, and where a symbolic link points."""

    status: os.stat_result
    link: bytes | None
    path: bytes  # in the layer that has it


class LowerLayers:
    """The merged view of *directories*, uppermost first, for single look-ups. A callable is asked for them at the first
    look-up: few layers need one, and the layers below may not be there yet."""

    def __init__(self, directories: Sequence[str] | Callable[[], Sequence[str]]) -> None:
        self._given = directories
        self._known: list[bytes] | None = None

    @property
    def _directories(self) -> list[bytes]:
        if self._known is None:
            given = self._given() if callable(self._given) else self._given
            self._known = [os.fsencode(directory) for directory in given]
        return self._known

    def find(self, name: bytes) -> Entry | None:
        """The entry *name* (a clean relative path), or None. Its parents are not followed where they are links."""
        parts = name.split(b"/")
        for directory in self._directories:
            for path, is_last in _prefixes(directory, parts):
                try:
                    status = os.lstat(path)
                except (FileNotFoundError, NotADirectoryError):
                    break
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    return None  # whited out: no layer further down counts
                if is_last:
                    return Entry(status, os.readlink(path) if stat.S_ISLNK(status.st_mode) else None, path)
                if not stat.S_ISDIR(status.st_mode):
                    return None
                if _opaque(path) and not os.path.lexists(os.path.join(directory, name)):
                    return None
        return None

    def has_directory(self, name: bytes) -> bool:
        """Whether *name* is a directory there."""
        entry = self.find(name)
        return entry is not None and stat.S_ISDIR(entry.status.st_mode)

    def names(self) -> set[bytes]:
        """Whatever the root of any of the layers has."""
        return {name for directory in self._directories for name in os.listdir(directory)}

    def copy_file(self, name: bytes, parent: int, base: bytes) -> bool:
        """*base* in *parent* is a copy of the regular file *name*; False where there is none."""
        entry = self.find(name)
        if entry is None or not stat.S_ISREG(entry.status.st_mode):
            return False
        target = b"/proc/self/fd/%d/%s" % (parent, base)
        with open(entry.path, "rb", buffering=0) as source, open(target, "xb", buffering=0) as copy:
            _copy_data(source.fileno(), copy.fileno(), entry.status.st_size)
        copy_attributes(entry, target)
        return True


def copy_attributes(entry: Entry, target: bytes) -> None:
    """*target* has *entry*'s owner, mode, xattrs (but overlayfs's own) and times."""
    status = entry.status
    if os.geteuid() == 0:
        os.lchown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(entry.path, follow_symlinks=False):
        if not key.startswith(("trusted.overlay.", "user.overlay.")):
            with contextlib.suppress(OSError):  # a filesystem without them holds the layers below, too
                os.setxattr(target, key, os.getxattr(entry.path, key, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def exists_as_link(root_fd: int, name: bytes) -> bytes | None:
    """What the symbolic link *name* inside *root_fd* says; None where it is none."""
    try:
        fd = sys.openat2(root_fd, name, os.O_PATH | os.O_NOFOLLOW, resolve=sys.RESOLVE_IN_ROOT)
    except SyscallError:
        return None
    try:
        return os.readlink(b"", dir_fd=fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _copy_data(source: int, copy: int, size: int) -> None:
    """The data of *source*, its holes left holes: a layer may say that a file of a few bytes is terabytes long."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data up to the end
                raise
            break
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(copy, at, os.SEEK_SET)
        while at < end:
            count = os.sendfile(copy, source, at, min(end - at, _COPY_BYTES))
            if not count:
                return
            at += count
    os.ftruncate(copy, size)


def _prefixes(directory: bytes, parts: list[bytes]) -> Iterator[tuple[bytes, bool]]:
    path = directory
    for index, part in enumerate(parts):
        path = path + b"/" + part
        yield path, index == len(parts) - 1


def _opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, _OPAQUE_XATTR) == b"y"
    except OSError:
        return False
