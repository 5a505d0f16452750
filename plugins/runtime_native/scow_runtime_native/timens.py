"""A time namespace of the container's own (time_namespaces(7)): clone(2) has no flag for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scow.errors import SyscallError
from scow.linux import syscalls as sys
from scow_runtime_native.failure import StageError

if TYPE_CHECKING:
    from collections.abc import Callable

_OFFSETS = "/proc/self/timens_offsets"


def clone(offsets: str, fork: Callable[[], int]) -> int:
    """What *fork* answers; its child is in a new time namespace with *offsets* (lines of ``clock secs nanosecs``). The
    caller is in its own as before: only its next child was to be in the other, whose offsets are fixed by that."""
    own = os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sys.unshare(sys.CLONE_NEWTIME)
        try:
            if offsets:
                _set(offsets)
            pid = fork()
        except BaseException:
            sys.setns(own, sys.CLONE_NEWTIME)
            raise
        if pid:
            sys.setns(own, sys.CLONE_NEWTIME)
        return pid
    finally:
        os.close(own)


def _set(offsets: str) -> None:
    fd = os.open(_OFFSETS, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, offsets.encode())
    except OSError as error:
        shown = offsets.strip().replace("\n", ", ")
        raise StageError(
            f"cannot set the clocks' offsets ({shown}): {SyscallError(error.errno or 0, 'write', _OFFSETS)}",
            stage="time namespace",
            errno=error.errno or 0,
            hint="no clock may be below zero or beyond 146 years",
        ) from error
    finally:
        os.close(fd)
