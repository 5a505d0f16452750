"""What is pruned, and what is not: plans, and what came between a plan and its execution."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from scow.engine.prune import Item
from scow.errors import Conflict, InvalidArgument
from scow.reference import Reference
from tests.unit.usage_kit import Engine, run


def ids(items: list[Item]) -> list[str]:
    return [item.id for item in items]


def test_stopped_containers_go_and_running_ones_stay(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        stopped = engine.container(image, "exited", "a" * 64)
        made = engine.container(image, "created", "b" * 64)
        for status, id in (("running", "c"), ("paused", "d"), ("restarting", "e")):
            engine.container(image, status, id * 64)
        plan = await engine.plan("container")
        assert ids(plan.items) == [stopped.id, made.id]
        assert plan.reclaimable == 200
        outcome = await engine.prune.apply(plan.items)
        assert ids(outcome.removed) == [stopped.id, made.id]
        assert outcome.space_reclaimed == 200
        assert {record.state.status for record in engine.containers.records()} == {"running", "paused", "restarting"}
        assert ("prune", "") in engine.kit.actions()

    run(tmp_path, test)


def test_a_container_that_was_started_after_the_plan_is_kept_and_said(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        record = engine.container(await engine.brought("a"))
        plan = await engine.plan("container")
        state = msgspec.structs.replace(record.state, status="running")
        engine.kit.users[:] = [msgspec.structs.replace(record, state=state)]
        outcome = await engine.prune.apply(plan.items)
        assert outcome.removed == []
        assert [(kept.id, kept.reason) for kept in outcome.kept] == [(record.id, "container cc is running by now")]

    run(tmp_path, test)


def test_what_was_made_after_the_plan_survives_it(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        engine.volumes.add("old", 10, anonymous=True)
        engine.container(image, id="a" * 64)
        plan = await engine.plan("container", "volume", "image")
        later = engine.container(image, id="b" * 64, volumes=("old",))
        outcome = await engine.prune.apply(plan.items)
        assert engine.containers.records() == [later]
        assert [kept.reason for kept in outcome.kept] == ["remove old: volume is in use"]

    run(tmp_path, test)


def test_dangling_images_go_and_named_ones_only_with_dangling_false(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        named, untagged = await engine.brought("a"), await engine.brought("b")
        await engine.images.tag("a", Reference.parse("b"))  # takes the tag: only a digest is left
        assert ids((await engine.plan("image")).items) == [untagged.id]
        done = await engine.pruned("image")
        assert {"Deleted": untagged.id} in done.images
        assert [image.id for image in engine.images.list()] == [named.id]
        done = await engine.pruned("image", dangling=["false"])
        assert {"Untagged": "a:latest"} in done.images
        assert {"Untagged": "b:latest"} in done.images
        assert engine.images.list() == []
        assert engine.kit.storage.list() == []
        assert list(engine.kit.content.list()) == []

    run(tmp_path, test)


def test_the_space_that_images_give_back_counts_what_they_share_once(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        one, two = await engine.brought("a"), await engine.brought("b")
        content = engine.kit.content
        before = sum(content.size(digest) for digest in content.list())
        plan = await engine.plan("image", dangling=["false"])
        layers = one.size_bytes + two.size_bytes - one.layer_sizes[0]
        assert plan.reclaimable == layers + before
        assert sum(item.size_bytes for item in plan.items) == layers - one.layer_sizes[0]
        assert (await engine.prune.apply(plan.items)).space_reclaimed == plan.reclaimable

    run(tmp_path, test)


def test_an_image_that_got_a_name_or_a_container_after_the_plan_is_kept(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        a, b, c = [await engine.brought(name) for name in ("a", "b", "c")]
        plan = await engine.plan("image", dangling=["false"])
        await engine.images.tag("a", Reference.parse("mine:1"))
        engine.container(b, "exited")
        outcome = await engine.prune.apply(plan.items)
        assert ids(outcome.removed) == [c.id]
        reasons = {kept.id: kept.reason for kept in outcome.kept}
        assert "is called mine:1 by now" in reasons[a.id]
        assert "is being used by stopped container" in reasons[b.id]
        assert {image.id for image in engine.images.list()} == {a.id, b.id}
        assert "docker.io/library/b:latest" in engine.images.get(b.id).tags

    run(tmp_path, test)


def test_an_image_in_use_keeps_all_its_names(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        await engine.images.tag("a", Reference.parse("b"))
        engine.container(image, "exited")
        assert (await engine.plan("image", dangling=["false"])).items == []

    run(tmp_path, test)


def test_containers_that_go_first_free_their_images_and_volumes(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        engine.volumes.add("anonymous", 10, anonymous=True)
        record = engine.container(image, volumes=("anonymous",))
        assert (await engine.plan("volume")).items == []
        items = (await engine.prune.plan({"container": {}, "volume": {}, "image": {"dangling": ["false"]}})).items
        assert ids(items) == [record.id, "anonymous", image.id]
        outcome = await engine.prune.apply(items[::-1])
        assert sorted(ids(outcome.removed)) == sorted(ids(items))
        assert outcome.kept == []

    run(tmp_path, test)


def test_named_volumes_are_pruned_only_with_all(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.volumes.add("named", 10)
        engine.volumes.add("labelled", 20, labels={"com.docker.volume.anonymous": ""})
        engine.volumes.add("anonymous", 30, anonymous=True)
        plan = await engine.plan("volume")
        assert ids(plan.items) == ["labelled", "anonymous"]
        assert plan.reclaimable == 50
        assert len((await engine.plan("volume", all=["1"])).items) == 3

    run(tmp_path, test)


def test_a_volume_that_was_made_anew_is_kept(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.volumes.add("v", 10)
        plan = await engine.plan("volume", all=["true"])
        record = engine.volumes.records["v"]
        engine.volumes.records["v"] = msgspec.structs.replace(record, created_ns=8)
        outcome = await engine.prune.apply(plan.items)
        assert [kept.reason for kept in outcome.kept] == ["volume v was made anew"]

    run(tmp_path, test)


def test_networks_without_endpoints_are_pruned(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        engine.networks.add("n1")
        outcome = await engine.pruned("network")
        assert ids(outcome.removed) == ["n1"]
        assert engine.networks.records == {}

    run(tmp_path, test)


def test_filters_by_label_and_time(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        image = await engine.brought("a")
        old = engine.container(image, id="a" * 64, labels={"x": "1"}, created_ns=1_000_000_000)
        new = engine.container(image, id="b" * 64, labels={"x": "2"}, created_ns=3_000_000_000)
        assert ids((await engine.plan("container", label=["x=1"])).items) == [old.id]
        assert ids((await engine.plan("container", **{"label!": ["x=1"]})).items) == [new.id]
        assert ids((await engine.plan("container", until=["2"])).items) == [old.id]
        for kind, bad in (
            ("container", {"nonsense": ["1"]}),
            ("container", {"until": ["1", "2"]}),
            ("container", {"until": ["yesterday"]}),
            ("volume", {"until": ["1h"]}),
            ("image", {"dangling": ["maybe"]}),
        ):
            with pytest.raises(InvalidArgument):
                await engine.prune.plan({kind: bad})  # type: ignore[dict-item]

    run(tmp_path, test)


def test_steps_of_a_build_go_with_what_was_built_on_them(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        base = await engine.brought("base")
        step = await engine.built_on(base)
        top = await engine.built_on(step)
        plan = await engine.plan("image")
        assert ids(plan.items) == [top.id, step.id]
        outcome = await engine.prune.apply(plan.items)
        assert outcome.kept == []
        assert engine.images.list(all=True) == [base]

    run(tmp_path, test)


def test_left_overs_are_pruned_but_nothing_that_a_transfer_holds(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await engine.brought("a")
        content = engine.kit.content
        orphan, held = content.put(b"orphan"), content.put(b"held")
        partial = content.root / "ingest" / ("sha256-" + "0" * 64)
        partial.write_bytes(b"part")
        with engine.images._parts.leases.hold([held]):
            plan = await engine.plan("orphan")
            assert sorted(ids(plan.items)) == sorted([orphan, "sha256:" + "0" * 64])
            assert plan.reclaimable == 10
            outcome = await engine.prune.apply(plan.items)
        assert outcome.space_reclaimed == 10
        assert not content.exists(orphan)
        assert content.exists(held)
        assert not partial.exists()
        assert (await engine.plan("orphan", until=["1"])).items == []

    run(tmp_path, test)


def test_a_prune_while_another_one_runs_is_a_conflict(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await engine.brought("a")
        plan = await engine.plan("image", dangling=["false"])
        first = asyncio.create_task(engine.prune.apply(plan.items))
        await asyncio.sleep(0)
        with pytest.raises(Conflict, match="a prune operation is already running"):
            await engine.prune.apply(plan.items)
        assert ids((await first).removed) == ids(plan.items)
        await engine.prune.apply([])

    run(tmp_path, test)
