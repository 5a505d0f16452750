"""What a compiled profile answers: every action, every comparison of arguments, several rules, architectures, flags.

The program is interpreted here (classic BPF as seccomp(2) has it), so that no process need be killed for it."""

from __future__ import annotations

import errno
import platform
import struct
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow_runtime_native import seccomp

pytestmark = pytest.mark.skipif(not seccomp.library_version(), reason="libseccomp.so.2 is not installed")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers here are those of x86_64")

NATIVE = 0xC000003E if platform.machine() == "x86_64" else 0xC00000B7  # AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
I386 = 0x40000003
READ, WRITE, PERSONALITY = (0, 1, 135) if platform.machine() == "x86_64" else (63, 64, 92)
KILL_THREAD, KILL_PROCESS, TRAP, ERRNO = 0x00000000, 0x80000000, 0x00030000, 0x00050000
NOTIFY, TRACE, LOG, ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000


def answer(program: bytes, number: int, *args: int, arch: int = NATIVE) -> int:
    """What *program* answers to the system call."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *args, *([0] * (6 - len(args))))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= k
        elif code == 0x05:  # BPF_JMP | BPF_JA
            at += k
        elif code == 0x06:  # BPF_RET | BPF_K
            return int(k)
        else:
            test = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}
            at += yes if test[code] else no


def compiled(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> bytes:
    return seccomp.compile_profile({"defaultAction": default, "syscalls": list(rules), **more})


def rule(action: str, *args: dict[str, Any], names: tuple[str, ...] = ("personality",), **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, "args": list(args), **more}


def arg(index: int, op: str, value: int, two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": two}


@pytest.mark.parametrize(
    ("action", "more", "wanted"),
    [
        ("SCMP_ACT_KILL", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", {}, KILL_PROCESS),
        ("SCMP_ACT_TRAP", {}, TRAP),
        ("SCMP_ACT_ERRNO", {}, ERRNO | errno.EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": errno.ENOSYS}, ERRNO | errno.ENOSYS),
        ("SCMP_ACT_ERRNO", {"errnoRet": 0}, ERRNO),
        ("SCMP_ACT_TRACE", {}, TRACE | errno.EPERM),
        ("SCMP_ACT_TRACE", {"errnoRet": 42}, TRACE | 42),
        ("SCMP_ACT_LOG", {}, LOG),
        ("SCMP_ACT_NOTIFY", {}, NOTIFY),
    ],
)
def test_every_action_of_a_rule(action: str, more: dict[str, Any], wanted: int) -> None:
    program = compiled(rule(action, **more))
    assert answer(program, PERSONALITY) == wanted and answer(program, READ) == ALLOW


@pytest.mark.parametrize(
    ("action", "more", "wanted"),
    [
        ("SCMP_ACT_KILL", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", {}, KILL_PROCESS),
        ("SCMP_ACT_TRAP", {}, TRAP),
        ("SCMP_ACT_ERRNO", {}, ERRNO | errno.EPERM),
        ("SCMP_ACT_ERRNO", {"defaultErrnoRet": errno.ENOSYS}, ERRNO | errno.ENOSYS),
        ("SCMP_ACT_TRACE", {"defaultErrnoRet": 7}, TRACE | 7),
        ("SCMP_ACT_LOG", {}, LOG),
    ],
)
def test_every_default_action(action: str, more: dict[str, Any], wanted: int) -> None:
    program = compiled(rule("SCMP_ACT_ALLOW"), default=action, **more)
    assert answer(program, PERSONALITY) == ALLOW and answer(program, READ) == wanted


_LARGE = 0x1_0000_0005  # both halves of the argument count


@pytest.mark.parametrize(
    ("op", "value", "two", "matches", "others"),
    [
        ("EQ", _LARGE, 0, [_LARGE], [5, _LARGE + 1, _LARGE - 1]),
        ("NE", _LARGE, 0, [5, _LARGE + 1], [_LARGE]),
        ("LT", _LARGE, 0, [0, 6, _LARGE - 1], [_LARGE, _LARGE + 1, 1 << 63]),
        ("LE", _LARGE, 0, [0, _LARGE], [_LARGE + 1]),
        ("GT", _LARGE, 0, [_LARGE + 1, 1 << 63], [0, _LARGE]),
        ("GE", _LARGE, 0, [_LARGE, 1 << 63], [0, _LARGE - 1]),
        ("MASKED_EQ", 0xF0, 0x30, [0x30, 0xF3F], [0x20, 0x70]),
        ("MASKED_EQ", 0xF_0000_0000, 0x3_0000_0000, [0x3_0000_0000, 0xF3_0000_0001], [0x1_0000_0000, 0]),
    ],
)
def test_every_comparison_of_an_argument(op: str, value: int, two: int, matches: list[int], others: list[int]) -> None:
    program = compiled(rule("SCMP_ACT_TRAP", arg(1, op, value, two)))
    assert {answer(program, PERSONALITY, 99, given) for given in matches} == {TRAP}
    assert {answer(program, PERSONALITY, 99, given) for given in others} == {ALLOW}


def test_arguments_of_one_rule_must_all_match() -> None:
    program = compiled(rule("SCMP_ACT_TRAP", arg(0, "EQ", 1), arg(2, "GT", 5)))
    assert answer(program, PERSONALITY, 1, 0, 6) == TRAP
    assert answer(program, PERSONALITY, 1, 0, 5) == ALLOW == answer(program, PERSONALITY, 2, 0, 6)


def test_one_argument_named_twice_is_two_rules_as_with_runc() -> None:
    program = compiled(rule("SCMP_ACT_TRAP", arg(0, "EQ", 1), arg(0, "EQ", 2)))
    assert [answer(program, PERSONALITY, given) for given in (1, 2, 3)] == [TRAP, TRAP, ALLOW]


def test_several_rules_on_one_system_call() -> None:
    program = compiled(
        rule("SCMP_ACT_ALLOW", arg(0, "EQ", 0)),
        rule("SCMP_ACT_ALLOW", arg(0, "EQ", 8)),
        rule("SCMP_ACT_ALLOW", names=("read", "write")),
        default="SCMP_ACT_ERRNO",
    )
    assert [answer(program, PERSONALITY, given) for given in (0, 8, 1)] == [ALLOW, ALLOW, ERRNO | errno.EPERM]
    assert answer(program, READ) == ALLOW == answer(program, WRITE)


def test_a_system_call_that_nobody_knows_is_left_out_as_with_runc() -> None:
    program = compiled(rule("SCMP_ACT_TRAP", names=("no_such_call", "personality")))
    assert answer(program, PERSONALITY) == TRAP


@x86_64
def test_a_foreign_architecture_is_killed_unless_it_is_named() -> None:
    only = compiled(rule("SCMP_ACT_TRAP"))
    both = compiled(rule("SCMP_ACT_TRAP"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    assert answer(only, 136, arch=I386) == KILL_THREAD
    assert answer(both, 136, arch=I386) == TRAP and answer(both, 3, arch=I386) == ALLOW


_LITTLE = "X86 X86_64 X32 ARM AARCH64 MIPSEL MIPSEL64 MIPSEL64N32 PPC64LE RISCV64"
_BIG = "MIPS MIPS64 MIPS64N32 PPC PPC64 S390 S390X PARISC PARISC64"


@pytest.mark.parametrize(
    ("names", "refusal"),
    [(_LITTLE, ""), (_BIG, "architecture SCMP_ARCH_"), ("LOONGARCH64 M68K SH SHEB", "unknown architecture")],
)
def test_every_architecture_is_added_or_refused_by_name(names: str, refusal: str) -> None:
    for name in names.split():
        if refusal:
            with pytest.raises(InvalidArgument, match=refusal):
                compiled(rule("SCMP_ACT_TRAP"), architectures=[f"SCMP_ARCH_{name}"])
        else:
            assert compiled(rule("SCMP_ACT_TRAP"), architectures=[f"SCMP_ARCH_{name}"])


@pytest.mark.parametrize("default", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_a_call_newer_than_all_that_the_profile_names_is_not_there_as_with_runc(default: str) -> None:
    program = compiled(rule("SCMP_ACT_ALLOW", names=("read", "openat2")), default=default)
    assert answer(program, 437) == ALLOW and answer(program, 438) == ERRNO | errno.ENOSYS
    assert answer(program, PERSONALITY) != ERRNO | errno.ENOSYS


@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_a_permissive_profile_says_nothing_of_newer_calls(default: str) -> None:
    assert answer(compiled(rule("SCMP_ACT_TRAP"), default=default), 4000) in (ALLOW, LOG, TRACE | errno.EPERM)


@x86_64
def test_newer_calls_of_each_architecture_are_not_there() -> None:
    everything = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    program = compiled(rule("SCMP_ACT_ALLOW", names=("openat2",)), default="SCMP_ACT_ERRNO", architectures=everything)
    x32 = 1 << 30
    for arch, number in ((NATIVE, 437), (NATIVE, x32 | 437), (I386, 437)):
        assert answer(program, number, arch=arch) == ALLOW
        assert answer(program, number + 1, arch=arch) == ERRNO | errno.ENOSYS
        assert answer(program, number - 1, arch=arch) == ERRNO | errno.EPERM
    without = compiled(rule("SCMP_ACT_ALLOW", names=("openat2",)), default="SCMP_ACT_ERRNO")
    assert answer(without, x32 | 438) != ERRNO | errno.ENOSYS


def test_flags_are_those_of_the_spec() -> None:
    def flags(*words: str, **more: Any) -> int:
        return seccomp.flags({"flags": [f"SECCOMP_FILTER_FLAG_{word}" for word in words], **more})

    asks = {"syscalls": [rule("SCMP_ACT_NOTIFY")]}
    assert flags() == 0 and flags("LOG", "SPEC_ALLOW") == 6 and flags("TSYNC") == 0
    assert seccomp.flags({"defaultAction": "SCMP_ACT_ALLOW"}) == 4 and seccomp.flags(None) == 0
    assert flags("WAIT_KILLABLE_RECV") == 0 and flags("WAIT_KILLABLE_RECV", **asks) == 32 | 8
    with pytest.raises(InvalidArgument, match="unknown seccomp flag 'SECCOMP_FILTER_FLAG_X'"):
        flags("X")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be the default action"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "SCMP_ACT_ALLOW has no errno"),
        ({"syscalls": [rule("SCMP_ACT_KILL", errnoRet=1)]}, "SCMP_ACT_KILL has no errno"),
        ({"syscalls": [rule("SCMP_ACT_NOTIFY", names=("sendmsg",))]}, "by which the agent gets its descriptor"),
    ],
)
def test_what_cannot_be_is_refused(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", **profile})


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"syscalls": [rule("SCMP_ACT_NOTIFY")]}, "needs the absolute path of an agent's socket, not ''"),
        ({"syscalls": [rule("SCMP_ACT_NOTIFY")], "listenerPath": "rel"}, "not 'rel'"),
        ({"listenerMetadata": "x"}, "listenerMetadata without listenerPath"),
    ],
)
def test_an_agent_must_be_named(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        seccomp.listener(profile, {})


def test_an_agent_that_no_rule_asks_is_ignored() -> None:
    assert seccomp.listener({"listenerPath": "/run/agent", "syscalls": [rule("SCMP_ACT_LOG")]}, {}) == {}
