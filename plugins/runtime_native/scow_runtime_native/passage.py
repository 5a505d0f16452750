"""The few system calls between an exec's last step with the container's rights and its execve.

The container's seccomp filter holds by then, and it may refuse them: a profile without clone, setsid or ioctl is one
that Docker runs. A short program in front of the filter lets these calls through where their fifth argument, which none
of them has, is a random number of this exec. Who learns that number may call setsid, take a terminal, change his
limits as far as his capabilities go, and fork; classic BPF jumps are relative, so the filter behind it stays as it is.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import termios
from typing import TYPE_CHECKING

from scow.errors import SyscallError
from scow.linux.siblings import FLAGS, Birth, clone_sibling

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.PyDLL(None, use_errno=True)
_X86 = os.uname().machine == "x86_64"
_ARCHITECTURE = 0xC000003E if _X86 else 0xC00000B7  # linux/audit.h
_SYS_CLONE = 56 if _X86 else 220
_SYS_SETSID = 112 if _X86 else 157
_SYS_IOCTL = 16 if _X86 else 29
_SYS_PRLIMIT64 = 302 if _X86 else 261

_LOAD, _EQUAL, _JUMP, _RETURN = 0x20, 0x15, 0x05, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JA, BPF_RET|K
_ALLOW = 0x7FFF0000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
_FIFTH_AT = _ARGUMENTS_AT + 4 * 8
_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class Passage:
    """The calls of one exec, which clones with *flags*; `cover` makes its filter let them through."""

    def __init__(self, flags: int = FLAGS) -> None:
        self._flags = flags
        self._cookie = int.from_bytes(os.urandom(8), "little") & ~(1 << 63) | 1

    def cover(self, program: bytes) -> bytes:
        """*program*, a seccomp filter, with the exceptions in front. As it is where there is no room for them.

        The number of the call is looked at first and alone: so the kernel goes on answering for all other calls without
        running the filter (its cache of constant answers, Linux 5.11)."""
        low, high = self._cookie & 0xFFFFFFFF, self._cookie >> 32
        code = [
            (_LOAD, 0, 0, _NUMBER_AT),
            (_EQUAL, 4, 0, _SYS_SETSID),
            (_EQUAL, 3, 0, _SYS_PRLIMIT64),
            (_EQUAL, 2, 0, _SYS_CLONE),
            (_EQUAL, 1, 0, _SYS_IOCTL),
            (_JUMP, 0, 0, 15),
            (_LOAD, 0, 0, _ARCHITECTURE_AT),
            (_EQUAL, 0, 13, _ARCHITECTURE),
            (_LOAD, 0, 0, _FIFTH_AT),
            (_EQUAL, 0, 11, low),
            (_LOAD, 0, 0, _FIFTH_AT + 4),
            (_EQUAL, 0, 9, high),
            (_LOAD, 0, 0, _NUMBER_AT),
            (_EQUAL, 2, 0, _SYS_CLONE),
            (_EQUAL, 3, 0, _SYS_IOCTL),
            (_RETURN, 0, 0, _ALLOW),
            (_LOAD, 0, 0, _ARGUMENTS_AT),
            (_EQUAL, 2, 3, self._flags),
            (_LOAD, 0, 0, _ARGUMENTS_AT + 8),
            (_EQUAL, 0, 1, termios.TIOCSCTTY),
            (_RETURN, 0, 0, _ALLOW),
        ]
        covered = b"".join(struct.pack("=HBBI", *instruction) for instruction in code) + program
        return covered if len(covered) <= 8 * _MOST_INSTRUCTIONS else program

    def clone(self, birth: Birth) -> int:
        """See `scow.linux.siblings.clone_sibling`."""
        return clone_sibling(birth, self._cookie, self._flags)

    def new_session(self) -> Callable[[], object]:
        """What makes its caller lead a session of its own (setsid(2))."""
        return self._call("setsid", _SYS_SETSID, 0, 0, 0)

    def take_terminal(self) -> None:
        """The caller's standard input is its controlling terminal (ioctl_tty(2), ``TIOCSCTTY``)."""
        self._call("ioctl", _SYS_IOCTL, 0, termios.TIOCSCTTY, 0)()

    def limit(self, number: int, soft: int, hard: int) -> None:
        """The caller's limit *number* is lowered to *soft* and *hard* (prlimit(2); -1 is no limit)."""
        limits = ctypes.create_string_buffer(struct.pack("=qq", soft, hard), 16)
        self._call("prlimit", _SYS_PRLIMIT64, 0, number, ctypes.addressof(limits))()

    def _call(self, name: str, number: int, first: int, second: int, third: int) -> Callable[[], object]:
        """A call that is ready to be made: what a new process touches first it copies."""
        arguments = [ctypes.c_long(value) for value in (number, first, second, third, 0, self._cookie)]

        def make() -> None:
            if _libc.syscall(*arguments) < 0:
                raise SyscallError(ctypes.get_errno() or errno.EIO, name)

        return make
