"""The BPF program of version 2's device controller, run by a small interpreter."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from scow.engine.spec_defaults import DEVICE_RULES
from scow_runtime_native.device_program import Exemption, Rules, assemble, reduce_rules

M, R, W = 1, 2, 4
BLOCK, CHAR = 1, 2


def answer(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    context = {0: access << 16 | kind, 4: major, 8: minor}
    registers = [0] * 11
    counter = 0
    while True:
        code, source_and_target, offset, immediate = struct.unpack_from("<BBhi", program, counter * 8)
        target, source = source_and_target & 15, source_and_target >> 4
        counter += 1
        match code:
            case 0x61:
                registers[target] = context[offset]
            case 0x54:
                registers[target] &= immediate
            case 0x74:
                registers[target] >>= immediate
            case 0xBC:
                registers[target] = registers[source]
            case 0xB4:
                registers[target] = immediate
            case 0x56:
                counter += offset if registers[target] != immediate else 0
            case 0x5E:
                counter += offset if registers[target] != registers[source] else 0
            case 0x16:
                counter += offset if registers[target] == immediate else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown opcode {code:#x}")


def rule(allow: bool, kind: str = "a", major: int | None = None, minor: int | None = None, access: str = "rwm") -> Any:
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


@pytest.mark.parametrize(
    ("kind", "access", "major", "minor", "allowed"),
    [
        (CHAR, R | W, 1, 3, 1),  # null
        (CHAR, R, 136, 77, 1),  # any pts
        (CHAR, M, 42, 0, 1),  # making a node is free
        (CHAR, R, 42, 0, 0),  # using it is not
        (BLOCK, M, 8, 0, 1),
        (BLOCK, R, 8, 0, 0),
        (BLOCK, M | R, 8, 0, 0),
        (CHAR, R, 1, 1, 0),  # mem
    ],
)
def test_dockers_default_rules(kind: int, access: int, major: int, minor: int, allowed: int) -> None:
    program = assemble(reduce_rules([dict(item) for item in DEVICE_RULES]))
    assert answer(program, kind, access, major, minor) == allowed


def test_a_default_permission_with_an_exception() -> None:
    program = assemble(reduce_rules([rule(True), rule(False, "b", 8, 0, "w")]))
    assert answer(program, BLOCK, R, 8, 0) == 1
    assert answer(program, BLOCK, W | R, 8, 0) == 0
    assert answer(program, BLOCK, W, 8, 1) == 1


def test_later_rules_win() -> None:
    rules = [rule(False), rule(True, "c", 1, 3), rule(False, "c", 1, 3, "w")]
    assert reduce_rules(rules) == Rules(False, (Exemption("c", 1, 3, frozenset("rm")),))
    assert reduce_rules([*rules, rule(True)]) == Rules(True, ())


def test_an_exception_that_is_taken_back_is_gone() -> None:
    assert reduce_rules([rule(False), rule(True, "c", 1, 3), rule(False, "c", 1, 3)]) == Rules(False, ())
