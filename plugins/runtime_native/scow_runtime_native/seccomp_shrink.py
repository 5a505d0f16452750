"""A seccomp program made small: what depends on the number of the call alone is a search over ranges of numbers.

libseccomp compares with each number of a profile. Docker's profile is 1,300 instructions so, which the kernel checks,
translates, compiles, and walks for each call that there is (to know which need no filter), whenever it is loaded: half
a millisecond in each start and exec. Neighbouring numbers mostly share their fate: as ranges the same profile has a
third of the instructions, and none is walked through further than its height.

The answer for any call is that of the program before: it is found by running that for every number at which it can
change. Where the program does more than compare architecture and number before it looks at arguments, it stays.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_LOAD, _ALWAYS, _EQUAL, _GREATER, _GREATER_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_COMPARISONS = (_EQUAL, _GREATER, _GREATER_EQUAL)
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_FARTHEST = 255  # what a conditional jump can skip
_NOWHERE = 0  # no architecture has this number (linux/audit.h)


class _Instruction(NamedTuple):
    code: int
    jt: int
    jf: int
    k: int


class _Answer(NamedTuple):
    """A return of *value*, or, where that is None, what the old program does from *place* on."""

    value: int | None
    place: int


class _TooComplex(Exception):
    pass


def shrink(program: bytes) -> bytes:
    """A program with the same answers as *program*, no longer than it."""
    old = [_Instruction(*fields) for fields in struct.iter_unpack("=HBBI", program)]
    try:
        new = _Shrinker(old).run()
    except _TooComplex:
        return program
    return program if len(new) >= len(old) else b"".join(struct.pack("=HBBI", *instruction) for instruction in new)


class _Shrinker:
    """Makes one program from *old*."""

    def __init__(self, old: list[_Instruction]) -> None:
        self._old = old

    def run(self) -> list[_Instruction]:
        architectures = sorted(self._constants(None))
        search: list[_Instruction | _Answer] = []
        for architecture in architectures:
            tree = self._tree(self._ranges(architecture))
            if len(tree) + 1 > _FARTHEST:
                search += [_Instruction(_EQUAL, 1, 0, architecture), _Instruction(_ALWAYS, 0, 0, len(tree) + 1)]
            else:
                search.append(_Instruction(_EQUAL, 0, len(tree) + 1, architecture))
            search += [_Instruction(_LOAD, 0, 0, _NUMBER), *tree]
        rest = self._ranges(_NOWHERE)
        if len(rest) > 1:
            raise _TooComplex
        return self._link([_Instruction(_LOAD, 0, 0, _ARCHITECTURE), *search, rest[0][1]])

    def _ranges(self, architecture: int) -> list[tuple[int, _Answer]]:
        """Where each answer begins, among the numbers of the calls of *architecture*."""
        starts = {0}
        for constant in self._constants(architecture):
            starts |= {constant, min(constant + 1, 0xFFFFFFFF)}
        found: list[tuple[int, _Answer]] = []
        for start in sorted(starts):
            answer = self._answer(architecture, start)
            if not found or found[-1][1] != answer:
                found.append((start, answer))
        return found

    def _constants(self, architecture: int | None) -> set[int]:
        """What numbers of calls (without an *architecture*: what architectures) are compared with."""
        found: set[int] = set()
        seen: set[tuple[int, int]] = set()
        todo = [(0, -1)]  # place, what the accumulator was loaded from
        while todo:
            place, loaded = todo.pop()
            if (place, loaded) in seen:
                continue
            seen.add((place, loaded))
            code, jt, jf, k = self._old[place]
            if code == _LOAD:
                if k in (_NUMBER, _ARCHITECTURE):
                    todo.append((place + 1, k))
            elif code == _ALWAYS:
                todo.append((place + 1 + k, loaded))
            elif code in _COMPARISONS:
                if loaded == _ARCHITECTURE and architecture is not None:
                    todo.append((place + 1 + (jt if _holds(code, architecture, k) else jf), loaded))
                    continue
                if loaded == (_ARCHITECTURE if architecture is None else _NUMBER):
                    found.add(k)
                todo += [(place + 1 + jt, loaded), (place + 1 + jf, loaded)]
            elif code != _RETURN:
                raise _TooComplex
        return found

    def _answer(self, architecture: int, number: int) -> _Answer:
        place, value = 0, -1
        while True:
            code, jt, jf, k = self._old[place]
            if code == _RETURN:
                return _Answer(k, 0)
            if code == _LOAD:
                if k not in (_NUMBER, _ARCHITECTURE):
                    return _Answer(None, place)
                value = number if k == _NUMBER else architecture
                place += 1
            elif code == _ALWAYS:
                place += 1 + k
            else:
                if value < 0:
                    raise _TooComplex
                place += 1 + (jt if _holds(code, value, k) else jf)

    def _tree(self, ranges: list[tuple[int, _Answer]]) -> list[_Instruction | _Answer]:
        if len(ranges) == 1:
            return [ranges[0][1]]
        middle = len(ranges) // 2
        below, above = self._tree(ranges[:middle]), self._tree(ranges[middle:])
        if len(below) <= _FARTHEST:
            return [_Instruction(_GREATER_EQUAL, len(below), 0, ranges[middle][0]), *below, *above]
        test = _Instruction(_GREATER_EQUAL, 0, 1, ranges[middle][0])
        return [test, _Instruction(_ALWAYS, 0, 0, len(below)), *below, *above]

    def _link(self, new: list[_Instruction | _Answer]) -> list[_Instruction]:
        """*new*, and behind it those parts of the old program that are still needed, in their order."""
        needed = sorted(
            self._reachable({item.place for item in new if isinstance(item, _Answer) and item.value is None})
        )
        places = {place: len(new) + index for index, place in enumerate(needed)}
        linked = []
        for index, item in enumerate(new):
            if isinstance(item, _Instruction):
                linked.append(item)
            elif item.value is not None:
                linked.append(_Instruction(_RETURN, 0, 0, item.value))
            else:
                linked.append(_Instruction(_ALWAYS, 0, 0, places[item.place] - index - 1))
        for place in needed:
            linked.append(self._moved(place, places))
        return linked

    def _moved(self, place: int, places: dict[int, int]) -> _Instruction:
        instruction, here = self._old[place], places[place]
        if instruction.code == _ALWAYS:
            return instruction._replace(k=places[place + 1 + instruction.k] - here - 1)
        if instruction.code & 7 == _ALWAYS:  # BPF_JMP
            jt, jf = (places[place + 1 + skip] - here - 1 for skip in (instruction.jt, instruction.jf))
            return instruction._replace(jt=jt, jf=jf)
        return instruction

    def _reachable(self, places: set[int]) -> set[int]:
        seen: set[int] = set()
        todo = list(places)
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            code, jt, jf, k = self._old[place]
            if code == _ALWAYS:
                todo.append(place + 1 + k)
            elif code & 7 == _ALWAYS:
                todo += [place + 1 + jt, place + 1 + jf]
            elif code & 7 != _RETURN:
                todo.append(place + 1)
        return seen


def _holds(code: int, value: int, k: int) -> bool:
    if code == _EQUAL:
        return value == k
    return value > k if code == _GREATER else value >= k
