"""A zygote through whose forks no container can write to a file of the host (the family of CVE-2019-5736).

A container's init is a fork of the monitor until its execve, and so is what enters beside it. ``/proc/<pid>/exe`` leads
to what it runs: that is a sealed copy of the interpreter in memory (memfd_create(2), fcntl(2) ``F_ADD_SEALS``).
``/proc/<pid>/map_files`` leads to its libraries, and whoever may trace it and has CAP_CHECKPOINT_RESTORE may open them:
they are mapped through mounts of the zygote's own, which are read-only before there is any container.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from typing import TYPE_CHECKING, TypeVar

from scow.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def interpreter_copy() -> int:
    """A descriptor of a copy of the running interpreter that can never be changed. Raises `OSError`."""
    fd = os.memfd_create("scow-python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open("/proc/self/exe", "rb", buffering=0) as source:
            size = os.fstat(source.fileno()).st_size
            done = 0
            while done < size:
                count = os.sendfile(fd, source.fileno(), done, size - done)
                if not count:
                    raise OSError(f"the interpreter shrank to {done} bytes while it was copied")
                done += count
        os.fchmod(fd, 0o555)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


def python_home() -> str:
    """What PYTHONHOME must be for the copy, which cannot find its library by its own path."""
    if sys.base_prefix == sys.base_exec_prefix:
        return sys.base_prefix
    return f"{sys.base_prefix}:{sys.base_exec_prefix}"


def with_own_mounts(start: Callable[[], _T]) -> _T:
    """What *start* answers, called in a thread whose mounts are copies of this process's: a program that it starts has
    them. Raises `OSError` where that is not possible, and what *start* raises."""
    done: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)  # what the host unmounts, goes
            done.append(start())
        except BaseException as error:  # noqa: BLE001  (raised to the caller)
            failed.append(error)

    thread = threading.Thread(target=run, name="scow-own-mounts")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
