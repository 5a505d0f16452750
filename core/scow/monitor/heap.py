"""The zygote's heap laid out for forks: what monitors write to shares few pages.

A fork copies every page that it, or the zygote after it, writes to. New objects go to the free slots of pools that are
in use (pymalloc: pools of 16 KiB, blocks of one size up to 512 bytes), which imports and rehearsals leave scattered
over the whole heap. With the slots filled, they go to fresh pools and lie side by side (measured: 240 kB less a
monitor).
"""

from __future__ import annotations

_POOL_BYTES = 16 << 10  # CPython 3.10 and newer, Objects/obmalloc.c
_POOL_HEADER = 48
_BLOCK = 16
_LARGEST = 512
_BYTES_OVERHEAD = 33  # of a bytes object: header, hash and the final zero
_MOST = 2000  # blocks of one size: more than any pool holds; a build with other pools ends there


def fill_free_slots() -> list[object]:
    """No pool that is in use has a free slot, as long as the answer is kept."""
    kept: list[object] = []
    for size in range(_BLOCK, _LARGEST + 1, _BLOCK):
        for number in range(_MOST):
            block = _block(size, number)
            if id(block) % _POOL_BYTES == _POOL_HEADER:
                break  # the first of a fresh pool, which is given back
            kept.append(block)
    return kept


def _block(size: int, number: int) -> object:
    """A new object in a block of *size* bytes, whose type has no free list of its own."""
    if size == _BLOCK:
        return object()
    if size == 2 * _BLOCK:
        return (1 << 29) + number  # too large to be one of the ints that are there always
    return bytes(size - _BYTES_OVERHEAD)
