"""The zygote's heap laid out for forks: what monitors write to shares few pages.

A fork copies every page that it, or the zygote after it, writes to. New objects go to the free slots of pools that are
in use (pymalloc: pools of 16 KiB, blocks of one size up to 512 bytes), which imports and rehearsals leave scattered
over the whole heap. With the slots filled, they go to fresh pools and lie side by side (measured: 240 kB less a
monitor).
"""

from __future__ import annotations

import itertools

_POOL_BYTES = 16 << 10  # CPython 3.10 and newer, Objects/obmalloc.c
_POOL_HEADER = 48
_BLOCK = 16
_LARGEST = 512
_BYTES_OVERHEAD = 33  # of a bytes object: header, hash and the final zero
_OTHERS = 4  # what this code itself has in a pool meanwhile
_MOST = 20_000  # blocks of one size; a build with other pools ends there


def fill_free_slots() -> list[object]:
    """No pool that is in use has more than a few free slots, as long as the answer is kept."""
    return [_fill(size) for size in range(_BLOCK, _LARGEST + 1, _BLOCK)]


def _fill(size: int) -> dict[int, list[object]]:
    """Blocks of *size*, by their pools, until one pool is full of them: it was not in use, and is given back."""
    wanted = (_POOL_BYTES - _POOL_HEADER) // size - _OTHERS
    pools: dict[int, list[object]] = {}
    for _ in itertools.repeat(None, _MOST):
        block = _block(size)
        ours = pools.setdefault(id(block) // _POOL_BYTES, [])
        ours.append(block)
        if len(ours) >= wanted:
            ours.clear()
            break
    return pools


def _block(size: int) -> object:
    """A new object in a block of *size* bytes, whose type has no free list of its own."""
    if size == _BLOCK:
        return object()
    if size == 2 * _BLOCK:
        return complex(size)
    return bytes(size - _BYTES_OVERHEAD)
