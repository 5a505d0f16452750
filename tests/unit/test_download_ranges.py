"""Large blobs come in several ranges at once, and go on with what is there."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from scow.errors import Corrupt, Unavailable
from scow.reference import Reference
from scow.testing.fakes_registry import SmallImage
from tests.unit.image_kit import Kit, image, run

SIZE = 4 << 20


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.engine.download.LARGE_BYTES", 1 << 20)
    monkeypatch.setattr("scow.engine.download.RANGE_BYTES", 1 << 19)
    monkeypatch.setattr("scow.engine.download.FIRST_PAUSE_S", 0.0)


def large(kit: Kit) -> SmallImage:
    made = image({"large": os.urandom(SIZE)}, compression="none")
    kit.registry.add("library/x", "latest", made)
    return made


def fetches(kit: Kit, made: SmallImage) -> int:
    return [call[2] for call in kit.registry.calls if call[0] == "fetch"].count(made.layers[0].digest)


def test_a_large_blob_comes_over_several_connections(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = large(kit)

        def wait_for_the_others(digest: str, offset: int) -> None:
            deadline = time.monotonic() + 10
            while digest == made.layers[0].digest and kit.registry.most_at_once < 3 and time.monotonic() < deadline:
                time.sleep(0.005)

        kit.registry.before_read = wait_for_the_others
        pulled = await kit.pull("x")
        assert kit.registry.most_at_once == 3
        assert len(kit.storage.files(pulled.chain_id or "")["large"]) == SIZE
        assert kit.registry.fetched[made.layers[0].digest] == made.layers[0].size_bytes

    run(tmp_path, test)


def test_a_small_blob_comes_in_one_go(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = image({"small": os.urandom(1 << 19)}, compression="none")
        kit.registry.add("library/x", "latest", made)
        await kit.pull("x")
        assert fetches(kit, made) == 1

    run(tmp_path, test)


def test_a_range_that_breaks_off_costs_only_itself(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = large(kit)
        kit.registry.fail_after(made.layers[0].digest, 300_000, times=2)
        await kit.pull("x")
        assert kit.registry.fetched[made.layers[0].digest] < made.layers[0].size_bytes + 3 * (1 << 19)

    run(tmp_path, test)


def test_ranges_that_came_are_not_asked_for_again_by_the_next_pull(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = large(kit)
        digest = made.layers[0].digest

        def break_off_late(digest_: str, offset: int) -> None:
            if kit.registry.fetched[digest] > 0.9 * SIZE:
                raise Unavailable("the network is down")

        kit.registry.before_read = break_off_late
        with pytest.raises(Unavailable, match="network is down"):
            await kit.pull("x")
        assert kit.storage.list() == []
        kit.registry.before_read = None
        before = kit.registry.fetched[digest]
        await kit.again().pull(Reference.parse("x"), progress=kit.messages.append)
        assert kit.registry.fetched[digest] - before <= 0.15 * made.layers[0].size_bytes

    run(tmp_path, test)


def test_a_registry_without_ranges_sends_it_in_one_go(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        large(kit)
        kit.registry.seekable = False
        pulled = await kit.pull("x")
        assert len(kit.storage.files(pulled.chain_id or "")["large"]) == SIZE

    run(tmp_path, test)


def test_ranges_of_different_blobs_are_noticed_and_it_comes_again_in_one_go(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = large(kit)
        kit.registry.serve_wrong(made.layers[0].digest, times=1)
        pulled = await kit.pull("x")
        assert len(kit.storage.files(pulled.chain_id or "")["large"]) == SIZE
        assert kit.registry.fetched[made.layers[0].digest] == 2 * made.layers[0].size_bytes

    run(tmp_path, test)


def test_a_blob_that_is_wrong_in_one_go_is_not_asked_for_a_third_time(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = large(kit)
        kit.registry.serve_wrong(made.layers[0].digest, times=99)
        with pytest.raises(Corrupt, match="digest mismatch"):
            await kit.pull("x")
        assert kit.registry.fetched[made.layers[0].digest] == 2 * made.layers[0].size_bytes
        assert not kit.content.exists(made.layers[0].digest)
        assert kit.storage.list() == []

    run(tmp_path, test)


def test_a_pull_that_hangs_and_is_cancelled_is_in_nobodys_way(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        made = large(kit)
        digest = made.layers[0].digest
        hanging, let_go = threading.Event(), threading.Event()

        def hang(digest_: str, offset: int) -> None:
            if digest_ == digest and kit.registry.fetched[digest] > SIZE // 2:
                hanging.set()
                let_go.wait(20)

        kit.registry.before_read = hang
        first = asyncio.create_task(kit.pull("x"))
        await asyncio.to_thread(hanging.wait, 10)
        kit.registry.before_read = None
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        before = kit.registry.fetched[digest]
        await asyncio.wait_for(kit.pull("x"), 10)
        assert kit.registry.fetched[digest] - before < SIZE
        let_go.set()

    run(tmp_path, test)
