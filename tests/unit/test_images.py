from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from scow.engine.model import Container, ContainerState, Image
from scow.errors import Conflict, InvalidArgument, NotFound
from scow.reference import Reference
from scow.testing.fakes_registry import FileTree, make_image, make_tar
from scow.types import ContainerConfig, CreateRequest, HostConfig
from tests.unit.image_kit import Kit, run

FILES: FileTree = {"bin/": None, "bin/sh": "#!", "data": "x" * 5000}


async def brought(kit: Kit, name: str = "nginx", **options: Any) -> Image:
    ref = Reference.parse(name)
    kit.registry.add(ref.repository, ref.tag, make_image(FILES, {ref.repository: ref.tag}, **options))
    return await kit.pull(name)


def container(image: Image, status: Any = "exited", id: str = "c" * 64) -> Container:
    return Container(
        id=id,
        name="c",
        created_ns=1,
        request=CreateRequest(),
        config=ContainerConfig(),
        host_config=HostConfig(),
        image_id=image.id,
        image_ref="nginx",
        chain_id=image.chain_id,
        path="/bin/sh",
        args=(),
        platform="linux",
        storage_driver="overlay",
        runtime="native",
        state=ContainerState(status=status),
    )


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def imported(kit: Kit, data: bytes, name: str = "own:1", **options: Any) -> Image:
    arguments: dict[str, Any] = {"changes": [], "message": "", "platform": "", **options}
    pieces = [data[start : start + 3000] for start in range(0, len(data), 3000)]
    return await kit.images.import_tar(
        stream(*pieces), Reference.parse(name), progress=kit.messages.append, **arguments
    )


# Look-ups and names


def test_what_is_not_there_is_named_as_docker_names_it(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        for ref, shown in (("nginx", "nginx:latest"), ("sha256:abc", "sha256:abc"), ("BAD//", "BAD//")):
            with pytest.raises(NotFound, match=f"No such image: {shown}"):
                kit.images.get(ref)

    run(tmp_path, test)


def test_a_tag_moves_to_the_image_that_gets_it(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        first, second = await brought(kit, "a"), await brought(kit, "b")
        await kit.images.tag("a", Reference.parse("mine:1"))
        await kit.images.tag(second.id, Reference.parse("mine:1"))
        assert kit.images.get("mine:1").id == second.id
        assert kit.again().get("mine:1").id == second.id
        assert "docker.io/library/mine:1" not in kit.images.get(first.id).tags
        assert ("tag", second.id) in kit.actions()

    run(tmp_path, test)


def test_filters(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        a = await brought(kit, "a:1", config={"Labels": {"x": "1"}})
        b = await brought(kit, "host.example/team/b:2", config={"Labels": {"x": "2"}})

        def ids(**filters: list[str]) -> set[str]:
            return {image.id for image in kit.images.list(filters=filters)}

        assert ids() == {a.id, b.id}
        assert ids(label=["x=1"]) == {a.id}
        assert ids(label=["x"]) == {a.id, b.id}
        assert ids(reference=["a"]) == ids(reference=["a:1"]) == ids(reference=["?:[1-3]"]) == {a.id}
        assert ids(reference=["host.example/*/b"]) == {b.id}
        assert ids(reference=["*"]) == {a.id}
        assert ids(dangling=["true"]) == set()
        assert kit.images.list(filters={"label!": ["x=1"]}) == [b]
        assert kit.images.list(filters={"until": ["1h"]}) != []
        for bad in ({"nonsense": ["1"]}, {"dangling": ["maybe"]}, {"until": ["yesterday"]}):
            with pytest.raises(InvalidArgument):
                kit.images.list(filters=bad)

    run(tmp_path, test)


def test_history_counts_layers_and_empty_steps(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        lines = kit.images.history("nginx")
        assert [line["CreatedBy"] for line in lines] == ["layer 1", "layer 0"]
        assert lines[0]["Id"] == image.id
        assert lines[0]["Tags"] == ["nginx:latest"]
        assert lines[1]["Size"] == image.layer_sizes[0]

    run(tmp_path, test)


# Removal


def test_the_last_name_takes_the_image_with_it(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        gone = await kit.images.remove("nginx")
        assert gone[0] == {"Untagged": "nginx:latest"}
        assert gone[1]["Untagged"].startswith("nginx@sha256:")
        assert gone[2] == {"Deleted": image.id}
        assert {"Deleted": image.chain_id} in gone
        assert list(kit.content.list()) == []
        assert kit.storage.list() == []
        assert kit.again().list() == []
        assert [action for action, _ in kit.actions()][-3:] == ["untag", "untag", "delete"]

    run(tmp_path, test)


def test_one_of_two_names_is_only_untagged(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await brought(kit)
        await kit.images.tag("nginx", Reference.parse("mine"))
        assert await kit.images.remove("mine") == [{"Untagged": "mine:latest"}]
        assert kit.images.get("nginx").tags == ("docker.io/library/nginx:latest",)

    run(tmp_path, test)


def test_layers_of_other_images_stay(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await brought(kit, "a")
        b = await brought(kit, "b")
        await kit.images.remove("a")
        assert len(kit.storage.list()) == 2
        assert kit.storage.files(b.chain_id or "")["data"]
        await kit.pull("b")
        assert kit.statuses()[-1].startswith("Status: Image is up to date")

    run(tmp_path, test)


def test_a_stopped_container_needs_force_a_running_one_refuses(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        kit.users = [container(image)]
        with pytest.raises(Conflict, match=r"unable to remove repository reference \"nginx\" \(must force\)"):
            await kit.images.remove("nginx")
        with pytest.raises(Conflict, match=r"must be forced.*stopped container cccccccccccc"):
            await kit.images.remove(image.id)
        kit.users = [container(image, "running")]
        with pytest.raises(Conflict, match="cannot be forced"):
            await kit.images.remove(image.id, force=True)
        assert kit.images.get("nginx") == image

    run(tmp_path, test)


def test_force_untags_the_image_of_a_running_container(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        kit.users = [container(image, "running")]
        gone = await kit.images.remove("nginx", force=True)
        assert all("Untagged" in line for line in gone)
        assert kit.images.get(image.id).tags == ()

    run(tmp_path, test)


def test_force_deletes_under_a_stopped_container_and_keeps_what_it_stands_on(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        kit.users = [container(image)]
        kit.storage.prepare("c" * 64, image.chain_id)
        gone = await kit.images.remove("nginx", force=True)
        assert {"Deleted": image.id} in gone
        assert kit.storage.stat(image.chain_id or "").committed

    run(tmp_path, test)


def test_an_image_with_names_in_two_repositories_goes_by_id_only_with_force(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        await kit.images.tag("nginx", Reference.parse("mine"))
        with pytest.raises(Conflict, match="referenced in multiple repositories"):
            await kit.images.remove(image.id)
        gone = await kit.images.remove(image.id[7:19], force=True)
        assert {"Deleted": image.id} in gone

    run(tmp_path, test)


async def built_on(kit: Kit, parent: Image, number: int, name: str = "") -> Image:
    """An image whose parent is *parent*, as commit makes it."""
    image = replace(parent, id=f"sha256:{number:064x}", parent=parent.id, tags=(), digests=())
    return await kit.images._store.put(image, tags=[str(Reference.parse(name))] if name else [])


def test_an_image_that_others_were_built_on_stays_by_id_even_with_force(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        base = await brought(kit)
        await built_on(kit, base, 1, "child")
        for force in (False, True):
            with pytest.raises(Conflict, match=r"cannot be forced\) - image has dependent child images"):
                await kit.images.remove(base.id, force=force)
        assert {"Untagged": "nginx:latest"} in await kit.images.remove("nginx")
        assert [image.tags for image in kit.images.list()] == [("docker.io/library/child:latest",)]
        assert len(kit.images.list(all=True)) == 2
        assert [child.parent for child in kit.again().children(base.id)] == [base.id]

    run(tmp_path, test)


@pytest.mark.parametrize("prune", [True, False])
def test_with_the_last_child_its_unnamed_parents_go_unless_they_should_stay(tmp_path: Path, prune: bool) -> None:
    async def test(kit: Kit) -> None:
        base = await brought(kit)
        step = await built_on(kit, base, 1)
        await built_on(kit, step, 2, "child")
        gone = await kit.images.remove("child", prune=prune)
        assert ({"Deleted": step.id} in gone) is prune
        left = {base.id} if prune else {base.id, step.id}
        assert {image.id for image in kit.images.list(all=True)} == left

    run(tmp_path, test)


def test_an_unnamed_parent_in_use_stays(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        step = await built_on(kit, await brought(kit), 1)
        await built_on(kit, step, 2, "child")
        kit.users = [container(step)]
        await kit.images.remove("child")
        assert kit.images.get(step.id) == step

    run(tmp_path, test)


def test_an_image_of_another_platform_is_not_found(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await imported(kit, make_tar(FILES), platform="linux/arm64")
        assert kit.images.get("own:1", "linux/arm64/v8") == image
        for act in (kit.images.get, kit.images.history):
            with pytest.raises(NotFound, match="wanted linux/s390x, actual: linux/arm64"):
                act("own:1", "linux/s390x")
        with pytest.raises(NotFound):
            await kit.images.remove("own:1", platform="linux/s390x")
        assert await kit.images.remove("own:1", platform="linux/arm64")

    run(tmp_path, test)


def test_an_image_that_has_only_a_digest_is_dangling_and_not_without_a_name(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        await brought(kit, "other")
        await kit.images.tag("other", Reference.parse("nginx"))
        assert [found.id for found in kit.images.list(filters={"dangling": ["true"]})] == [image.id]
        assert len(kit.images.list(filters={"dangling": ["false"]})) == 2

    run(tmp_path, test)


# Import and push


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress])
def test_an_imported_tar_is_an_image_of_one_layer(tmp_path: Path, packed: Any) -> None:
    async def test(kit: Kit) -> None:
        changes = ['CMD ["/bin/sh", "-c", "true"]', "ENV A=1 B='2 3'", "EXPOSE 80 53/udp", "LABEL x=y", "WORKDIR /w"]
        image = await imported(kit, packed(make_tar(FILES)), changes=changes, message="hello", platform="linux/arm64")
        config = image.config.config
        assert config.cmd == ["/bin/sh", "-c", "true"]
        assert config.env == ["A=1", "B=2 3"]
        assert set(config.exposed_ports) == {"80/tcp", "53/udp"}
        assert (config.labels, config.working_dir) == ({"x": "y"}, "/w")
        assert image.config.architecture == "arm64"
        assert image.tags == ("docker.io/library/own:1",)
        assert kit.images.history("own:1")[0]["Comment"] == "hello"
        assert kit.storage.files(image.chain_id or "")["bin/sh"] == b"#!"
        assert kit.content.read(image.id)
        assert kit.again().get("own:1") == image
        assert ("import", image.id) in kit.actions()

    run(tmp_path, test)


def test_a_bad_import_leaves_nothing(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        with pytest.raises(InvalidArgument):
            await imported(kit, b"this is no tar" * 1000)
        with pytest.raises(InvalidArgument, match="FROM is not a valid change command"):
            await imported(kit, make_tar(FILES), changes=["FROM scratch"])
        assert kit.images.list() == []
        assert kit.storage.list() == []
        assert list(kit.content.list()) == []

    run(tmp_path, test)


def test_an_import_whose_client_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield make_tar(FILES)[:2000]
            raise ConnectionResetError("gone")

        with pytest.raises(ConnectionResetError):
            await kit.images.import_tar(
                broken(), None, changes=[], message="", platform="", progress=kit.messages.append
            )
        assert list(kit.content.list()) == []
        assert list((kit.content.root / "ingest").iterdir()) == []

    run(tmp_path, test)


def test_a_pulled_image_is_pushed_with_the_bytes_that_came(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit)
        await kit.images.tag("nginx", Reference.parse("other.example/mine:2"))
        await kit.images.push(Reference.parse("other.example/mine:2"), progress=kit.messages.append)
        assert set(kit.host.other.blobs("mine")) == set(kit.registry.blobs("library/nginx"))
        assert "Pushed" in kit.statuses()
        assert kit.statuses()[-1].startswith(f"2: digest: {image.manifest_digest} size: ")
        assert kit.messages[-1]["aux"]["Digest"] == image.manifest_digest
        assert f"other.example/mine@{image.manifest_digest}" in kit.images.get("nginx").digests
        kit.messages.clear()
        await kit.images.push(Reference.parse("other.example/mine"), progress=kit.messages.append, all_tags=True)
        assert "Layer already exists" in kit.statuses()

    run(tmp_path, test)


def test_an_imported_image_survives_push_and_pull(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await imported(kit, make_tar(FILES), "other.example/own:1")
        await kit.images.push(Reference.parse("other.example/own:1"), progress=kit.messages.append)
        await kit.images.remove("other.example/own:1")
        assert kit.images.list() == []
        again = await kit.pull("other.example/own:1")
        assert again.id == image.id
        assert json.loads(kit.content.read(again.id))["rootfs"]["diff_ids"] == list(image.diff_ids)

    run(tmp_path, test)


def test_a_push_of_what_is_not_here_is_not_found(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        with pytest.raises(NotFound, match="An image does not exist locally with the tag: nope"):
            await kit.images.push(Reference.parse("nope"), progress=kit.messages.append)

    run(tmp_path, test)


def test_a_record_survives_encoding(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        image = await brought(kit, config={"Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}, "Volumes": {"/v": {}}})
        assert msgspec.json.decode(msgspec.json.encode(image), type=Image) == image

    run(tmp_path, test)
