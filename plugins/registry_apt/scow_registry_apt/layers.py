"""Writes layers: a tar in sorted order, compressed by ISA-L while both digests are taken."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from isal import isal_zlib

from scow.oci import OCI_LAYER_GZIP, Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GZIP = 31  # window bits that ask zlib for a gzip header
_BLOCK = 1 << 18
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_UNFOLLOWED = frozenset({"dev", "proc", "sys", "tmp"})
"""Directories that belong to the running system: they are in the image, empty."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's blob and the digest of its tar."""

    descriptor: Descriptor
    diff_id: str


class LayerWriter:
    """A tar (*tar*) that becomes a gzip blob in *out*. `close` answers the layer."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP)
        self._diff, self._blob = hashlib.sha256(), hashlib.sha256()
        self._position = self._size = 0
        self.tar = tarfile.open(  # noqa: SIM115  (closed by close)
            fileobj=self,  # type: ignore[call-overload]
            mode="w",
            format=tarfile.PAX_FORMAT,
            copybufsize=_BLOCK,
        )

    def write(self, data: bytes) -> int:
        """What `tarfile` calls."""
        self._diff.update(data)
        self._put(self._packer.compress(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """What `tarfile` calls."""
        return self._position

    def close(self) -> Layer:
        """The blob is complete in *out*."""
        self.tar.close()
        self._put(self._packer.flush())
        descriptor = Descriptor(OCI_LAYER_GZIP, f"sha256:{self._blob.hexdigest()}", self._size)
        return Layer(descriptor, f"sha256:{self._diff.hexdigest()}")

    def _put(self, data: bytes) -> None:
        self._blob.update(data)
        self._size += len(data)
        self._out.write(data)

    # members

    def directory(self, path: str, mode: int = 0o755) -> None:
        """An empty directory owned by root."""
        info = tarfile.TarInfo(path)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(info)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file owned by root."""
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(data), mode
        self.tar.addfile(info, io.BytesIO(data))

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self.tar.addfile(info)

    def tree(self, root: Path, *, lower: Path | None = None) -> None:
        """Everything below *root*, sorted, with numeric owners, hard links and capabilities.

        With *lower*, *root* is the upper directory of an overlay on it: whiteouts and opaque directories become those
        of image-spec layer.md. (The kernel marks every new directory opaque; only those that hide something count.)
        """
        inodes: dict[tuple[int, int], str] = {}
        for relative, entry in _walk(str(root), ""):
            info = entry.stat(follow_symlinks=False)
            if lower is not None and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                folder, _, name = relative.rpartition("/")
                self.file(f"{folder}/.wh.{name}".lstrip("/"), b"")
                continue
            self._add(relative, entry.path, info, inodes)
            hides = lower is not None and stat.S_ISDIR(info.st_mode) and (lower / relative).is_dir()
            if hides and _is_opaque(entry.path):
                self.file(f"{relative}/.wh..wh..opq", b"")

    def _add(self, relative: str, path: str, info: os.stat_result, inodes: dict[tuple[int, int], str]) -> None:
        member = tarfile.TarInfo(relative)
        member.mode = stat.S_IMODE(info.st_mode)
        member.uid, member.gid, member.mtime = info.st_uid, info.st_gid, int(info.st_mtime)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            first = inodes.setdefault((info.st_dev, info.st_ino), relative) if info.st_nlink > 1 else relative
            if first != relative:
                member.type, member.linkname = tarfile.LNKTYPE, first
                self.tar.addfile(member)
                return
            member.size = info.st_size
            capability = _xattr(path, "security.capability")
            if capability:
                text = capability.decode("utf-8", "surrogateescape")
                member.pax_headers = {"SCHILY.xattr.security.capability": text}
            with open(path, "rb", buffering=0) as content:
                self.tar.addfile(member, content)
            return
        if kind == stat.S_IFDIR:
            member.type = tarfile.DIRTYPE
        elif kind == stat.S_IFLNK:
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif kind == stat.S_IFIFO:
            member.type = tarfile.FIFOTYPE
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            member.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
            member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        else:
            return  # a socket: no tar holds one
        self.tar.addfile(member)


def _walk(folder: str, relative: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{relative}/{entry.name}" if relative else entry.name
        yield path, entry
        if entry.is_dir(follow_symlinks=False) and path not in _UNFOLLOWED:
            yield from _walk(entry.path, path)


def _is_opaque(path: str) -> bool:
    return any(_xattr(path, name) == b"y" for name in _OPAQUE)


def _xattr(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return b""  # none, or a filesystem without
