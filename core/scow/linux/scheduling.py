"""System calls on how a process is scheduled, and on its personality. Mechanism only; raises `SyscallError`.

Standard library only, as `scow.linux.syscalls`."""

from __future__ import annotations

import ctypes
import os
import struct

from scow.errors import SyscallError

_libc = ctypes.PyDLL(None, use_errno=True)

_X86 = os.uname().machine == "x86_64"
_SYS_SCHED_SETATTR = 314 if _X86 else 274
_SYS_IOPRIO_SET = 251 if _X86 else 30
_ATTR = struct.Struct("=IIQiIQQQ")  # struct sched_attr, its first version
_WHO_PROCESS = 1


def _check(result: int, syscall: str, target: str) -> None:
    if result < 0:
        raise SyscallError(ctypes.get_errno(), syscall, target)


def set_scheduler(
    policy: int, flags: int, nice: int, priority: int, runtime_ns: int, deadline_ns: int, period_ns: int
) -> None:
    """The thread is scheduled so (sched_setattr(2))."""
    data = _ATTR.pack(_ATTR.size, policy, flags, nice, priority, runtime_ns, deadline_ns, period_ns)
    buffer = ctypes.create_string_buffer(data, len(data))
    result = _libc.syscall(_SYS_SCHED_SETATTR, ctypes.c_int(0), buffer, ctypes.c_uint(0))
    _check(result, "sched_setattr", f"policy {policy}")


def set_io_priority(value: int) -> None:
    """The process has the I/O priority *value*: class << 13 | level (ioprio_set(2))."""
    result = _libc.syscall(_SYS_IOPRIO_SET, ctypes.c_int(_WHO_PROCESS), ctypes.c_int(0), ctypes.c_int(value))
    _check(result, "ioprio_set", hex(value))


def set_personality(persona: int) -> None:
    """The process's execution domain is *persona* (personality(2))."""
    _check(_libc.personality(ctypes.c_ulong(persona)), "personality", hex(persona))
