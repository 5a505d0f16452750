"""scowd is killed, refused or starved of disk while it pushes: the next push sends what is missing, and no more."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.testing.fakes_registry import SmallImage, make_image, make_index
from tests.daemon import DOCKER
from tests.faulty_registry import Fault, Registry, serving
from tests.integration.pull_lab import Lab, noise, small_disk, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI to clean up")]

MIB = 1 << 20
UPLOAD = "PUT /v2/mine/blobs/uploads/"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry
        registry.release()


@pytest.fixture
def lab(registry: Registry, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "engine", registry)
    lab.daemon.start()
    try:
        yield lab
    finally:
        end(lab)


def end(lab: Lab) -> None:
    lab.registry.faults, lab.registry.auth = [], ""
    lab.registry.release()
    if lab.daemon.process is None:
        lab.daemon.start()
    lab.daemon.cleanup()


def bring(lab: Lab, image: SmallImage) -> SmallImage:
    """*image*, of plain layers, is here as ``mine:1``, by a manifest that no tag names."""
    lab.registry.add("app", "", image)
    index = make_index(image)
    lab.registry.add_manifest("app", "1", index.descriptor.media_type, index.data)
    assert lab.pull("app:1") == ""
    lab.daemon.api("POST", f"/images/{lab.registry.host}/app:1/tag?repo={lab.registry.host}/mine&tag=1")
    return image


def two_plain_layers() -> SmallImage:
    return make_image(
        {"words": b"some words " * 20_000, "noise": noise(2 * MIB, 1)}, {"b": noise(MIB, 2)}, compression="none"
    )


def push(lab: Lab) -> tuple[str, list[str]]:
    """The error that ended the push of ``mine:1``, or nothing; and the statuses that were told."""
    status, answer = lab.daemon.api("POST", f"/images/{lab.registry.host}/mine/push?tag=1")
    if status != 200:
        return str(answer["message"]), []
    lines = [json.loads(line) for line in answer.decode().splitlines() if line]
    return str(lines[-1].get("error", "")), [line.get("status", "") for line in lines]


def kill_during(lab: Lab, pushing: threading.Thread) -> None:
    lab.daemon.stop(signal.SIGKILL)
    pushing.join(30)
    lab.registry.faults = []
    lab.registry.release()
    lab.daemon.start()


def begin(lab: Lab) -> threading.Thread:
    """A push under way; what becomes of it is not asked."""

    def run() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            push(lab)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def ingests(lab: Lab) -> list[Path]:
    return list((lab.data / "content" / "ingest").iterdir())


def is_pushed(lab: Lab, image: SmallImage) -> None:
    """What the registry has as ``mine:1`` is *image*: an engine that has nothing of it gets it whole."""
    for name in ("app:1", "mine:1"):
        lab.forget_image(name)
    assert lab.images() == []
    assert lab.pull("mine:1") == ""
    assert lab.is_whole("mine:1", image)


def test_a_push_after_a_kill_sends_only_what_the_registry_lacks(lab: Lab) -> None:
    image = bring(lab, two_plain_layers())
    lab.registry.faults = [Fault(UPLOAD, hang=True, after=2, times=99)]  # the config, a layer; then silence
    pushing = begin(lab)
    assert wait_until(lambda: lab.registry.count(UPLOAD) >= 3)
    kill_during(lab, pushing)
    before = lab.registry.count(UPLOAD)
    error, statuses = push(lab)
    assert error == ""
    assert lab.registry.count(UPLOAD) == before + 1
    assert (statuses.count("Pushed"), statuses.count("Layer already exists")) == (1, 1)
    assert "Compressing" not in statuses
    is_pushed(lab, image)


def test_a_kill_while_a_layer_is_compressed_leaves_no_blob_that_is_wrong(lab: Lab) -> None:
    data = noise(MIB, 7)
    image = bring(lab, make_image({f"f{n}": data[n:] + data[:n] for n in range(64)}, compression="none"))
    pushing = begin(lab)
    assert wait_until(lambda: ingests(lab))
    kill_during(lab, pushing)
    lab.check_blobs()
    assert push(lab)[0] == ""
    lab.check_blobs()
    is_pushed(lab, image)


def test_an_upload_that_breaks_off_goes_on_where_it_was(lab: Lab) -> None:
    image = bring(lab, make_image({"noise": noise(2 * MIB, 3)}, compression="none"))
    lab.registry.faults = [Fault(UPLOAD, take=MIB, after=1)]
    assert push(lab)[0] == ""
    uploads = [len(asked.body) for asked in lab.registry.asked if asked.line.startswith((UPLOAD, "PATCH /v2/mine"))]
    assert sum(uploads) < 2.2 * MIB
    is_pushed(lab, image)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("/v2/mine/", 429, {"Retry-After": "3600"}, times=99), "429"),
        (Fault("/v2/mine/", 503, times=99), "503"),
        (Fault(UPLOAD, 403, after=1, times=99), "push access denied"),
        (Fault("PUT /v2/mine/manifests/", 400, times=99), "400"),
        (Fault(UPLOAD, take=1000, after=1, times=99), "was lost"),
    ],
    ids=["too many requests", "unavailable", "forbidden", "manifest refused", "drops every upload"],
)
def test_a_registry_that_does_not_take_it_is_told_and_the_next_push_succeeds(lab: Lab, fault: Fault, said: str) -> None:
    image = bring(lab, two_plain_layers())
    lab.registry.keeps_partial = False
    lab.registry.faults = [fault]
    error, _ = push(lab)
    assert said in error
    assert ("mine", "1") not in lab.registry.manifests
    assert wait_until(lambda: ingests(lab) == [])
    lab.registry.faults = []
    assert push(lab)[0] == ""
    is_pushed(lab, image)


def test_a_registry_that_refuses_every_token_is_given_up_before_anything_is_compressed(lab: Lab) -> None:
    image = bring(lab, two_plain_layers())
    before = lab.check_blobs()
    lab.registry.auth = "never"
    error, statuses = push(lab)
    assert "denied" in error
    assert "Compressing" not in statuses
    assert lab.check_blobs() == before
    lab.registry.auth = ""
    assert push(lab)[0] == ""
    is_pushed(lab, image)


def test_a_disk_that_is_full_while_a_layer_is_compressed_is_said_and_given_back(
    registry: Registry, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64) as grow:
        lab = Lab(tmp_path / "engine", registry, data_root=str(tmp_path / "disk" / "data"))
        lab.daemon.start()
        try:
            image = bring(lab, make_image({"noise": noise(24 * MIB, 5)}, compression="none"))
            fill = tmp_path / "disk" / "fill"
            fill.write_bytes(b"x" * 6 * MIB)
            error, _ = push(lab)
            assert f"cannot compress layer {image.diff_ids[0]}: no space left on device" in error
            assert ingests(lab) == []
            grow(160)
            assert push(lab)[0] == ""
            is_pushed(lab, image)
        finally:
            end(lab)
