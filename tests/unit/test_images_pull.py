from __future__ import annotations

from pathlib import Path

import pytest

from scow.errors import Corrupt, InvalidArgument, NotFound, ScowError
from scow.oci import Platform, chain_ids, digest_of
from scow.ports.registry import Credentials
from scow.testing.fakes_registry import SmallImage
from tests.unit.image_kit import BASE, BIG, Kit, image, run


def test_a_pull_brings_blobs_snapshots_and_a_record(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(config={"Cmd": ["/app"], "Labels": {"a": "b"}})
        kit.registry.add("library/nginx", "latest", small)
        pulled = await kit.pull("nginx")
        assert pulled.id == small.id
        assert pulled.tags == ("docker.io/library/nginx:latest",)
        assert pulled.digests == (f"docker.io/library/nginx@{small.manifest.descriptor.digest}",)
        assert pulled.config.config.cmd == ["/app"]
        assert pulled.chain_id == chain_ids(list(small.diff_ids))[-1]
        assert kit.storage.files(pulled.chain_id or "")["app"] == b"1"
        assert pulled.size_bytes == sum(pulled.layer_sizes) > 0
        assert all(kit.content.exists(digest) for digest in (*small.blobs, pulled.manifest_digest))
        for ref in ("nginx", "docker.io/library/nginx:latest", pulled.id, pulled.id[7:15], pulled.digests[0]):
            assert kit.images.get(ref) == pulled
        assert kit.again().get("nginx") == pulled
        assert ("pull", "nginx:latest") in kit.actions()

    run(tmp_path, test)


def test_the_messages_are_dockers(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/nginx", "1.0", small)
        await kit.pull("nginx:1.0")
        assert kit.messages[0] == {"status": "Pulling from library/nginx", "id": "1.0"}
        for layer in small.layers:
            mine = [m["status"] for m in kit.messages if m.get("id") == layer.digest[7:19]]
            assert mine[0] == "Pulling fs layer"
            assert mine.index("Download complete") < mine.index("Pull complete")
        assert kit.statuses()[-2:] == [
            f"Digest: {small.manifest.descriptor.digest}",
            "Status: Downloaded newer image for nginx:1.0",
        ]

    run(tmp_path, test)


def test_a_second_pull_is_up_to_date_and_fetches_nothing(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/nginx", "latest", image())
        await kit.pull("nginx")
        kit.registry.calls.clear()
        await kit.pull("nginx")
        assert kit.statuses()[-1] == "Status: Image is up to date for nginx:latest"
        assert [call[0] for call in kit.registry.calls] == ["resolve"]

    run(tmp_path, test)


def test_shared_layers_exist_already(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/a", "latest", image(BASE, {"a": "1"}))
        kit.registry.add("library/b", "latest", image(BASE, {"b": "1"}))
        await kit.pull("a")
        fetched = sum(kit.registry.fetched.values())
        await kit.pull("b")
        assert "Already exists" in kit.statuses()
        base = image(BASE, {"a": "1"}).layers[0]
        assert kit.registry.fetched[base.digest] == base.size_bytes
        assert fetched > 0

    run(tmp_path, test)


def test_a_moved_tag_leaves_the_old_image_without_it(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/nginx", "latest", image(BASE))
        old = await kit.pull("nginx")
        kit.registry.add("library/nginx", "latest", image(BASE, {"new": "1"}))
        new = await kit.pull("nginx")
        assert kit.images.get("nginx") == new
        assert kit.images.get(old.id).tags == ()
        assert [found.id for found in kit.images.list(filters={"dangling": ["true"]})] == [old.id]

    run(tmp_path, test)


def test_an_index_is_searched_for_the_platform(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        here = image(platform=Platform("linux", "amd64"))
        arm = image({"arm": "1"}, platform=Platform("linux", "arm", "v6"))
        index = kit.registry.add_index("library/multi", "latest", here, arm)
        pulled = await kit.pull("multi", platform="linux/amd64")
        assert pulled.id == here.id
        assert pulled.digests == (f"docker.io/library/multi@{index.descriptor.digest}",)
        assert (await kit.pull("multi", platform="linux/arm/v7")).id == arm.id
        with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
            await kit.pull("multi", platform="linux/s390x")

    run(tmp_path, test)


def test_a_single_manifest_of_another_platform_is_refused_when_one_was_asked_for(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/one", "latest", image(platform=Platform("linux", "s390x")))
        with pytest.raises(NotFound, match="does not match the specified platform: wanted linux/arm64"):
            await kit.pull("one", platform="linux/arm64")
        assert (await kit.pull("one")).config.architecture == "s390x"

    run(tmp_path, test)


def test_a_pull_by_digest_gives_no_tag(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/nginx", "latest", small)
        pulled = await kit.pull(f"nginx@{small.manifest.descriptor.digest}")
        assert pulled.tags == ()
        assert kit.images.get(f"nginx@{small.manifest.descriptor.digest}") == pulled

    run(tmp_path, test)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_every_compression_is_unpacked(tmp_path: Path, compression: str) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", image(compression=compression))
        pulled = await kit.pull("x")
        assert kit.storage.files(pulled.chain_id or "")["app"] == b"1"

    run(tmp_path, test)


def test_a_wrong_layer_is_corrupt_and_nothing_is_half_made(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BASE, BIG)
        kit.registry.add("library/x", "latest", small)
        kit.registry.serve_wrong(small.layers[1].digest, times=9)
        with pytest.raises(Corrupt, match="digest mismatch"):
            await kit.pull("x")
        assert kit.images.list() == []
        assert kit.storage.list() == []
        assert not kit.content.exists(small.layers[1].digest)

    run(tmp_path, test)


def test_a_wrong_manifest_is_corrupt(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image()
        kit.registry.add("library/x", "latest", small)
        kit.registry.serve_wrong(small.manifest.descriptor.digest, times=9)
        with pytest.raises(Corrupt, match="manifest verification failed"):
            await kit.pull("x")

    run(tmp_path, test)


def test_a_wrong_diff_id_is_corrupt_and_leaves_no_snapshot(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        good, bad = image(BASE), image({"other": "1"})
        lying = SmallImage(good.manifest, good.config, good.layers, good.diff_ids, dict(good.blobs), good.platform)
        raw = good.blobs[good.id].replace(good.diff_ids[0].encode(), bad.diff_ids[0].encode())
        manifest = good.manifest.data.replace(good.id.encode(), digest_of(raw).encode())
        kit.registry.add("library/x", "latest", lying)
        held = kit.registry._repositories["library/x"]
        held.blobs[digest_of(raw)] = raw
        descriptor = type(good.manifest.descriptor)(good.manifest.descriptor.media_type, digest_of(manifest), 0)
        kit.registry._put(held, "latest", type(good.manifest)(descriptor, manifest))
        with pytest.raises(Corrupt, match="unpacks to"):
            await kit.pull("x")
        assert kit.storage.list() == []

    run(tmp_path, test)


def test_a_missing_tag_is_not_found(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        with pytest.raises(NotFound, match="manifest for nginx:nope not found: manifest unknown"):
            await kit.pull("nginx:nope")
        assert kit.images.list() == []

    run(tmp_path, test)


def test_the_backend_that_wants_the_host_gets_it(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.host.other.add("x", "latest", image())
        kit.host.other.build_lines = ["building", "done"]
        pulled = await kit.pull("other.example/x")
        assert pulled.tags == ("other.example/x:latest",)
        assert kit.registry.calls == []
        assert "building" in kit.statuses()

    run(tmp_path, test)


def test_credentials_of_the_request_come_before_those_of_a_plugin(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", image())
        kit.registry.users = {"me": "secret"}
        with pytest.raises(ScowError, match="authentication required"):
            await kit.pull("x")
        kit.host.credentials = Credentials("me", "secret")
        await kit.pull("x")
        with pytest.raises(ScowError, match="authentication required"):
            await kit.pull("x", credentials=Credentials("me", "wrong"))

    run(tmp_path, test)


def test_all_tags_are_pulled(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        for tag in ("1", "2"):
            kit.registry.add("library/x", tag, image({"version": tag}))
        await kit.pull("x", all_tags=True)
        assert sorted(tag for found in kit.images.list() for tag in found.tags) == [
            "docker.io/library/x:1",
            "docker.io/library/x:2",
        ]

    run(tmp_path, test)


def test_a_malformed_platform_is_an_invalid_argument(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        with pytest.raises(InvalidArgument):
            await kit.pull("x", platform="a/b/c/d")

    run(tmp_path, test)


def test_a_sweep_takes_what_a_crash_left(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.registry.add("library/x", "latest", image())
        kept = await kit.pull("x")
        orphan = kit.content.put(b"nobody's")
        kit.registry.add("library/y", "latest", image({"y": "1"}))
        gone = await kit.pull("y")
        await kit.images._store.delete(gone)
        swept = await kit.images.sweep(age_s=-1)
        assert orphan in swept
        assert gone.chain_id in swept
        assert kit.content.exists(kept.manifest_digest)
        assert {snapshot.key for snapshot in kit.storage.list()} == set(chain_ids(list(kept.diff_ids)))

    run(tmp_path, test)
