"""What ``ps`` shows of a process before execve, and of the built-in init: not the engine's command line.

The addresses are read when the module is imported, in the zygote; they hold in every fork of it. A container that
shares the process's PID namespace can read /proc/<pid>/cmdline, and with CAP_SYS_PTRACE also environ.
"""

from __future__ import annotations

import ctypes
import os

_FIRST_FIELD = 3  # of what follows the command in /proc/<pid>/stat (proc(5))
_ARG_START, _ENV_END = 48, 51


def _addresses() -> tuple[int, int]:
    """Where the arguments begin and the environment, which follows them, ends; zeros where that is not shown."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)
    start, end = int(fields[_ARG_START - _FIRST_FIELD]), int(fields[_ENV_END - _FIRST_FIELD])
    return (start, end) if 0 < start < end else (0, 0)


_start, _end = _addresses()


def replace(title: bytes) -> None:
    """The arguments are *title* (cut to the space there is), the environment is gone from memory."""
    size = _end - _start
    if size > 1:
        ctypes.memset(_start, 0, size)
        ctypes.memmove(_start, title, min(len(title), size - 1))
