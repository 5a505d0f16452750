"""System calls that are newer than a profile answer ENOSYS, as runc has it: what a filter goes before.

A profile with a list of what is allowed would answer EPERM to a call that it was written before, and the C library,
which takes only ENOSYS for "this kernel does not have it", would not fall back. So whatever has a higher number than
every call that the profile names, on the architecture in question, is ENOSYS.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64: of x32 too, whose numbers have a bit of their own
_X32_BIT = 0x40000000
_NONE_IS_HIGHER = 0xFFFFFFFF
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE = 0, 4  # of struct seccomp_data
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06  # linux/filter.h
_ENOSYS = 0x00050000 | errno.ENOSYS  # SECCOMP_RET_ERRNO


def prologue(library: Any, profile: Mapping[str, Any]) -> bytes:
    """What is to run before the filter of *profile*: instructions that fall through to it, or none. *library* is
    ``pyseccomp``."""
    if profile.get("defaultAction") in _PERMISSIVE or profile.get("defaultErrnoRet") == errno.ENOSYS:
        return b""
    named = (getattr(library.Arch, str(n).removeprefix("SCMP_ARCH_"), 0) for n in profile.get("architectures") or ())
    names = {str(name) for rule in profile.get("syscalls") or () for name in rule.get("names") or ()}
    highest = {arch: _highest(library, arch, names) for arch in {library.system_arch(), *named} if arch}
    x32 = highest.pop(library.Arch.X32, 0) or _NONE_IS_HIGHER
    return b"".join(_section(arch, number, x32) for arch, number in sorted(highest.items()) if number)


def _highest(library: Any, architecture: int, names: Iterable[str]) -> int:
    return max((library.resolve_syscall(architecture, name) for name in names), default=0)


def _section(architecture: int, number: int, x32: int) -> bytes:
    """For calls of *architecture*: those above *number* are ENOSYS; for x32, those above *x32*."""
    if architecture == _X86_64:
        tests = [
            (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
            (_JUMP_GREATER, 1, 2, x32),
            (_JUMP_GREATER, 0, 1, number),
        ]
    else:
        tests = [(_JUMP_GREATER, 0, 1, number)]
    body = [(_LOAD, 0, 0, _OFFSET_NUMBER), *tests, (_RETURN, 0, 0, _ENOSYS)]
    head = [(_LOAD, 0, 0, _OFFSET_ARCHITECTURE), (_JUMP_EQUAL, 0, len(body), architecture)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in (*head, *body))
