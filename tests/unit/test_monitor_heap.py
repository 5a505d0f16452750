"""The heap that monitors are forked from (`scow.monitor.heap`)."""

from __future__ import annotations

import json
import subprocess
import sys

PAGE_BYTES = 4096
PROGRAM = """
import json
from scow.monitor import heap
scattered = {size: [bytes(size - 33) for _ in range(4000)] for size in (48, 96, 160, 512)}
for ones in scattered.values():
    del ones[::100]
kept = heap.fill_free_slots() if FILL else []
made = {size: [bytes(size - 33) for _ in range(30)] for size in scattered}
print(json.dumps({size: len({id(one) // 4096 for one in ones}) for size, ones in made.items()}))
"""


def pages_of_new_objects(*, fill: bool) -> dict[str, int]:
    """Over how many pages 30 new objects are scattered, by their size, in a process with many free slots."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("FILL", str(fill))], capture_output=True, text=True, check=True
    )
    pages: dict[str, int] = json.loads(run.stdout)
    return pages


def test_objects_made_after_the_free_slots_are_filled_share_the_fewest_pages() -> None:
    for size, pages in pages_of_new_objects(fill=True).items():
        assert pages <= 30 * int(size) // PAGE_BYTES + 2, size


def test_without_that_they_are_scattered() -> None:
    assert pages_of_new_objects(fill=False)["160"] > 4
