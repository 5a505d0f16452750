"""The targets of `make fuzz` hold for their seeds, and for seeds that were damaged a little."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_for_damaged_ones(name: str) -> None:
    seed = random.Random(7)
    for good in SEEDS[name]:
        TARGETS[name](good)
        for _ in range(100):
            bad = bytearray(good)
            for _ in range(seed.randrange(1, 5)):
                bad[seed.randrange(len(bad))] = seed.randrange(256)
            TARGETS[name](bytes(bad))
