"""Small layers and trees for tests of storage: made, applied, described."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from scow.ports.storage import MOUNT_POINTS
from scow.testing.fakes_registry import FileTree, make_tar

if TYPE_CHECKING:
    from pathlib import Path

    from scow.ports.storage import StorageDriver


def entry(kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A member for `make_tar` that is no plain file or has an owner, a mode, a time …"""
    info = tarfile.TarInfo()
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def layer_key(name: str) -> str:
    """A chain ID for the layer *name*."""
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def add(driver: StorageDriver, name: str, parent: str | None, files: FileTree) -> str:
    """The layer *name* of *files* is applied on *parent*; answers its key."""
    data = make_tar(files)
    key = layer_key(name)
    driver.apply(key, parent, "sha256:" + hashlib.sha256(data).hexdigest(), io.BytesIO(data))
    return key


def stream(files: FileTree) -> BinaryIO:
    """The tar of *files*."""
    return io.BytesIO(make_tar(files))


def names(root: Path) -> list[str]:
    """Every path below *root*, sorted, without the mount points that a driver may have added and nobody filled."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*")}
    for point in sorted(MOUNT_POINTS, reverse=True):
        path = found.get(point.rstrip("/"))
        if path is not None and _is_empty(path, found):
            del found[point.rstrip("/")]
    return sorted(found)


def _is_empty(path: Path, found: dict[str, Path]) -> bool:
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return not any(path in other.parents for other in found.values())
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def described(root: Path) -> dict[str, tuple[Any, ...]]:
    """Every path below *root* with what it is and holds."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in names(root):
        path = root / name
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
        found[name] = (status.st_mode, status.st_uid, status.st_gid, links, cast("Any", content))
    return found
