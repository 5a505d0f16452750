"""A shrunk filter answers every call as the one that libseccomp made."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from scow.engine.seccomp_profile import default_profile, host_architecture
from scow.engine.spec_defaults import CAPABILITIES
from scow_runtime_native import seccomp
from scow_runtime_native.seccomp_shrink import shrink

needs_libseccomp = pytest.mark.skipif(not seccomp.library_version(), reason="libseccomp.so.2 is not installed")
X86_64, I386, AARCH64, OTHER = 0xC000003E, 0x40000003, 0xC00000B7, 0x80000016
X32 = 0x40000000
MASK = 0xFFFFFFFF


def answer(program: bytes, number: int, architecture: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """What classic BPF *program* returns for a ``struct seccomp_data``."""
    data = struct.pack("=iIQ6Q", number - (1 << 32) if number >> 31 else number, architecture, 0, *arguments)
    code = list(struct.iter_unpack("=HBBI", program))
    place = accumulator = 0
    while True:
        operation, jt, jf, k = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif operation == 0x06:
            return int(k)
        elif operation == 0x05:
            place += k
        elif operation == 0x54:
            accumulator &= k
        else:
            test = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}
            place += jt if test[operation] else jf


PROFILES: list[dict[str, Any]] = [
    default_profile(frozenset(CAPABILITIES), "amd64"),
    default_profile(frozenset(), "amd64"),
    default_profile(frozenset({*CAPABILITIES, "CAP_SYS_ADMIN", "CAP_BPF"}), "amd64"),
    {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone", "kill"], "action": "SCMP_ACT_KILL_PROCESS"}]},
    {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["read", "write", "exit"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [
                {"index": 1, "op": "SCMP_CMP_GE", "value": 1 << 33}]},
            {"names": ["openat"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 2, "op": "SCMP_CMP_MASKED_EQ", "value": 3, "valueTwo": 1},
                {"index": 0, "op": "SCMP_CMP_NE", "value": 7}]},
        ],
    },
]  # fmt: skip


@needs_libseccomp
@pytest.mark.skipif(host_architecture() != "amd64", reason="the profiles are of amd64")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_call_of_every_architecture_is_answered_as_before(profile: dict[str, Any]) -> None:
    whole = seccomp.compile_profile(profile)
    small = shrink(whole)
    assert len(small) <= len(whole)
    chance = random.Random(1)
    numbers = [*range(700), *range(X32, X32 + 600), X32 - 1, 1 << 31, MASK, MASK - 1]
    for architecture in (X86_64, I386, AARCH64, OTHER, 0):
        for number in numbers:
            for values in ((0,) * 6, tuple(chance.choice((1, 7, 38, 40, 1 << 33, 0x7E020000, MASK)) for _ in range(6))):
                found = answer(small, number, architecture, values)
                assert found == answer(whole, number, architecture, values), (number, hex(architecture), values)


@needs_libseccomp
@pytest.mark.skipif(host_architecture() != "amd64", reason="the profiles are of amd64")
def test_dockers_profile_has_half_the_instructions() -> None:
    whole = seccomp.compile_profile(PROFILES[0])
    assert len(shrink(whole)) < 0.55 * len(whole)


def instructions(*code: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *each) for each in code)


@pytest.mark.parametrize(
    "program",
    [
        instructions((0x06, 0, 0, 5)),
        instructions((0x15, 0, 0, 5), (0x06, 0, 0, 5)),  # compares what it has not loaded
        instructions(
            (0x20, 0, 0, 0), (0x54, 0, 0, 3), (0x15, 0, 1, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)
        ),  # masks numbers
        instructions((0x20, 0, 0, 0), (0x45, 0, 1, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)),  # tests their bits
    ],
)
def test_a_program_that_does_more_than_compare_stays_as_it_is(program: bytes) -> None:
    assert shrink(program) == program
