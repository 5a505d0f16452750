"""One scowd per data root: an advisory lock on a file in it, held as long as the daemon lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from scow.errors import Conflict, Unavailable


class DataRootLock:
    """Held while the object is not closed; the kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, root: Path, program: str = "scowd") -> DataRootLock:
        """*root* exists and belongs to this process, whose pid is in ``scow.lock`` there.

        Raises `Conflict` with the pid of the process that has it, `Unavailable` where the folder cannot be made.
        """
        path = root / "scow.lock"
        try:
            root.mkdir(mode=0o711, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise Unavailable(f"{path} cannot be made: {exc.strerror}", hint="choose another data_root") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise Conflict(
                f"{root} is in use by {program} with pid {holder}", hint="stop it, or choose another data_root"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, fd)

    def close(self) -> None:
        """Another process can have it; idempotent. The file stays: removing it would let two processes lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
