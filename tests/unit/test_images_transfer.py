"""How blobs come: downloads that break, layers that are unpacked meanwhile, clients that share a transfer."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scow.errors import Corrupt, NotFound, Unavailable
from scow.reference import Reference
from tests.unit.image_kit import BASE, BIG, Kit, image, run


def test_a_lost_connection_is_resumed_where_it_broke(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BIG, compression="none")
        kit.registry.add("library/x", "latest", small)
        kit.registry.fail_after(small.layers[0].digest, 400_000)
        await kit.pull("x")
        assert "Retrying" in kit.statuses()
        assert kit.registry.fetched[small.layers[0].digest] < small.layers[0].size_bytes + 400_000

    run(tmp_path, test)


def test_a_truncated_answer_is_completed(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BIG, compression="none")
        kit.registry.add("library/x", "latest", small)
        kit.registry.truncate_after(small.layers[0].digest, 300_000)
        await kit.pull("x")

    run(tmp_path, test)


def test_a_registry_that_cannot_seek_starts_again(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BIG, compression="none")
        kit.registry.add("library/x", "latest", small)
        kit.registry.seekable = False
        kit.registry.fail_after(small.layers[0].digest, 400_000)
        await kit.pull("x")

    run(tmp_path, test)


def test_a_broken_download_is_kept_for_the_next_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.engine.download.FIRST_PAUSE_S", 0.0)

    async def test(kit: Kit) -> None:
        small = image(BIG, compression="none")
        kit.registry.add("library/x", "latest", small)
        kit.registry.fail_after(small.layers[0].digest, 100_000, times=5)
        with pytest.raises(Unavailable, match="was lost"):
            await kit.pull("x")
        assert kit.storage.list() == []
        before = kit.registry.fetched[small.layers[0].digest]
        await kit.pull("x")
        assert kit.registry.fetched[small.layers[0].digest] - before < small.layers[0].size_bytes - 400_000

    run(tmp_path, test)


def test_a_layer_is_unpacked_while_it_comes(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image({f"f{n}": os.urandom(1 << 20) for n in range(4)}, compression="none")
        kit.registry.add("library/x", "latest", small)
        applying, late = threading.Event(), []
        kit.storage.before_apply = lambda key, diff_id: applying.set()

        def wait_for_the_other(digest: str, offset: int) -> None:
            if digest == small.layers[0].digest and offset > 3_000_000 and not applying.wait(10):
                late.append(offset)

        kit.registry.before_read = wait_for_the_other
        await kit.pull("x")
        assert late == []

    run(tmp_path, test)


def test_layers_are_unpacked_side_by_side(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image({"low": "1"}, {"high": "2"})
        kit.registry.add("library/x", "latest", small)
        both = threading.Barrier(2, timeout=10)

        def meet(key: str, diff_id: str) -> None:
            both.wait()

        kit.storage.before_apply = meet
        pulled = await kit.pull("x")
        assert kit.storage.files(pulled.chain_id or "") == {"low": b"1", "high": b"2"}

    run(tmp_path, test)


def test_a_layer_never_stands_on_one_that_was_wrong(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BIG, {"high": "2"})
        kit.registry.add("library/x", "latest", small)
        kit.registry.serve_wrong(small.layers[0].digest, times=9)
        with pytest.raises(Corrupt, match="digest mismatch"):
            await kit.pull("x")
        assert kit.storage.list() == []

    run(tmp_path, test)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_download_that_starts_over_is_unpacked_from_the_beginning(tmp_path: Path, compression: str) -> None:
    async def test(kit: Kit) -> None:
        data = {f"f{n}": os.urandom(1 << 20) for n in range(4)}
        small = image(data, compression=compression)
        kit.registry.add("library/x", "latest", small)
        kit.registry.seekable = False
        kit.registry.fail_after(small.layers[0].digest, 3_000_000)
        pulled = await kit.pull("x")
        assert kit.storage.files(pulled.chain_id or "") == data

    run(tmp_path, test)


def test_a_failed_layer_ends_the_unpacking_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.engine.download.FIRST_PAUSE_S", 0.0)

    async def test(kit: Kit) -> None:
        slow, broken = {"slow": os.urandom(3 << 20)}, {"broken": os.urandom(1 << 20)}
        small = image(slow, broken, compression="none")
        kit.registry.add("library/x", "latest", small)
        go_on = threading.Event()

        def read(digest: str, offset: int) -> None:
            if digest == small.layers[0].digest and offset > 1 << 20:
                go_on.wait(10)
            elif digest == small.layers[1].digest:
                raise NotFound("blob unknown")

        kit.registry.before_read = read
        with pytest.raises(NotFound, match="blob unknown"):
            await asyncio.wait_for(kit.pull("x"), 5)
        go_on.set()
        assert kit.storage.list() == []

    run(tmp_path, test)


def test_a_full_disk_is_said_and_only_whole_blobs_are_left(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BASE, BIG)
        kit.registry.add("library/x", "latest", small)

        def full(key: str, diff_id: str) -> None:
            if diff_id == small.diff_ids[1]:
                deadline = time.monotonic() + 10
                while not all(kit.content.exists(layer.digest) for layer in small.layers):
                    assert time.monotonic() < deadline
                raise OSError(errno.ENOSPC, "No space left on device")

        kit.storage.before_apply = full
        with pytest.raises(Unavailable, match="no space left on device"):
            await kit.pull("x")
        assert kit.storage.list() == []
        assert all(kit.content.exists(layer.digest) for layer in small.layers)
        kit.storage.before_apply = None
        await kit.pull("x")

    run(tmp_path, test)


def test_pulls_leave_no_file_open(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", image(BASE, BIG))
        await kit.pull("x")
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            made = image(BASE, {"own": str(number)})
            kit.registry.add(f"library/x{number}", "latest", made)
            kit.registry.fail_after(made.layers[1].digest, 50)
            await kit.pull(f"x{number}")
        assert len(os.listdir("/proc/self/fd")) <= before

    run(tmp_path, test)


def test_two_pulls_of_one_reference_share_the_transfer(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BIG)
        kit.registry.add("library/x", "latest", small)
        other: list[dict[str, Any]] = []
        first, second = await asyncio.gather(
            kit.pull("x"), kit.images.pull(Reference.parse("x"), progress=other.append)
        )
        assert first == second
        assert kit.registry.fetched[small.layers[0].digest] == small.layers[0].size_bytes
        assert [call[0] for call in kit.registry.calls].count("resolve") == 1
        assert other[-1]["status"] == "Status: Downloaded newer image for x:latest"

    run(tmp_path, test)


def test_pulls_of_two_images_with_a_common_layer_bring_it_once(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        for name in ("a", "b", "c"):
            kit.registry.add(f"library/{name}", "latest", image(BIG, {name: "1"}))
        await asyncio.gather(*(kit.pull(name) for name in ("a", "b", "c")))
        base = image(BIG, {"a": "1"})
        assert kit.registry.fetched[base.layers[0].digest] == base.layers[0].size_bytes
        assert kit.storage.calls.count(("apply", base.diff_ids[0])) == 1
        assert len(kit.images.list()) == 3

    run(tmp_path, test)


def test_a_layer_that_one_pull_gives_up_is_gone_on_with_by_another(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        first, second = image(BIG, {"a": "1"}, compression="none"), image(BIG, {"b": "1"}, compression="none")
        kit.registry.add("library/a", "latest", first)
        kit.registry.add("library/b", "latest", second)
        common = first.layers[0].digest
        begun, go_on = threading.Event(), threading.Event()

        def slow(digest: str, offset: int) -> None:
            if digest == common and kit.registry.fetched[digest] > 300_000 and not go_on.is_set():
                begun.set()
                go_on.wait(10)

        kit.registry.before_read = slow
        one = asyncio.create_task(kit.pull("a"))
        await asyncio.to_thread(begun.wait, 10)
        two = asyncio.create_task(kit.pull("b"))
        await asyncio.sleep(0.05)
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        go_on.set()
        pulled = await asyncio.wait_for(two, 10)
        assert "b" in kit.storage.files(pulled.chain_id or "")
        assert kit.registry.fetched[common] <= first.layers[0].size_bytes + (1 << 18)  # one read was under way
        assert [found.id for found in kit.images.list()] == [second.id]

    run(tmp_path, test)


def test_the_last_client_that_goes_away_ends_the_pull(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BASE, BIG, compression="none")
        kit.registry.add("library/x", "latest", small)
        begun, go_on = threading.Event(), threading.Event()

        def slow(digest: str, offset: int) -> None:
            if digest == small.layers[1].digest and offset > 300_000:
                begun.set()
                go_on.wait(10)

        kit.registry.before_read = slow
        first = asyncio.create_task(kit.pull("x"))
        second = asyncio.create_task(kit.pull("x"))
        await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        await asyncio.sleep(0.05)
        assert not second.done()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        go_on.set()
        kit.registry.before_read = None
        await kit.pull("x")
        assert len(kit.storage.list()) == 2

    run(tmp_path, test)


def test_no_more_than_three_layers_come_at_once(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", image(*({f"f{n}": bytes([n]) * 50000} for n in range(8))))
        await kit.pull("x")
        assert kit.registry.most_at_once <= 3
        assert "Waiting" in kit.statuses()

    run(tmp_path, test)
