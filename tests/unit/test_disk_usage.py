"""Every byte has an owner, sizes come from the record, and nobody waits for a walk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from scow.engine.measures import Measures, Walk
from scow.errors import ScowError
from scow.state import State
from tests.unit.usage_kit import Engine, run


def test_layers_count_once_and_what_is_shared_is_told(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        one, two = await engine.brought("a"), await engine.brought("b")
        engine.container(one)
        found = await engine.disk_usage.objects()
        spaces = {space.image.id: space for space in found.images}
        base = one.layer_sizes[0]
        assert found.layers_bytes == one.size_bytes + two.size_bytes - base
        assert found.layers_used == one.size_bytes
        assert (spaces[one.id].shared, spaces[two.id].shared) == (base, base)
        assert (spaces[one.id].users, spaces[two.id].users) == (1, 0)
        await engine.images.remove("b")
        (space,) = (await engine.disk_usage.objects()).images
        assert space.shared == 0

    run(tmp_path, test)


def test_every_byte_of_the_content_store_is_a_blob_an_orphan_or_partial(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await engine.brought("a")
        content = engine.kit.content
        orphan, held = content.put(b"nobody's"), content.put(b"on its way")
        (content.root / "ingest" / ("sha256-" + "1" * 64)).write_bytes(b"part")
        (content.root / "ingest" / "new-1-2").write_bytes(b"left")
        with engine.images._parts.leases.hold([held]):
            found = await engine.disk_usage.everything()
        assert [(each.kind, each.id, each.size_bytes) for each in found.orphans] == [("blob", orphan, 8)]
        assert {each.id: each.size_bytes for each in found.partial} == {held: 10, "sha256:" + "1" * 64: 4, "new:1-2": 4}
        files = [path for path in content.root.rglob("*") if path.is_file() and path.parent != content.root]
        told = [*found.blobs.values(), *(each.size_bytes for each in (*found.orphans, *found.partial))]
        assert sum(told) == sum(path.stat().st_size for path in files)

    run(tmp_path, test)


def test_a_snapshot_without_image_or_container_is_an_orphan(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        engine.container(image)
        engine.kit.storage.prepare("d" * 64, image.chain_id)
        engine.kit.storage.write("d" * 64, "x", b"12345")
        (orphan,) = (await engine.disk_usage.everything()).orphans
        assert (orphan.kind, orphan.id, orphan.size_bytes) == ("snapshot", "d" * 64, 5)

    run(tmp_path, test)


def test_a_stopped_container_is_measured_once_and_again_after_its_next_run(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        record = engine.container(image, finished_ns=5)
        (space,) = (await engine.disk_usage.objects()).containers
        assert space.root == 100
        engine.kit.storage.write(record.id, "more", b"m" * 50)
        (space,) = (await engine.disk_usage.objects()).containers
        assert space.root == 100  # as recorded
        state = msgspec.structs.replace(record.state, finished_ns=6)
        engine.kit.users[:] = [msgspec.structs.replace(record, state=state)]
        (space,) = (await engine.disk_usage.objects()).containers
        assert space.root == 150

    run(tmp_path, test)


def test_a_running_container_and_its_volumes_are_measured_each_time(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.volumes.add("v", 10)
        record = engine.container(await engine.brought("a"), "running", volumes=("v",))
        found = await engine.disk_usage.objects()
        assert (found.containers[0].root, found.volumes[0].size, found.volumes[0].users) == (100, 10, 1)
        engine.kit.storage.write(record.id, "more", b"m" * 50)
        (Path(engine.volumes.records["v"].mountpoint) / "more").write_bytes(b"12345")
        found = await engine.disk_usage.objects()
        assert (found.containers[0].root, found.volumes[0].size) == (150, 15)

    run(tmp_path, test)


def test_a_volume_elsewhere_is_not_walked(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.volumes.add("v", 10)
        record = engine.volumes.records["v"]
        engine.volumes.records["v"] = msgspec.structs.replace(record, mountpoint="/")
        assert [space.size for space in (await engine.disk_usage.objects()).volumes] == [-1]

    run(tmp_path, test)


def test_an_answer_does_not_wait_for_a_long_walk_and_the_record_survives_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        state = await State.open(tmp_path / "scow.db")
        measures = Measures(state)
        go_on = asyncio.Event()
        walks = 0

        async def slow() -> int:
            nonlocal walks
            walks += 1
            await go_on.wait()
            return 42

        begun = time.monotonic()
        assert await measures.sizes({"k": Walk(9, slow)}, wait_s=0.01) == {}
        assert await measures.sizes({"k": Walk(9, slow)}, wait_s=0.01) == {}
        assert time.monotonic() - begun < 60
        go_on.set()
        assert (await measures.sizes({"k": Walk(9, slow)}, wait_s=60))["k"].size_bytes == 42
        assert walks == 1
        again = Measures(state)
        again.load()
        assert (await again.sizes({"k": Walk(9, slow)}, wait_s=0))["k"].size_bytes == 42
        assert walks == 1
        assert await again.sizes({}, wait_s=0) == {}
        assert state.load("measure") == []
        await state.close()

    asyncio.run(test())


def test_a_walk_that_fails_leaves_the_last_measure(tmp_path: Path) -> None:
    async def test() -> None:
        state = await State.open(tmp_path / "scow.db")
        measures = Measures(state)

        async def broken() -> int:
            raise ScowError("gone")

        async def fine() -> int:
            return 3

        assert (await measures.sizes({"k": Walk(0, fine)}, wait_s=60))["k"].size_bytes == 3
        assert (await measures.sizes({"k": Walk(0, broken)}, wait_s=60))["k"].size_bytes == 3
        await state.close()

    asyncio.run(test())


@pytest.mark.parametrize("damage", [True, False])
def test_a_damaged_manifest_hides_its_blobs_not_the_answer(tmp_path: Path, damage: bool) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        if damage:
            engine.images.blobs.forget(image)
            engine.kit.content.path(image.manifest_digest).write_bytes(b"{}")
        found = await engine.disk_usage.everything()
        assert bool(found.blobs) is not damage
        assert bool(found.orphans) is damage

    run(tmp_path, test)
