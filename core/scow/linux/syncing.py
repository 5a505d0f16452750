"""What was written reaches the disk."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)  # lets other threads run meanwhile: it may take seconds


def sync_filesystem(path: str | os.PathLike[str]) -> None:
    """Everything that was written to the filesystem of *path* before is on disk (syncfs(2)). Raises OSError: also
    where something could not be written since the last call."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), os.fspath(path))
    finally:
        os.close(fd)
