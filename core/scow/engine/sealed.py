"""A sealed copy of the interpreter in memory, so that no container can reach the host's through ``/proc/<pid>/exe``.

A container's init is a fork of the monitor until its execve; what it, or anybody who enters beside it, could open
through ``/proc/self/exe`` must not be a file that can be written (the family of CVE-2019-5736). memfd_create(2),
fcntl(2) ``F_ADD_SEALS``.
"""

from __future__ import annotations

import fcntl
import os
import sys


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
