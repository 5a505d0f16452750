"""Make files as another user, with all one's rights (setfsuid(2)). Standard library and `scow.linux` only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import TYPE_CHECKING

from scow.errors import SyscallError
from scow.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Iterator

_libc = ctypes.PyDLL(None, use_errno=True)
_SYS_CAPGET = 125 if os.uname().machine == "x86_64" else 90
_VERSION_3 = 0x20080522  # linux/capability.h


def capget() -> tuple[int, int, int]:
    """The thread's effective, permitted and inheritable capabilities as bit masks (capget(2), version 3)."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    if _libc.syscall(_SYS_CAPGET, header, data) < 0:
        raise SyscallError(ctypes.get_errno(), "capget")
    words = struct.unpack("=6I", data.raw)
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


@contextlib.contextmanager
def files_as(uid: int, gid: int) -> Iterator[None]:
    """What the block makes belongs to *uid* and *gid*; the caller, root, keeps its capabilities.

    An idmapped mount takes no ids but those that it maps (EOVERFLOW), and overlayfs goes on with those of its mounter.
    Not dumpable afterwards: each such change makes a process so where fs.suid_dumpable says it.
    """
    capabilities = capget()
    _set(uid, gid)
    try:
        sys.capset(*capabilities)
        yield
    finally:
        _set(0, 0)  # which gives the capabilities for files back
        sys.prctl(sys.PR_SET_DUMPABLE, 0)


def _set(uid: int, gid: int) -> None:
    _libc.setfsgid(ctypes.c_uint(gid))  # neither tells of errors
    _libc.setfsuid(ctypes.c_uint(uid))
