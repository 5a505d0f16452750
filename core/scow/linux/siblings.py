"""A child of the caller's parent, whose pid that parent learns from the kernel alone.

`Birth` is a word of memory that a parent shares with one child and with nobody whom that child forks: clone(2) puts
there what it made (``CLONE_PARENT_SETTID``) before that runs. What the new process writes, or what others make it
write, cannot change it, and it holds even where the one between is killed.
"""

from __future__ import annotations

import ctypes
import errno
import os

from scow.errors import SyscallError
from scow.linux import signals

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_SYS_CLONE = 56 if os.uname().machine == "x86_64" else 220

_PAGE = 4096
_PROT_READ_WRITE = 3
_MAP_SHARED_ANONYMOUS = 0x21
_MADV_DONTFORK = 10
_FAILED = ctypes.c_void_p(-1).value

CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_PARENT_SETTID = 0x00100000
FLAGS = CLONE_PARENT | CLONE_PARENT_SETTID | signals.SIGCHLD
"""What `clone_sibling` gives clone(2) at least; with ``CLONE_VFORK`` the caller waits until the new one has executed
its program or ended, which saves it a fight for the CPU. They never share memory (``CLONE_VM``)."""


class Birth:
    """The pid of a process that a child of this one makes for it; 0 until then."""

    __slots__ = ("address",)

    def __init__(self) -> None:
        address = _libc.mmap(None, _PAGE, _PROT_READ_WRITE, _MAP_SHARED_ANONYMOUS, -1, 0)
        if address == _FAILED:
            raise SyscallError(ctypes.get_errno(), "mmap")
        self.address: int = address

    def pid(self) -> int:
        """What was born, as the maker's PID namespace counts."""
        return ctypes.c_int.from_address(self.address).value

    def keep_from_children(self) -> None:
        """What the caller forks from now on has no such memory (madvise(2), ``MADV_DONTFORK``)."""
        if _libc.madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(_PAGE), _MADV_DONTFORK):
            raise SyscallError(ctypes.get_errno(), "madvise", "MADV_DONTFORK")

    def close(self) -> None:
        """The caller has no such memory any more."""
        _libc.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(_PAGE))


def clone_sibling(birth: Birth, cookie: int, flags: int = FLAGS) -> int:
    """Fork as a child of the caller's parent, in the PID namespace that setns(2) named for children; 0 in the new
    process. *cookie* is the fifth argument of the call, which the kernel does not use with these flags and a seccomp
    filter can tell the call by. Only for single-threaded processes."""
    result: int = _libc.syscall(
        _SYS_CLONE, ctypes.c_ulong(flags), None, ctypes.c_void_p(birth.address), None, ctypes.c_ulong(cookie)
    )
    if result < 0:
        number = ctypes.get_errno()
        raise SyscallError(number, "clone", os.strerror(number) if number == errno.ENOSYS else "")
    return result
