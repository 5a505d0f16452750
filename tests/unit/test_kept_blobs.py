"""`keep_blobs: until-unpacked`: layers go once they are unpacked, and come back where somebody needs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from scow.config import Config
from scow.engine.manifests import make_manifest, manifest_in_store
from scow.engine.model import Image
from scow.errors import InvalidArgument, NotFound
from scow.oci import OCI_LAYER, Descriptor, chain_ids
from scow.reference import Reference
from scow.testing.fakes_registry import SmallImage, make_tar
from tests.unit.image_kit import BASE, Kit, image, run

UNTIL_UNPACKED = Config(keep_blobs="until-unpacked")


def there(kit: Kit, small: SmallImage) -> list[bool]:
    return [kit.content.exists(layer.digest) for layer in small.layers]


def test_the_layers_of_a_pulled_image_are_kept_by_default(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        assert there(kit, small) == [True, True]

    run(tmp_path, test)


def test_the_layers_go_when_they_are_unpacked_but_manifest_and_config_stay(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(UNTIL_UNPACKED)
        small = image()
        kit.registry.add("library/x", "latest", small)
        pulled = await kit.pull("x")
        assert there(kit, small) == [False, False]
        assert kit.content.exists(small.id)
        assert kit.content.exists(pulled.manifest_digest)
        assert {snapshot.key for snapshot in kit.storage.list()} == set(chain_ids(list(small.diff_ids)))

    run(tmp_path, test)


def test_a_layer_that_another_image_brought_is_not_fetched_again(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(UNTIL_UNPACKED)
        first, second = image(BASE, {"a": "1"}), image(BASE, {"b": "1"})
        kit.registry.add("library/a", "latest", first)
        kit.registry.add("library/b", "latest", second)
        await kit.pull("a")
        await kit.pull("b")
        assert kit.registry.fetched[first.layers[0].digest] == first.layers[0].size_bytes
        assert "Already exists" in kit.statuses()

    run(tmp_path, test)


def test_a_push_fetches_what_the_other_registry_lacks_and_lets_it_go_again(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(UNTIL_UNPACKED)
        small = image()
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        await kit.images.tag("x", Reference.parse("other.example/x:1"))
        await kit.images.push(Reference.parse("other.example/x:1"), progress=kit.messages.append)
        assert set(kit.host.other.blobs("x")) == set(small.blobs)
        assert there(kit, small) == [False, False]

    run(tmp_path, test)


def test_a_push_to_where_it_came_from_fetches_nothing(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(UNTIL_UNPACKED)
        small = image()
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        before = dict(kit.registry.fetched)
        await kit.images.tag("x", Reference.parse("x:2"))
        await kit.images.push(Reference.parse("x:2"), progress=kit.messages.append)
        assert dict(kit.registry.fetched) == before

    run(tmp_path, test)


def test_a_layer_that_no_registry_has_any_more_is_said_to_be_gone(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(UNTIL_UNPACKED)
        small = image()
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        kit.registry.unreachable = True
        await kit.images.tag("x", Reference.parse("other.example/x:1"))
        with pytest.raises(NotFound, match=r"layer sha256:\w+ of image .* was not kept, and cannot be fetched again: "):
            await kit.images.push(Reference.parse("other.example/x:1"), progress=kit.messages.append)

    run(tmp_path, test)


def test_a_crash_before_they_went_is_made_good_by_the_next_start(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        kit.images = kit.again(UNTIL_UNPACKED)
        await kit.images.sweep()
        assert there(kit, small) == [False, False]

    run(tmp_path, test)


def plain_record(kit: Kit, pulled: Image, origins: tuple[str, ...]) -> Image:
    """An image as load and commit make it: its manifest names a plain tar beside the layers of *pulled*."""
    tar = make_tar({"plain": "1"})
    blob = Descriptor(OCI_LAYER, kit.content.put(tar), len(tar))
    manifest = manifest_in_store(kit.content.read(pulled.manifest_digest), pulled.manifest_digest)
    data = make_manifest(manifest.config, [*manifest.layers, blob])
    return msgspec.structs.replace(
        pulled,
        id="sha256:" + "c" * 64,
        manifest_digest=kit.content.put(data),
        diff_ids=(*pulled.diff_ids, blob.digest),
        tags=(),
        digests=(),
        origins=origins,
    )


def test_what_came_from_no_registry_is_kept(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        pulled = await kit.pull("x")
        loaded = plain_record(kit, pulled, origins=())
        await kit.images._store.put(loaded)
        kit.images = kit.again(UNTIL_UNPACKED)
        await kit.images.sweep()
        assert there(kit, small) == [True, True]
        assert kit.content.exists(loaded.diff_ids[-1])

    run(tmp_path, test)


def test_a_layer_that_was_committed_is_kept_and_those_below_it_are_not(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        pulled = await kit.pull("x")
        committed = plain_record(kit, pulled, origins=pulled.origins)
        await kit.images._store.put(committed, tags=["docker.io/library/mine:1"])
        kit.images = kit.again(UNTIL_UNPACKED)
        await kit.images.sweep()
        assert there(kit, small) == [False, False]
        assert kit.content.exists(committed.diff_ids[-1])
        await kit.images.parts.kept.ensure(committed)
        assert there(kit, small) == [True, True]

    run(tmp_path, test)


def test_where_an_image_came_from_is_known_when_its_names_are_gone(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(UNTIL_UNPACKED)
        small = image()
        kit.registry.add("library/x", "latest", small)
        pulled = await kit.pull("x")
        await kit.images.tag("x", Reference.parse("other.example/mine:1"))
        await kit.images._store.untag(pulled, [*pulled.tags, *pulled.digests])
        await kit.images.push(Reference.parse("other.example/mine:1"), progress=kit.messages.append)
        assert set(kit.host.other.blobs("mine")) == set(small.blobs)

    run(tmp_path, test)


def test_a_limit_of_layers_is_kept_and_its_name_is_said(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(replace(Config(), layer_limit=1 << 20))
        small = image(BASE, {"bomb": bytes(5 << 20)})
        assert small.layers[1].size_bytes < 100_000
        kit.registry.add("library/x", "latest", small)
        with pytest.raises(InvalidArgument, match="unpacks to more than 1048576 bytes") as caught:
            await kit.pull("x")
        assert "layer_limit" in (caught.value.hint or "")
        assert kit.storage.list() == []
        assert kit.images.list() == []
        kit.images = kit.again(Config())
        fetched = dict(kit.registry.fetched)
        await kit.pull("x")
        assert kit.registry.fetched == fetched  # the blobs were good, and are used again

    run(tmp_path, test)
