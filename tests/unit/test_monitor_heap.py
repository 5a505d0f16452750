"""The heap that monitors are forked from (`scow.monitor.heap`)."""

from __future__ import annotations

import pytest

from scow.monitor import heap

PAGE_BYTES = 4096


@pytest.mark.parametrize("size", [48, 96, 160, 512])
def test_objects_made_after_the_free_slots_are_filled_share_the_fewest_pages(size: int) -> None:
    scattered = [bytes(size - 33) for _ in range(4000)][::7]  # what was between them is free again
    kept = heap.fill_free_slots()
    made = [bytes(size - 33) for _ in range(30)]
    fewest = 30 * size // PAGE_BYTES + 2
    assert len({id(one) // PAGE_BYTES for one in made}) <= fewest + 1  # one may be what this test freed itself
    assert len(scattered) < len(kept)
