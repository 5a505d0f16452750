"""``docker save`` on fakes: what is in the archive, and that it comes back as it was."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scow.errors import NotFound
from scow.oci import Platform, digest_of
from scow.reference import Reference
from scow.testing.fakes_registry import make_tar
from tests.unit.archive_kit import NAME, REF, oci_files
from tests.unit.image_kit import BASE, Kit, image, run
from tests.unit.test_archives_load import archives, load

TWO = image(BASE, {"app": "1"})
OTHER = image(BASE, {"app": "2"}, compression="none")


async def saved(kit: Kit, *names: str, platform: Platform | None = None) -> bytes:
    flow = await archives(kit, kit.content.root).save(names, platform)
    try:
        return b"".join([piece async for piece in flow])
    finally:
        await flow.aclose()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {info.name: tar.extractfile(info) for info in tar if info.isreg()}
        return {name: file.read() for name, file in files.items() if file is not None}


async def with_both(kit: Kit) -> None:
    await load(kit, make_tar(oci_files(TWO, OTHER, names=["a:1", "b:1"])))
    await kit.images.tag("a:1", Reference.parse("a:2"))
    await kit.images.tag("a:1", Reference.parse("host.example/x:3"))


def test_an_archive_is_an_oci_layout_and_a_docker_archive_and_holds_each_blob_once(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await with_both(kit)
        files = members(await saved(kit, "a:1", "b:1"))
        assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        entries = json.loads(files["index.json"])["manifests"]
        assert [entry["annotations"][NAME] for entry in entries] == [
            "docker.io/library/a:1",
            "docker.io/library/b:1",
        ]
        assert [entry["annotations"][REF] for entry in entries] == ["1", "1"]
        assert [entry["digest"] for entry in entries] == [each.manifest.descriptor.digest for each in (TWO, OTHER)]
        listing = json.loads(files["manifest.json"])
        assert [entry["RepoTags"] for entry in listing] == [["a:1"], ["b:1"]]
        for entry, each in zip(listing, (TWO, OTHER), strict=True):
            assert digest_of(files[entry["Config"]]) == each.id
            assert [digest_of(files[layer]) for layer in entry["Layers"]] == [layer.digest for layer in each.layers]
        blobs = {name: data for name, data in files.items() if name.startswith("blobs/sha256/")}
        assert all(digest_of(data) == "sha256:" + name.rpartition("/")[2] for name, data in blobs.items())
        assert set(files) == {"oci-layout", "index.json", "manifest.json", *blobs}
        assert list(files)[:3] == ["oci-layout", "index.json", "manifest.json"]
        assert ("save", TWO.id) in kit.actions()

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        (["a:1"], [["a:1"]]),
        (["a"], [["a:1", "a:2"]]),
        (["a:2", "a:1", "a:2"], [["a:2", "a:1"]]),
        (["host.example/x:3", "a"], [["host.example/x:3", "a:1", "a:2"]]),
        ([TWO.id], [None]),
        ([TWO.id[7:19]], [None]),
        (["b:1", TWO.id], [["b:1"], None]),
    ],
)
def test_which_tags_an_archive_gives_follows_from_what_was_said(
    tmp_path: Path, names: list[str], tags: list[Any]
) -> None:
    async def test(kit: Kit) -> None:
        await with_both(kit)
        files = members(await saved(kit, *names))
        assert [entry["RepoTags"] for entry in json.loads(files["manifest.json"])] == tags

    run(tmp_path, test)


def test_what_was_saved_is_loaded_as_it_was(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await with_both(kit)
        first = await saved(kit, "a", "b:1", "host.example/x:3")
        assert await saved(kit, "a", "b:1", "host.example/x:3") == first
        before = sorted(kit.content.list())
        for each in (TWO, OTHER):
            await kit.images.remove(each.id, force=True)
        assert list(kit.content.list()) == []
        told = await load(kit, first)
        assert sorted(told) == [f"Loaded image: {name}" for name in ("a:1", "a:2", "b:1", "host.example/x:3")]
        assert sorted(kit.content.list()) == before
        assert {image.manifest_digest for image in kit.images.list()} == {
            each.manifest.descriptor.digest for each in (TWO, OTHER)
        }

    run(tmp_path, test)


def test_what_is_not_there_is_not_found_before_anything_is_written(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await with_both(kit)
        for names, text in ((["nothing"], "No such image: nothing"), (["a:1", "a:9"], "No such image: a:9")):
            with pytest.raises(NotFound, match=text):
                await saved(kit, *names)
        with pytest.raises(NotFound, match="does not match the specified platform"):
            await saved(kit, "a:1", platform=Platform("linux", "s390x"))
        kit.content.delete(TWO.layers[1].digest)
        with pytest.raises(NotFound, match=f"layer {TWO.layers[1].digest} .* was not kept"):
            await saved(kit, "a:1")
        assert not kit.images.parts.leases.held()

    run(tmp_path, test)


def test_an_image_that_is_removed_meanwhile_is_written_whole(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await load(kit, make_tar(oci_files(TWO, names=["a:1"])))
        flow = await archives(kit, tmp_path).save(["a:1"], None)
        await kit.images.remove("a:1")
        data = b"".join([piece async for piece in flow])
        await flow.aclose()
        assert digest_of(members(data)["blobs/" + TWO.layers[1].digest.replace(":", "/")]) == TWO.layers[1].digest
        assert not kit.images.parts.leases.held()

    run(tmp_path, test)


def test_a_client_that_goes_away_gives_the_blobs_back(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        big = image({f"f{n}": bytes([n]) * (1 << 20) for n in range(12)}, compression="none")
        await load(kit, make_tar(oci_files(big, names=["a:1"])))
        for read in (0, 1):
            flow = await archives(kit, tmp_path).save(["a:1"], None)
            for _ in range(read):
                await flow.__anext__()
            assert kit.images.parts.leases.held()
            await asyncio.wait_for(flow.aclose(), 10)
            assert not kit.images.parts.leases.held()

    run(tmp_path, test)
