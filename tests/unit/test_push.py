"""Pushes: layers that are kept as plain tars travel compressed, once made; all others go as they came."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.config import Config
from scow.engine.manifests import with_layers
from scow.engine.model import Image
from scow.errors import Corrupt, InvalidArgument, NotFound, Unauthorized, Unavailable
from scow.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from scow.reference import Reference
from scow.testing.fakes_registry import SmallImage
from tests.unit.image_kit import BASE, BIG, Kit, image, run

ZSTD = Config(push_compression="zstd")


async def plain_image(kit: Kit, small: SmallImage | None = None, name: str = "plain") -> Image:
    """An image whose layers the store has as plain tars, with a manifest that no registry serves by that name."""
    kit.registry.add_index(f"library/{name}", "latest", small or image(BASE, BIG, compression="none"))
    return await kit.pull(name)


async def push(kit: Kit, source: str, target: str) -> dict[str, Any]:
    """Pushes *source* as *target*; the manifest that the registry has then."""
    await kit.images.tag(source, Reference.parse(target))
    await kit.images.push(Reference.parse(target), progress=kit.messages.append)
    served = kit.host.other.resolve(Reference.parse(target), None, lambda line: None)
    document: dict[str, Any] = json.loads(served.data)
    return document


def layers(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(layer["mediaType"], layer["digest"]) for layer in document["layers"]]


@pytest.mark.parametrize(
    ("config", "media_type"), [(Config(), OCI_LAYER_GZIP), (ZSTD, OCI_LAYER_ZSTD)], ids=["gzip", "zstd"]
)
def test_plain_layers_are_pushed_compressed(tmp_path: Path, config: Config, media_type: str) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(config)
        before = await plain_image(kit)
        pushed = await push(kit, "plain", "other.example/mine:1")
        assert [kind for kind, _ in layers(pushed)] == [media_type, media_type]
        assert pushed["layers"][1]["size"] < 100_000
        await kit.images.remove("plain")
        await kit.images.remove("other.example/mine:1")
        again = await kit.pull("other.example/mine:1")
        assert (again.id, again.diff_ids) == (before.id, before.diff_ids)
        assert len(kit.storage.files(again.chain_id or "")) == len({**BASE, **BIG})

    run(tmp_path, test)


def test_a_second_push_compresses_nothing(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        plain = await plain_image(kit)
        first = await push(kit, "plain", "other.example/one:1")
        for diff_id in plain.diff_ids:
            kit.content.delete(diff_id)  # what is not there cannot be compressed
        kit.images = kit.again()
        assert await push(kit, "plain", "other.example/two:1") == first

    run(tmp_path, test)


def test_a_push_that_fails_later_has_compressed_for_the_next(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BIG, compression="none")
        plain = await plain_image(kit, small)

        def fail(digest: str, offset: int) -> None:
            if digest != plain.id:
                raise Unavailable("the connection was lost")

        kit.host.other.before_write = fail
        with pytest.raises(Unavailable, match="was lost"):
            await push(kit, "plain", "other.example/mine:1")
        kit.host.other.before_write = None
        kit.content.delete(plain.diff_ids[0])
        await push(kit, "plain", "other.example/mine:1")

    run(tmp_path, test)


def test_a_layer_that_came_compressed_with_another_image_is_sent_as_it_came(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        base = image(BASE)
        kit.registry.add("library/base", "latest", base)
        await kit.pull("base")
        await plain_image(kit)
        pushed = await push(kit, "plain", "other.example/mine:1")
        assert layers(pushed)[0] == (OCI_LAYER_GZIP, base.layers[0].digest)

    run(tmp_path, test)


def test_a_manifest_that_a_registry_serves_is_pushed_unchanged(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BASE, compression="none")
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        pushed = await push(kit, "x", "other.example/mine:1")
        assert digest_of(json.dumps(pushed).encode()) == small.manifest.descriptor.digest

    run(tmp_path, test)


def test_the_pushed_digest_names_the_image(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        plain = await plain_image(kit)
        await push(kit, "plain", "other.example/mine:1")
        served = kit.host.other.resolve(Reference.parse("other.example/mine:1"), None, lambda line: None)
        digest = served.descriptor.digest
        assert digest != plain.manifest_digest
        assert kit.images.get(f"other.example/mine@{digest}").id == plain.id
        assert f"1: digest: {digest} size: {served.descriptor.size_bytes}" in kit.statuses()

    run(tmp_path, test)


def test_nobody_compresses_for_a_registry_that_refuses(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit)
        kit.host.other.users = {"me": "secret"}
        there = set(kit.content.list())
        with pytest.raises(Unauthorized):
            await push(kit, "plain", "other.example/mine:1")
        assert set(kit.content.list()) == there

    run(tmp_path, test)


def test_what_was_compressed_goes_with_its_last_image(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit)
        await plain_image(kit, image(BASE, {"other": "1"}, compression="none"), "second")
        await push(kit, "plain", "other.example/mine:1")
        await kit.images.remove("plain")
        await kit.images.remove("other.example/mine:1")
        pushed = await push(kit, "second", "other.example/mine:2")
        assert kit.content.exists(layers(pushed)[0][1])
        await kit.images.remove("second")
        await kit.images.remove("other.example/mine:2")
        assert list(kit.content.list()) == []
        assert kit.state.load("compressed-layer") == []

    run(tmp_path, test)


def test_what_was_compressed_survives_the_collector(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit)
        pushed = await push(kit, "plain", "other.example/mine:1")
        for digest in kit.content.list():
            os.utime(kit.content.path(digest), (0, 0))
        kit.images = kit.again()
        await kit.images.sweep()
        assert all(kit.content.exists(digest) for _, digest in layers(pushed))

    run(tmp_path, test)


def test_a_damaged_plain_layer_is_not_pushed(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        plain = await plain_image(kit)
        path = kit.content.path(plain.diff_ids[1])
        data = bytearray(path.read_bytes())
        data[600] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt, match="is damaged"):
            await push(kit, "plain", "other.example/mine:1")
        with pytest.raises(Exception, match="manifest unknown"):
            kit.host.other.resolve(Reference.parse("other.example/mine:1"), None, lambda line: None)

    run(tmp_path, test)


def test_a_layer_is_mounted_from_the_repository_of_another_image(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.host.other.add("base", "1", image(BASE))
        await kit.pull("other.example/base:1")
        await plain_image(kit)
        await push(kit, "plain", "other.example/mine:1")
        assert kit.statuses().count("Layer already exists") == 1

    run(tmp_path, test)


def test_a_layer_that_occurs_twice_is_sent_once(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        plain = await plain_image(kit, image(BASE, BASE, compression="none"))
        pushed = await push(kit, "plain", "other.example/mine:1")
        assert len(plain.diff_ids) == len(layers(pushed)) == 2
        assert len([call for call in kit.host.other.calls if call[0] == "push_blob"]) == 2  # with the config

    run(tmp_path, test)


def test_a_cancelled_push_stops_sending(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit, image({"big": os.urandom(4 << 20)}, compression="none"))
        sending, go_on = threading.Event(), threading.Event()
        senders: list[threading.Thread] = []

        def before_write(digest: str, offset: int) -> None:
            if offset > 1 << 20:
                senders.append(threading.current_thread())
                sending.set()
                assert go_on.wait(10)

        kit.host.other.before_write = before_write
        task = asyncio.create_task(push(kit, "plain", "other.example/mine:1"))
        await asyncio.to_thread(sending.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(senders[0].join, 10)
        assert not senders[0].is_alive()
        assert len(kit.host.other.blobs("mine")) == 1  # the config

    run(tmp_path, test)


def test_a_docker_manifest_stays_one_unless_a_layer_is_zstd() -> None:
    digest = "sha256:" + "a" * 64
    data = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "digest": digest, "size": 2},
            "layers": [{"mediaType": DOCKER_LAYER, "digest": digest, "size": 9}],
        }
    ).encode()
    kept = with_layers(data, [Descriptor(OCI_LAYER_GZIP, digest, 5)])
    assert kept.descriptor.media_type == DOCKER_MANIFEST
    assert json.loads(kept.data)["layers"][0]["mediaType"] == DOCKER_LAYER_GZIP
    turned = with_layers(data, [Descriptor(DOCKER_LAYER_GZIP, digest, 5), Descriptor(OCI_LAYER_ZSTD, digest, 5)])
    document = json.loads(turned.data)
    assert document["mediaType"] == turned.descriptor.media_type == OCI_MANIFEST
    assert document["config"]["mediaType"] == OCI_CONFIG
    assert [layer["mediaType"] for layer in document["layers"]] == [OCI_LAYER_GZIP, OCI_LAYER_ZSTD]


def ingests(kit: Kit) -> int:
    return len(list((kit.content.root / "ingest").iterdir()))


async def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class Held:
    """A progress sink that holds up the compression of a layer, which `begun` tells, until `release`."""

    def __init__(self) -> None:
        self.begun, self.statuses = threading.Event(), list[str]()
        self._go_on = threading.Event()

    def __call__(self, message: dict[str, Any]) -> None:
        self.statuses.append(message.get("status", ""))
        if message.get("status") == "Compressing":
            self.begun.set()
            assert self._go_on.wait(10)

    def release(self) -> None:
        self._go_on.set()


def test_a_cancelled_push_stops_compressing_and_leaves_nothing(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit, image({"big": os.urandom(8 << 20)}, compression="none"))
        await kit.images.tag("plain", Reference.parse("other.example/mine:1"))
        there, held = set(kit.content.list()), Held()
        task = asyncio.create_task(kit.images.push(Reference.parse("other.example/mine:1"), progress=held))
        await asyncio.to_thread(held.begun.wait, 10)
        await until(lambda: ingests(kit) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.release()
        await until(lambda: ingests(kit) == 0)
        assert set(kit.content.list()) == there

    run(tmp_path, test)


def test_two_pushes_of_a_layer_compress_it_once(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit, image(BIG, compression="none"))
        first, second = Held(), Held()
        pushes = []
        for target, sink in (("other.example/one:1", first), ("other.example/two:1", second)):
            await kit.images.tag("plain", Reference.parse(target))
            pushes.append(asyncio.create_task(kit.images.push(Reference.parse(target), progress=sink)))
            await asyncio.to_thread(first.begun.wait, 10)
        await until(lambda: "Preparing" in second.statuses)
        await asyncio.sleep(0.05)  # time enough to begin wrongly
        second.release()
        first.release()
        await asyncio.gather(*pushes)
        assert "Compressing" in first.statuses
        assert "Compressing" not in second.statuses

    run(tmp_path, test)


def test_an_image_for_another_platform_is_not_pushed(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        small = image(BASE, platform=Platform("linux", "amd64"))
        kit.registry.add("library/plain", "latest", small)
        await kit.pull("plain", platform="linux/amd64")
        target = Reference.parse("other.example/mine:1")
        await kit.images.tag("plain", target)
        for platform in ("linux/arm64", '{"os":"linux","architecture":"arm64","variant":"v8"}'):
            with pytest.raises(NotFound, match=r"does not match the specified platform: wanted linux/arm64"):
                await kit.images.push(target, progress=kit.messages.append, platform=platform)
        with pytest.raises(InvalidArgument, match="invalid platform"):
            await kit.images.push(target, progress=kit.messages.append, platform='{"os":3}')
        assert kit.host.other.calls == []
        await kit.images.push(target, progress=kit.messages.append, platform='{"os":"linux","architecture":"amd64"}')

    run(tmp_path, test)


def test_plain_layers_of_a_pushed_image_are_kept_though_others_are_not(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(Config(keep_blobs="until-unpacked"))
        plain = await plain_image(kit)
        await push(kit, "plain", "other.example/mine:1")
        kit.images = kit.again(Config(keep_blobs="until-unpacked", push_compression="zstd"))
        await kit.images.sweep()
        assert all(kit.content.exists(diff_id) for diff_id in plain.diff_ids)
        pushed = await push(kit, "plain", "other.example/mine:2")
        assert [kind for kind, _ in layers(pushed)] == [OCI_LAYER_ZSTD, OCI_LAYER_ZSTD]

    run(tmp_path, test)


def test_a_layer_that_was_not_kept_is_fetched_again_to_be_pushed(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        kit.images = kit.again(Config(keep_blobs="until-unpacked"))
        small = image(BASE)
        kit.registry.add("library/x", "latest", small)
        await kit.pull("x")
        assert not kit.content.exists(small.layers[0].digest)
        pushed = await push(kit, "x", "other.example/mine:1")
        assert layers(pushed) == [(OCI_LAYER_GZIP, small.layers[0].digest)]

    run(tmp_path, test)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor compresses one layer at a time")
def test_layers_are_compressed_side_by_side(tmp_path: Path) -> None:
    async def test(kit: Kit) -> None:
        await plain_image(kit)
        both = threading.Barrier(2, timeout=10)
        begun: set[str] = set()

        def meet(message: dict[str, Any]) -> None:
            if message.get("status") == "Compressing" and message["id"] not in begun:
                begun.add(message["id"])
                both.wait()

        await kit.images.tag("plain", Reference.parse("other.example/mine:1"))
        await kit.images.push(Reference.parse("other.example/mine:1"), progress=meet)
        assert len(begun) == 2

    run(tmp_path, test)
