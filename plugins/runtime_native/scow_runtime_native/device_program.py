"""The devices controller of cgroup version 2: a BPF program that answers each open and mknod (kernel 4.15).

The rule list is first reduced as version 1 does it (a default and its exceptions), then compiled: one block of
comparisons an exception, the default at the end. See Documentation/admin-guide/cgroup-v2.rst, "Device controller",
and ``struct bpf_cgroup_dev_ctx`` in linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SYS_BPF = 321 if os.uname().machine == "x86_64" else 280
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_ATTR_BYTES = 128
_MAX_PROGRAMS = 64
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPE = {"b": 1, "c": 2}
_ANY = -1

# opcodes of linux/bpf.h, for 32-bit comparisons (BPF_JMP32, kernel 5.1)
_LOAD_W, _AND_K, _SHIFT_RIGHT_K, _MOVE, _MOVE_K, _EXIT = 0x61, 0x54, 0x74, 0xBC, 0xB4, 0x95
_JUMP_NE_K, _JUMP_NE, _JUMP_EQ_K = 0x56, 0x5E, 0x16
_R0, _R1, _TYPE_R, _ACCESS_R, _MAJOR_R, _MINOR_R = range(6)


class Exemption(NamedTuple):
    """What the default does not hold for. *major* and *minor* may be -1 for any."""

    type: str
    major: int
    minor: int
    access: frozenset[str]


class Rules(NamedTuple):
    """A reduced rule list: *allow* is the default."""

    allow: bool
    exemptions: tuple[Exemption, ...]


def reduce_rules(rules: Sequence[Mapping[str, Any]]) -> Rules:
    """OCI device rules, in order, as a default and its exceptions; a new group may do everything."""
    default = True
    exceptions: dict[tuple[str, int, int], frozenset[str]] = {}
    for rule in rules:
        allow, kind = bool(rule.get("allow")), rule.get("type") or "a"
        access = frozenset(rule.get("access") or "rwm")
        if kind == "a":
            default, exceptions = allow, {}
            continue
        key = (kind, _number(rule.get("major")), _number(rule.get("minor")))
        had = exceptions.get(key, frozenset())
        exceptions[key] = had | access if allow != default else had - access
    return Rules(default, tuple(Exemption(*key, access) for key, access in exceptions.items() if access))


def _number(value: Any) -> int:
    return _ANY if value is None or value < 0 else int(value)


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, immediate)


def assemble(rules: Rules) -> bytes:
    """The program: 1 in r0 lets the access happen, 0 refuses it."""
    program = [
        _instruction(_LOAD_W, _TYPE_R, _R1, 0),
        _instruction(_AND_K, _TYPE_R, immediate=0xFFFF),
        _instruction(_LOAD_W, _ACCESS_R, _R1, 0),
        _instruction(_SHIFT_RIGHT_K, _ACCESS_R, immediate=16),
        _instruction(_LOAD_W, _MAJOR_R, _R1, 4),
        _instruction(_LOAD_W, _MINOR_R, _R1, 8),
    ]
    for exception in rules.exemptions:
        program += _block(exception, rules.allow)
    program += [_instruction(_MOVE_K, _R0, immediate=int(rules.allow)), _instruction(_EXIT)]
    return b"".join(program)


def _block(exception: Exemption, default: bool) -> list[bytes]:
    """Answers the contrary of *default* where the exception fits, else falls through to what follows.

    An exception of a default refusal must cover all of the access; one of a default permission needs to touch it.
    """
    tests: list[tuple[int, int, int, int]] = [(_JUMP_NE_K, _TYPE_R, 0, _TYPE[exception.type])]
    bits = sum(_ACCESS[letter] for letter in exception.access)
    before: list[bytes] = []
    if bits != 7:
        before = [_instruction(_MOVE, _R1, _ACCESS_R), _instruction(_AND_K, _R1, immediate=bits)]
        if default:
            tests.append((_JUMP_EQ_K, _R1, 0, 0))
        else:
            tests.append((_JUMP_NE, _R1, _ACCESS_R, 0))
    if exception.major != _ANY:
        tests.append((_JUMP_NE_K, _MAJOR_R, 0, exception.major))
    if exception.minor != _ANY:
        tests.append((_JUMP_NE_K, _MINOR_R, 0, exception.minor))
    block = list(before)
    for index, (code, dst, src, immediate) in enumerate(tests):
        left = len(tests) - index - 1 + 2  # the tests still to come, then the two instructions of the answer
        block.append(_instruction(code, dst, src, left, immediate))
    return [*block, _instruction(_MOVE_K, _R0, immediate=int(not default)), _instruction(_EXIT)]


def attach(directory: str, rules: Sequence[Mapping[str, Any]]) -> None:
    """*rules* hold for the processes of the cgroup *directory* and below, in place of earlier ones."""
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        earlier = _attached(group)
        reduced = reduce_rules(rules)
        if reduced != Rules(True, ()):
            program = _load(assemble(reduced))
            try:
                _bpf(_PROG_ATTACH, struct.pack("=4I", group, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
            finally:
                os.close(program)
        for number in earlier:
            program = _bpf(_GET_FD_BY_ID, struct.pack("=I", number))
            try:
                _bpf(_PROG_DETACH, struct.pack("=4I", group, program, _ATTACH_CGROUP_DEVICE, 0))
            finally:
                os.close(program)
    finally:
        os.close(group)


def _attached(group: int) -> list[int]:
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    head = struct.pack("=4IQI", group, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MAX_PROGRAMS)
    buffer = ctypes.create_string_buffer(head, _ATTR_BYTES)
    _call(_PROG_QUERY, buffer)
    (count,) = struct.unpack_from("=I", buffer.raw, 24)
    return list(ids[:count])


def _load(program: bytes) -> int:
    instructions = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    return _bpf(
        _PROG_LOAD,
        struct.pack(
            "=2I2Q",
            _PROG_TYPE_CGROUP_DEVICE,
            len(program) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(license_),
        ),
    )


def _bpf(command: int, attributes: bytes) -> int:
    return _call(command, ctypes.create_string_buffer(attributes, _ATTR_BYTES))


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(_SYS_BPF, ctypes.c_int(command), buffer, ctypes.c_uint(_ATTR_BYTES))
    if result < 0:
        raise SyscallError(ctypes.get_errno(), "bpf", f"command {command}")
    return result
