"""Who collects and who pulls at the same time, and what a crash leaves of a removal."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from scow.oci import chain_ids
from tests.unit.image_kit import BASE, Kit, image, run


def test_a_pull_that_begins_while_its_base_is_removed_brings_it_again(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/old", "latest", image(BASE, {"old": "1"}))
        new = image(BASE, {"new": "1"})
        kit.registry.add("library/new", "latest", new)
        await kit.pull("old")
        removing, go_on = threading.Event(), threading.Event()
        remove = kit.storage.remove

        def slow(key: str) -> None:
            removing.set()
            go_on.wait(10)
            remove(key)

        kit.storage.remove = slow  # type: ignore[method-assign]
        removal = asyncio.create_task(kit.images.remove("old"))
        await asyncio.to_thread(removing.wait, 10)
        pull = asyncio.create_task(kit.pull("new"))
        await asyncio.sleep(0.1)
        go_on.set()
        await removal
        pulled = await pull
        assert {snapshot.key for snapshot in kit.storage.list()} == set(chain_ids(list(new.diff_ids)))
        assert kit.storage.files(pulled.chain_id or "")["etc/passwd"] == b"root:x:0:0"
        assert all(kit.content.exists(layer.digest) for layer in new.layers)

    run(tmp_path, test)


def test_what_is_being_pulled_is_not_collected(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BASE, {"large": os.urandom(1 << 20)}, compression="none")
        kit.registry.add("library/x", "latest", small)
        begun, go_on = threading.Event(), threading.Event()

        def slow(digest: str, offset: int) -> None:
            if digest == small.layers[1].digest and offset > 500_000:
                begun.set()
                go_on.wait(10)

        kit.registry.before_read = slow
        pull = asyncio.create_task(kit.pull("x"))
        await asyncio.to_thread(begun.wait, 10)
        await kit.images.sweep(age_s=-1.0)
        go_on.set()
        await pull
        assert kit.registry.fetched[small.layers[1].digest] == small.layers[1].size_bytes
        assert len(kit.storage.list()) == 2

    run(tmp_path, test)


def test_a_removal_that_a_crash_cut_short_is_ended_by_the_next_start(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kept, gone = image(BASE, {"kept": "1"}), image(BASE, {"gone": "1"}, {"top": "2"})
        kit.registry.add("library/kept", "latest", kept)
        kit.registry.add("library/gone", "latest", gone)
        await kit.pull("kept")
        victim = await kit.pull("gone")
        await kit.images._store.delete(victim)  # the first step of a removal; then the power went
        for path in (kit.content.root / "blobs" / "sha256").iterdir():
            os.utime(path, (1, 1))
        await kit.again().sweep()
        assert {snapshot.key for snapshot in kit.storage.list()} == set(chain_ids(list(kept.diff_ids)))
        assert set(kit.content.list()) == {*kept.blobs, kept.manifest.descriptor.digest}

    run(tmp_path, test)


def test_nothing_is_collected_on_a_guess(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        pulled = await kit.pull("x")
        kit.content.path(pulled.manifest_digest).write_bytes(b"damaged")
        await kit.again().sweep(age_s=-1.0)
        assert all(kit.content.exists(layer.digest) for layer in small.layers)
        assert len(kit.storage.list()) == 2

    run(tmp_path, test)


def test_an_image_is_on_disk_before_there_is_a_record_of_it(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        seen: list[tuple[int, bool]] = []
        sync = kit.content.sync

        def watched() -> None:
            seen.append((len(kit.images.list()), all(map(kit.content.exists, small.blobs))))
            sync()

        kit.content.sync = watched  # type: ignore[method-assign]
        await kit.pull("x")
        await kit.pull("x")
        assert seen == [(0, True)]

    run(tmp_path, test)


def test_left_overs_are_looked_for_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.engine.images.SWEEP_S", 0.01)

    async def test(kit: Kit) -> None:
        sweeping = asyncio.create_task(kit.images.keep_swept())
        await asyncio.sleep(0.05)
        orphan = kit.content.put(b"nobody's")
        os.utime(kit.content.path(orphan), (1, 1))
        deadline = asyncio.get_running_loop().time() + 10
        while kit.content.exists(orphan):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)

    run(tmp_path, test)
