"""Pulls from a registry that misbehaves: each ends with a clear error, nothing refers to what is broken, and the next
pull succeeds and asks only for what is not there."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.oci import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from scow.ports.registry import Manifest
from scow.testing.fakes_registry import FileTree, SmallImage, make_image, make_index
from tests.daemon import DOCKER
from tests.faulty_registry import NOBODY, Fault, Registry, big_manifest, loop_index, serving, spoilt
from tests.integration.pull_lab import Lab, noise, two_layers

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI to clean up")]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry
        registry.release()


@pytest.fixture(scope="module")
def engine(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("faults") / "engine", registry, layer_limit="24m")
    lab.daemon.start()
    try:
        yield lab
    finally:
        lab.daemon.cleanup()


@pytest.fixture
def lab(engine: Lab) -> Iterator[Lab]:
    """The engine without images, at a registry without faults."""
    yield engine
    engine.registry.faults, engine.registry.auth, engine.registry.ranges = [], "", True
    for id in engine.images():
        engine.daemon.api("DELETE", f"/images/{id}?force=1")
    engine.registry.manifests.clear()
    engine.registry.blobs.clear()


BLOB = "GET /v2/app/blobs/"
ALWAYS = 10_000
FAULTS = {
    "a wrong digest": (Fault(BLOB, change=spoilt), "digest mismatch"),
    "fewer bytes than announced": (Fault(BLOB, change=lambda data: data[:-1]), "broke off|ended after"),
    "more bytes before the right ones": (Fault(BLOB, change=lambda data: b"x" + data), "digest mismatch"),
    "a connection that drops": (Fault(BLOB, cut=100_000), "broke off at byte"),
    "a connection that is reset": (Fault(BLOB, cut=100_000, reset=True), "broke off at byte|reset"),
    "silence instead of an answer": (Fault(BLOB, hang=True), "does not answer"),
    "silence in the middle": (Fault(BLOB, cut=100_000, hang=True), "broke off at byte"),
    "429 for ever": (Fault(BLOB, 429, {"Retry-After": "0"}), "(?i)too many requests|429"),
    "503 for ever": (Fault(BLOB, 503), "503"),
    "a Content-Length that is too small": (Fault(BLOB, length=-5000), "broke off at byte"),
    "a Content-Length that is too large": (Fault(BLOB, length=5000), "digest mismatch|broke off at byte"),
    "a blob that is not there": (Fault(BLOB, 404), "(?i)not found|404|unknown"),
    "silence instead of a manifest": (Fault("GET /v2/app/manifests/", hang=True), "does not answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_registry_does_wrong_is_said_and_leaves_nothing(lab: Lab, fault: str) -> None:
    what, message = FAULTS[fault]
    image = two_layers(1 + list(FAULTS).index(fault))
    large = image.layers[1].digest
    lab.registry.add("app", "1", image)
    match = what.match if "manifests" in what.match else BLOB + large
    lab.registry.faults = [
        Fault(match, what.status, what.headers, cut=what.cut, times=ALWAYS, hang=what.hang, reset=what.reset)
        if what.change is None and not what.length
        else Fault(match, change=what.change, length=what.length, times=ALWAYS)
    ]
    begun = time.monotonic()
    error = lab.pull("app:1")
    if fault == "a Content-Length that is too large" and not error:
        return  # all of the blob came, and it was right
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert time.monotonic() - begun < 25
    lab.nothing_is_half_made()
    lab.registry.faults = []
    good, before = lab.check_blobs(), dict(lab.registry.sent)
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", image)
    assert all(lab.registry.sent[digest] == before.get(digest, 0) for digest in good)  # it is used again


def test_a_registry_that_answers_401_for_ever_is_given_up(lab: Lab) -> None:
    image = two_layers(40)
    lab.registry.add("app", "1", image)
    lab.registry.auth = "never"
    asked = len(lab.registry.asked)
    assert re.search("(?i)unauthorized|authentication required", lab.pull("app:1"))
    assert len(lab.registry.asked) - asked < 20
    lab.nothing_is_half_made()
    lab.registry.auth = ""
    assert lab.pull("app:1") == ""


def test_a_tag_that_moves_meanwhile_gives_one_image_or_the_other(lab: Lab) -> None:
    first, second = two_layers(41), two_layers(42)
    lab.registry.add("app", "1", first)
    lab.registry.replace("app", "1", second, after=1)
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", first)
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", second)


def test_a_blob_that_is_another_after_a_break_is_fetched_again_from_its_start(lab: Lab) -> None:
    image = two_layers(43)
    lab.registry.add("app", "1", image)
    blob = BLOB + image.layers[1].digest
    lab.registry.faults = [Fault(blob, cut=500_000), Fault(blob, change=spoilt)]
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", image)


def test_a_manifest_of_100_mb_is_refused_before_it_is_read(lab: Lab) -> None:
    lab.registry.add_manifest("app", "1", OCI_MANIFEST, big_manifest())
    begun = time.monotonic()
    assert "longer than" in lab.pull("app:1")
    assert time.monotonic() - begun < 10
    lab.nothing_is_half_made()


def test_an_index_that_lists_itself_is_refused(lab: Lab) -> None:
    lab.registry.add_manifest("app", "1", OCI_INDEX, loop_index(), NOBODY)
    assert re.search("verification failed|no matching manifest|digest", lab.pull("app:1"))
    lab.nothing_is_half_made()


def test_indexes_of_indexes_come_to_an_end(lab: Lab) -> None:
    image = two_layers(44)
    lab.registry.add("app", "inner", image)
    index = make_index(image)
    for depth in range(6):
        lab.registry.add_manifest("app", "1" if depth == 5 else f"depth{depth}", OCI_INDEX, index.data)
        nested = SmallImage(index, image.config, image.layers, image.diff_ids, image.blobs, image.platform)
        index = make_index(nested)
    assert "indexes of indexes" in lab.pull("app:1")
    lab.nothing_is_half_made()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", device: tuple[int, int] = (0, 0)) -> FileTree:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, link
    info.devmajor, info.devminor = device
    return {name: info}


ESCAPES: dict[str, FileTree] = {
    "dots": member("../../escaped"),
    "dots in the middle": member("a/../../../escaped"),
    "an absolute path": member("/escaped-absolutely"),
    "a file below a device": {**member("disk", tarfile.BLKTYPE, device=(8, 0)), "disk/escaped": "x"},
    "through a link": {**member("out", tarfile.SYMTYPE, "/"), **member("out/escaped-by-link")},
    "a hard link to the outside": member("passwd", tarfile.LNKTYPE, "../../../../../../etc/passwd"),
    "a hard link that is not there": member("passwd", tarfile.LNKTYPE, "/nowhere/passwd"),
    "a whiteout of the outside": {"a/../../.wh.etc": ""},
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_layer_that_tries_to_escape_changes_nothing_outside(lab: Lab, escape: str) -> None:
    image = make_image({"etc/": None}, ESCAPES[escape])
    lab.registry.add("app", "1", image)
    error = lab.pull("app:1")
    if escape in ("through a link", "an absolute path"):  # inside the root, as a process there sees it
        assert error == ""
    else:
        assert re.search("malicious layer|malformed layer|layer member", error), error
        lab.nothing_is_half_made()
    assert not Path("/escaped-by-link").exists()
    assert not Path("/escaped-absolutely").exists()
    found = [os.path.join(folder, "escaped") for folder, _, files in os.walk(lab.data) if "escaped" in files]
    assert found == []


def test_a_bomb_is_stopped_at_the_limit(lab: Lab) -> None:
    image = make_image({"etc/": None}, {"zeros": bytes(40 << 20)})
    assert image.layers[1].size_bytes < 1 << 20
    lab.registry.add("app", "1", image)
    error = lab.pull("app:1")
    assert f"unpacks to more than {24 << 20} bytes" in error
    lab.nothing_is_half_made()


def test_a_stream_that_is_damaged_inside_is_refused_although_its_digest_is_right(lab: Lab) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = packer.compress(noise(300_000, 3)) + packer.flush()
    damaged = data[:100_000] + bytes(50) + data[100_050:]
    lab.registry.add("app", "1", with_layer(make_image({"a": "1"}), damaged))
    assert re.search("damaged|malformed|malicious", lab.pull("app:1"))
    lab.nothing_is_half_made()


def test_a_layer_that_is_not_what_its_config_says_is_refused(lab: Lab) -> None:
    other = make_image({"other": "1"})
    lab.registry.add("app", "1", with_layer(make_image({"a": "1"}), other.blobs[other.layers[0].digest]))
    assert re.search(r"unpacks to sha256:\w+, its config says", lab.pull("app:1"))
    lab.nothing_is_half_made()


def with_layer(image: SmallImage, blob: bytes) -> SmallImage:
    """*image* with *blob* in the place of its only layer, its config as before."""
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    layer = Descriptor(OCI_LAYER_GZIP, digest, len(blob))
    data = image.manifest.data.replace(image.layers[0].digest.encode(), digest.encode())
    data = data.replace(b'"size": %d}]' % image.layers[0].size_bytes, b'"size": %d}]' % len(blob))
    manifest_digest = "sha256:" + hashlib.sha256(data).hexdigest()
    manifest = Manifest(Descriptor(OCI_MANIFEST, manifest_digest, len(data)), data)
    blobs = {image.config.digest: image.blobs[image.config.digest], digest: blob}
    return SmallImage(manifest, image.config, (layer,), image.diff_ids, blobs, image.platform)
