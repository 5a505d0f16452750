"""``docker load`` on fakes: what other tools write, and archives that are broken or hostile."""

from __future__ import annotations

import asyncio
import bz2
import errno
import gzip
import json
import lzma
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from scow.engine.archives import Archives
from scow.errors import Corrupt, InvalidArgument, NotFound, ScowError, Unavailable
from scow.oci import Platform
from scow.reference import Reference
from scow.testing.fakes_registry import FileTree, SmallImage, make_image, make_index, make_tar
from tests.unit.archive_kit import REF, blob_path, docker_files, link, oci_files
from tests.unit.image_kit import BASE, BIG, Kit, image, run


async def pieces(data: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def archives(kit: Kit, root: Path) -> Archives:
    return Archives(kit.images.parts, None, kit.events, root)  # type: ignore[arg-type]


async def load(kit: Kit, data: bytes, platform: Platform | None = None) -> list[str]:
    """Loads *data*; what was told."""
    kit.messages.clear()
    await archives(kit, kit.content.root).load(pieces(data), platform, kit.messages.append)
    return [message["stream"].rstrip("\n") for message in kit.messages if "stream" in message]


def left(kit: Kit) -> tuple[list[str], list[str], list[str], int]:
    """Everything that a load could leave behind."""
    ingest = [path.name for path in (kit.content.root / "ingest").iterdir()]
    return sorted(kit.content.list()), [each.key for each in kit.storage.list()], ingest, len(kit.images.list())


NOTHING: tuple[list[str], list[str], list[str], int] = ([], [], [], 0)
TWO = image(BASE, {"app": "1"}, config={"Cmd": ["/app"], "Labels": {"a": "b"}})


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("links", [False, True])
def test_a_docker_archive_is_loaded(tmp_path: Path, compression: str, links: bool) -> None:
    small = image(BASE, {"app": "1"}, compression=compression)

    async def test(kit: Kit) -> None:
        told = await load(kit, make_tar(docker_files(small, ["own:1", "host.example:5000/x/y:2"], links=links)))
        assert told == ["Loaded image: own:1", "Loaded image: host.example:5000/x/y:2"]
        found = kit.images.get("own:1")
        assert found.id == small.id
        assert found.tags == ("docker.io/library/own:1", "host.example:5000/x/y:2")
        assert kit.storage.files(found.chain_id or "")["app"] == b"1"
        assert kit.again().get("host.example:5000/x/y:2").id == small.id
        assert ("load", small.id) in kit.actions()
        assert left(kit)[2] == []
        statuses = {message["status"] for message in kit.messages if "status" in message}
        assert statuses <= {"Loading layer"}

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        ("docker.io/library/own:1", "io.containerd.image.name", "Loaded image: own:1"),
        ("localhost/own:1", REF, "Loaded image: localhost/own:1"),
        ("own:1", REF, "Loaded image: own:1"),
        ("v1", REF, f"Loaded image ID: {TWO.id}"),
        ("", REF, f"Loaded image ID: {TWO.id}"),
    ],
)
def test_an_oci_archive_is_loaded_with_the_manifest_that_it_has(tmp_path: Path, name: str, key: str, told: str) -> None:
    async def test(kit: Kit) -> None:
        assert await load(kit, make_tar(oci_files(TWO, names=[name], key=key))) == [told]
        found = kit.images.get(TWO.id)
        assert found.manifest_digest == TWO.manifest.descriptor.digest
        assert found.config.config.labels == {"a": "b"}
        await kit.images.tag(TWO.id, Reference.parse("other.example/own:1"))
        await kit.images.push(Reference.parse("other.example/own:1"), progress=kit.messages.append)

    run(tmp_path, test)


@pytest.mark.parametrize(
    "packed", [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress], ids=lambda f: str(f)
)
def test_a_compressed_archive_is_loaded(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    async def test(kit: Kit) -> None:
        whole = make_tar(docker_files(image(BIG), ["own:1"]))
        assert await load(kit, packed(whole)) == ["Loaded image: own:1"]
        await kit.images.remove("own:1")
        with pytest.raises(ScowError):
            await load(kit, packed(whole)[:-700])
        assert left(kit) == NOTHING

    run(tmp_path, test)


def test_several_images_with_common_layers_are_loaded_at_once(tmp_path: Path) -> None:
    other = image(BASE, {"app": "2"})

    async def test(kit: Kit) -> None:
        told = await load(kit, make_tar(oci_files(TWO, other, TWO, names=["a:1", "b:1", "c:1"])))
        assert told == ["Loaded image: a:1", "Loaded image: c:1", "Loaded image: b:1"]
        assert len(kit.images.list()) == 2
        assert [call[0] for call in kit.storage.calls].count("apply") == 3

    run(tmp_path, test)


def test_of_an_index_the_image_for_this_machine_or_the_wanted_platform_is_loaded(tmp_path: Path) -> None:
    mine, other = image(BASE), image(BIG, platform=Platform("linux", "s390x"))
    index = make_index(mine, other)
    files = oci_files(index, names=["own:1"])
    for each in (mine, other):
        files |= {blob_path(each.manifest.descriptor.digest): each.manifest.data}
        files |= {blob_path(digest): data for digest, data in each.blobs.items()}

    async def test(kit: Kit) -> None:
        await load(kit, make_tar(files))
        assert kit.images.get("own:1").id == mine.id
        told = await load(kit, make_tar(files), Platform("linux", "s390x"))
        assert kit.images.get("own:1").id == other.id
        assert told[0] == f"The image own:1 already exists, renaming the old one with ID {mine.id} to empty string"
        with pytest.raises(NotFound, match="no matching manifest for linux/ppc64le"):
            await load(kit, make_tar(files), Platform("linux", "ppc64le"))
        with pytest.raises(NotFound, match="has no image for platform linux/s390x"):
            await load(kit, make_tar(docker_files(mine, None)), Platform("linux", "s390x"))

    run(tmp_path, test)


def test_of_an_index_with_members_that_were_not_saved_those_that_are_there_count(tmp_path: Path) -> None:
    mine, other = image(BASE), image(BIG, platform=Platform("linux", "s390x"))
    files = oci_files(make_index(other, mine), names=["own:1"])
    files |= {blob_path(mine.manifest.descriptor.digest): mine.manifest.data}
    files |= {blob_path(digest): data for digest, data in mine.blobs.items()}

    async def test(kit: Kit) -> None:
        await load(kit, make_tar(files))
        assert kit.images.get("own:1").id == mine.id

    run(tmp_path, test)


def test_an_image_that_is_there_gets_the_names_only(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await load(kit, make_tar(oci_files(TWO, names=["a:1"])))
        before = left(kit)
        kit.storage.calls.clear()
        assert await load(kit, make_tar(docker_files(TWO, ["b:1"]))) == ["Loaded image: b:1"]
        assert left(kit) == before
        assert kit.storage.calls == []
        assert kit.images.get("a:1").tags == ("docker.io/library/a:1", "docker.io/library/b:1")

    run(tmp_path, test)


def with_listing(**changes: object) -> FileTree:
    files = docker_files(TWO, ["own:1"])
    listing = json.loads(str(files["manifest.json"]))
    listing[0].update(changes)
    return {**files, "manifest.json": json.dumps(listing)}


def with_config(**changes: object) -> FileTree:
    files = docker_files(TWO, ["own:1"])
    name = TWO.id.removeprefix("sha256:") + ".json"
    return {**files, name: json.dumps({**json.loads(TWO.blobs[TWO.id]), **changes})}


def without(files: FileTree, name: str) -> FileTree:
    return {path: data for path, data in files.items() if path != name}


LAYER = TWO.layers[0].digest
OCI = oci_files(TWO, names=["own:1"])
SELF = make_index()


@pytest.mark.parametrize(
    ("files", "error", "text"),
    [
        ({}, InvalidArgument, "not an archive of images"),
        (BASE, InvalidArgument, "not an archive of images"),
        ({"manifest.json": "[]"}, InvalidArgument, "holds no image"),
        ({"manifest.json": "{"}, InvalidArgument, "is not JSON"),
        ({"manifest.json": "[" * 100_000}, InvalidArgument, "is not JSON"),
        ({"manifest.json": '"text"'}, InvalidArgument, "no JSON list"),
        ({"manifest.json": "[1]"}, InvalidArgument, "names no config"),
        ({"index.json": "[]"}, InvalidArgument, "no JSON object"),
        ({"index.json": '{"manifests":[1]}'}, InvalidArgument, "invalid descriptor"),
        ({"index.json": b" " * (9 << 20)}, InvalidArgument, "larger than"),
        (with_listing(Config="../../etc/passwd"), InvalidArgument, "lies outside of the archive"),
        (with_listing(Config="/etc/passwd"), InvalidArgument, "lies outside of the archive"),
        (with_listing(Layers=["0/layer.tar", "../../etc/passwd"]), InvalidArgument, "lies outside of the archive"),
        (with_listing(Layers=["0/layer.tar", "nothing"]), InvalidArgument, "has no file 'nothing'"),
        (with_listing(Layers=["0/layer.tar"]), Corrupt, "2 diff IDs for 1 layers"),
        (with_listing(Layers=["1/layer.tar", "0/layer.tar"]), Corrupt, "its config says"),
        (with_listing(Layers="0/layer.tar"), InvalidArgument, "no list of texts"),
        (with_listing(RepoTags=["../x"]), InvalidArgument, "invalid reference format"),
        (with_config(rootfs={"diff_ids": ["sha256:../../x", TWO.diff_ids[1]]}), Corrupt, "no sha256 digests"),
        (with_config(rootfs={"diff_ids": [TWO.diff_ids[1], TWO.diff_ids[1]]}), Corrupt, "its config says"),
        (with_config(config=7), Corrupt, "config is malformed"),
        ({"../evil": "x", **OCI}, InvalidArgument, "lies outside of the archive"),
        ({"a/../../evil": "x", **OCI}, InvalidArgument, "lies outside of the archive"),
        ({"/evil": "x", **OCI}, InvalidArgument, "lies outside of the archive"),
        ({"evil": link("../../etc/passwd"), **OCI}, InvalidArgument, "lies outside of the archive"),
        ({"evil": link("/etc/passwd"), **OCI}, InvalidArgument, "lies outside of the archive"),
        ({"evil": link("/etc/passwd", tarfile.LNKTYPE), **OCI}, InvalidArgument, "lies outside of the archive"),
        ({"manifest.json": link("manifest.json")}, InvalidArgument, "is a link to itself"),
        ({"evil": link("", tarfile.CHRTYPE), **OCI}, InvalidArgument, "neither a file, a folder nor a link"),
        ({"evil": link("", tarfile.FIFOTYPE), **OCI}, InvalidArgument, "neither a file, a folder nor a link"),
        ({**OCI, blob_path(LAYER): b"other bytes"}, Corrupt, f"blob {LAYER} in the archive has the digest"),
        (without(OCI, blob_path(LAYER)), InvalidArgument, f"has no blob {LAYER}"),
        (without(OCI, blob_path(TWO.id)), InvalidArgument, f"has no blob {TWO.id}"),
        ({**OCI, blob_path(TWO.id): "{}"}, Corrupt, f"blob {TWO.id} in the archive has the digest"),
        (oci_files(TWO, names=["Bad Name:1"]), InvalidArgument, "invalid reference format"),
    ],
)
def test_a_bad_archive_is_refused_and_changes_nothing(
    tmp_path: Path, files: FileTree, error: type[ScowError], text: str
) -> None:
    async def test(kit: Kit) -> None:
        with pytest.raises(error, match=text.replace("[", r"\[")):
            await load(kit, make_tar(files))
        assert left(kit) == NOTHING
        assert kit.events.emitted == []

    run(tmp_path, test)


def test_an_index_of_indexes_without_end_is_refused(tmp_path: Path) -> None:
    deepest = make_index(TWO)
    levels = [deepest]
    for _ in range(4):
        levels.append(make_index(_as_image(levels[-1])))
    files = oci_files(levels[-1], names=["own:1"])
    files |= {blob_path(level.descriptor.digest): level.data for level in levels}

    async def test(kit: Kit) -> None:
        with pytest.raises(InvalidArgument, match="lists indexes of indexes"):
            await load(kit, make_tar(files))
        assert left(kit) == NOTHING

    run(tmp_path, test)


def _as_image(index: object) -> SmallImage:
    """Something that `make_index` takes, and that stands for *index*."""
    return SmallImage(index, TWO.config, (), (), {}, Platform.host())  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [0, 100, 600, 5_000, 90_000, -600])
def test_an_archive_that_is_cut_off_is_refused_and_changes_nothing(tmp_path: Path, cut: int) -> None:
    async def test(kit: Kit) -> None:
        whole = make_tar({**docker_files(image(BIG, compression="none"), ["own:1"])}).rstrip(b"\0")
        with pytest.raises((InvalidArgument, Corrupt)):
            await load(kit, whole[:cut])
        assert left(kit) == NOTHING

    run(tmp_path, test)


def test_a_good_image_beside_a_bad_one_is_not_loaded(tmp_path: Path) -> None:
    bad = image(BASE, {"app": "2"})
    files = oci_files(TWO, bad, names=["a:1", "b:1"])
    document = json.loads(bad.blobs[bad.id])
    document["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    liar = make_image(BASE, {"app": "2"})
    assert liar.id == bad.id
    listing = [
        {"Config": "good.json", "RepoTags": ["a:1"], "Layers": [blob_path(layer.digest) for layer in TWO.layers]},
        {"Config": "bad.json", "RepoTags": ["b:1"], "Layers": [blob_path(layer.digest) for layer in bad.layers]},
    ]
    files = without(files, "index.json")
    files |= {"good.json": TWO.blobs[TWO.id], "bad.json": json.dumps(document), "manifest.json": json.dumps(listing)}

    async def test(kit: Kit) -> None:
        with pytest.raises(Corrupt, match="its config says"):
            await load(kit, make_tar(files))
        assert left(kit) == NOTHING

    run(tmp_path, test)


def test_a_layer_that_pretends_to_be_one_that_is_there_is_refused(tmp_path: Path) -> None:
    base = image(BASE)
    forged = docker_files(image(BASE, {"app": "x"}), ["own:1"])
    forged["0/layer.tar"] = gzip.compress(make_tar({"bin/sh": "a forgery"}))

    async def test(kit: Kit) -> None:
        await load(kit, make_tar(oci_files(base, names=["base:1"])))
        before = left(kit)
        with pytest.raises(Corrupt, match="its config says"):
            await load(kit, make_tar(forged))
        assert left(kit) == before

    run(tmp_path, test)


def test_what_other_images_need_survives_a_load_that_fails(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await load(kit, make_tar(oci_files(TWO, names=["a:1"])))
        before = left(kit)
        other = image(BASE, {"app": "2"})
        kit.storage.before_apply = _full
        with pytest.raises(Unavailable, match="no space left on device"):
            await load(kit, make_tar(oci_files(other, names=["b:1"])))
        assert left(kit) == before
        kit.storage.before_apply = None
        await load(kit, make_tar(oci_files(other, names=["b:1"])))

    run(tmp_path, test)


def _full(key: str, diff_id: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_inflates_without_end_is_refused(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images._parts = replace(kit.images.parts, layer_limit_bytes=1 << 20)
        files: FileTree = {f"zeros{n}": bytes(1 << 20) for n in range(8)}
        with pytest.raises(InvalidArgument, match="inflates to more than 100 times its size"):
            await load(kit, gzip.compress(make_tar(files)))
        with pytest.raises(InvalidArgument, match="is larger than 1048576 bytes"):
            await load(kit, make_tar({"big": os.urandom(1 << 20) + b"x"}))
        with pytest.raises(InvalidArgument, match="unpacks to more than 1048576 bytes"):
            await load(kit, make_tar(oci_files(image({"zeros": bytes(2 << 20)}), names=["own:1"])))
        assert left(kit) == NOTHING

    run(tmp_path, test)


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.engine.archive_members.MEMBERS_LIMIT", 20)

    async def test(kit: Kit) -> None:
        with pytest.raises(InvalidArgument, match="more than 20 members"):
            await load(kit, make_tar({f"f{n}": "" for n in range(30)}))
        assert left(kit) == NOTHING

    run(tmp_path, test)


def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    whole = make_tar(docker_files(image(BIG, compression="none"), ["own:1"]))

    async def broken() -> AsyncIterator[bytes]:
        yield whole[: len(whole) // 2]
        raise ConnectionResetError("gone")

    async def test(kit: Kit) -> None:
        with pytest.raises(ConnectionResetError):
            await archives(kit, tmp_path).load(broken(), None, kit.messages.append)
        assert left(kit) == NOTHING

    run(tmp_path, test)


@pytest.mark.parametrize("at", [0, 1])
def test_a_load_that_is_cancelled_while_it_unpacks_leaves_nothing(tmp_path: Path, at: int) -> None:
    async def test(kit: Kit) -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(key: str, diff_id: str) -> None:
            if diff_id == TWO.diff_ids[at]:
                loop.call_soon_threadsafe(begun.set)

        kit.storage.before_apply = slow
        data = make_tar(oci_files(TWO, names=["a:1"]))
        task = asyncio.create_task(archives(kit, tmp_path).load(pieces(data), None, kit.messages.append))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert left(kit) == NOTHING

    run(tmp_path, test)


def test_a_layer_that_is_also_removed_with_another_image_stays_for_the_one_that_is_loaded(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await load(kit, make_tar(oci_files(image(BASE), names=["base:1"])))
        reached, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(key: str, diff_id: str) -> None:
            loop.call_soon_threadsafe(reached.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)

        kit.storage.before_apply = wait
        data = make_tar(oci_files(TWO, names=["own:1"]))
        task = asyncio.create_task(archives(kit, tmp_path).load(pieces(data), None, kit.messages.append))
        await reached.wait()
        await kit.images.remove("base:1")
        go_on.set()
        await task
        found = kit.images.get("own:1")
        assert all(kit.content.exists(layer.digest) for layer in TWO.layers)
        assert kit.storage.files(found.chain_id or "")["etc/passwd"] == b"root:x:0:0"

    run(tmp_path, test)
