"""scowd is killed, cancelled or starved of disk while it pulls: what came is used again, and nothing is half made."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scow.testing.fakes_registry import FileTree, SmallImage, make_image
from tests.daemon import DOCKER
from tests.faulty_registry import Fault, Registry, serving
from tests.integration.pull_lab import Lab, noise, small_disk, two_layers, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI to clean up")]

MIB = 1 << 20


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
        if lab.daemon.process is None:
            lab.daemon.start()
        lab.daemon.cleanup()


def begin(lab: Lab, name: str = "app:1") -> threading.Thread:
    """A pull under way; what becomes of it is not asked."""

    def pull() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            lab.pull(name)

    thread = threading.Thread(target=pull, daemon=True)
    thread.start()
    return thread


def kill(lab: Lab, pull: threading.Thread, ending: signal.Signals = signal.SIGKILL) -> None:
    lab.daemon.stop(ending)
    pull.join(30)
    lab.registry.release()
    lab.registry.released.clear()
    lab.registry.faults, lab.registry.rate_bytes_s = [], None


def sent(lab: Lab, image: SmallImage) -> int:
    return sum(lab.registry.sent[layer.digest] for layer in image.layers)


def size(image: SmallImage) -> int:
    return sum(layer.size_bytes for layer in image.layers)


def large_image(mebibytes: int = 48) -> SmallImage:
    """One layer that comes in ranges."""
    data = noise(MIB, 7)
    files: FileTree = {f"f{n}": data[n:] + data[:n] for n in range(mebibytes)}
    return make_image(files, compression="none")


def many_files() -> SmallImage:
    """A layer that takes a while to unpack, and one over it."""
    return make_image({f"d{n % 20}/f{n}": f"{n}" for n in range(6000)}, {"over": "1"})


def unpacking(lab: Lab) -> bool:
    """Whether files of a layer are on disk that is not whole."""
    stage = lab.data / "storage" / "overlay" / "stage"
    return any(len(os.listdir(made)) and any((made / "diff").iterdir()) for made in stage.glob("new-*"))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_restart_at_90_percent_no_more_than_15_percent_come_again(lab: Lab, ending: signal.Signals) -> None:
    image = large_image()
    lab.registry.add("app", "1", image)
    lab.registry.rate_bytes_s = 6 * MIB  # of each connection: the buffers between us hold next to nothing
    pull = begin(lab)
    assert wait_until(lambda: sent(lab, image) >= 0.9 * size(image), 30)
    kill(lab, pull, ending)
    before = sent(lab, image)
    lab.daemon.start()
    assert lab.images() == []
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", image)
    assert sent(lab, image) - before <= 0.15 * size(image)
    lab.check_blobs()


def test_after_a_client_went_away_at_90_percent_no_more_than_15_percent_come_again(lab: Lab) -> None:
    image = large_image()
    lab.registry.add("app", "1", image)
    lab.registry.rate_bytes_s = 12 * MIB
    command = [str(DOCKER), "-H", f"unix://{lab.daemon.socket}", "pull", f"{lab.registry.host}/app:1"]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: sent(lab, image) >= 0.9 * size(image), 30)
    finally:
        client.kill()
        client.wait()
    assert wait_until(lambda: lab.registry.sending == 0)
    before = sent(lab, image)
    lab.registry.rate_bytes_s = None
    assert lab.pull("app:1") == ""
    assert sent(lab, image) - before <= 0.15 * size(image)


STAGES: dict[str, tuple[Callable[[SmallImage], Fault | None], Callable[[Lab, SmallImage], bool]]] = {
    "while the manifest is asked for": (
        lambda image: Fault("/manifests/", hang=True),
        lambda lab, image: lab.registry.count("/manifests/") > 0,
    ),
    "while the config is asked for": (
        lambda image: Fault(f"/blobs/{image.config.digest}", hang=True),
        lambda lab, image: lab.registry.count(image.config.digest) > 0,
    ),
    "while a layer comes": (
        lambda image: Fault(f"/blobs/{image.layers[0].digest}", cut=20_000, hang=True),
        lambda lab, image: lab.registry.sent[image.layers[0].digest] >= 20_000 and unpacking(lab),
    ),
    "while a layer is unpacked": (lambda image: None, lambda lab, image: unpacking(lab)),
    "when a layer is unpacked, and another is not": (
        lambda image: Fault(f"/blobs/{image.layers[1].digest}", hang=True),
        lambda lab, image: len(lab.snapshots()) == 1,
    ),
    "when all is unpacked": (lambda image: None, lambda lab, image: len(lab.snapshots()) == 2),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_stage_leaves_nothing_half_made(lab: Lab, stage: str) -> None:
    image = many_files()
    fault, reached = STAGES[stage]
    lab.registry.add("app", "1", image)
    lab.registry.faults = [found] if (found := fault(image)) is not None else []
    pull = begin(lab)
    assert wait_until(lambda: reached(lab, image), 30)
    kill(lab, pull)
    before = dict(lab.registry.sent)
    whole = lab.check_blobs()
    lab.daemon.start()
    if lab.images():
        assert lab.is_whole("app:1", image)
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", image)
    assert all(lab.registry.sent[digest] == before.get(digest, 0) for digest in whole)
    assert len(lab.snapshots()) == 2
    assert lab.check_blobs() == {*image.blobs, image.manifest.descriptor.digest}
    assert wait_until(lambda: os.listdir(lab.data / "content" / "ingest") == [])


def test_kills_at_random_moments_of_a_pull_come_to_a_good_end(lab: Lab) -> None:
    choose = random.Random(5)
    layers: list[FileTree] = [{f"l{n}/f{m}": noise(30_000, n * 100 + m) for m in range(60)} for n in range(4)]
    image = make_image(*layers)
    lab.registry.add("app", "1", image)
    for _ in range(5):
        lab.registry.rate_bytes_s = 6 * MIB
        pull = begin(lab)
        time.sleep(choose.uniform(0.0, 0.5))
        kill(lab, pull)
        lab.check_blobs()
        lab.daemon.start()
        assert lab.images() == [] or lab.is_whole("app:1", image)
    assert lab.pull("app:1") == ""
    assert lab.is_whole("app:1", image)
    assert len(lab.snapshots()) == 4


def test_kills_at_random_moments_of_removals_leave_what_is_needed_and_nothing_else(lab: Lab) -> None:
    choose = random.Random(6)
    base: FileTree = {f"base{n}": noise(2000, n) for n in range(50)}
    images = {f"app{n}:1": make_image(base, {f"own{n}": f"{n}"}, {f"top{n}": f"{n}"}) for n in range(6)}
    for name, image in images.items():
        lab.registry.add(name.partition(":")[0], "1", image)
        assert lab.pull(name) == ""
    names = list(images)
    for _ in range(3):
        removal = threading.Thread(target=remove, args=(lab, names[:3]), daemon=True)
        removal.start()
        time.sleep(choose.uniform(0.0, 0.02))
        lab.daemon.stop(signal.SIGKILL)
        removal.join(10)
        lab.daemon.start()
        for name in names[3:]:
            assert lab.is_whole(name, images[name])
    remove(lab, names[:3])
    for id in set(lab.images()) - {images[name].id for name in names[3:]}:  # killed when only its name was gone
        assert lab.daemon.api("DELETE", f"/images/{id}")[0] == 200
    needed = {digest for name in names[3:] for digest in images[name].blobs}
    assert needed <= lab.check_blobs()
    assert wait_until(lambda: len(lab.snapshots()) == 7), lab.snapshots()  # the base, and two for each image
    for name in names[:3]:
        assert lab.pull(name) == ""
        assert lab.is_whole(name, images[name])
    assert len(lab.snapshots()) == 13


def remove(lab: Lab, names: list[str]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        for name in names:
            lab.daemon.api("DELETE", f"/images/{lab.registry.host}/{name}?force=1")


def test_two_clients_share_one_transfer(lab: Lab) -> None:
    image = two_layers(50, 6 * MIB)
    lab.registry.add("app", "1", image)
    lab.registry.rate_bytes_s = 12 * MIB
    errors: list[str] = []
    pulls = [threading.Thread(target=lambda: errors.append(lab.pull("app:1"))) for _ in range(3)]
    for pull in pulls:
        pull.start()
    for pull in pulls:
        pull.join(30)
    assert errors == ["", "", ""]
    assert sent(lab, image) == size(image)


def test_a_disk_that_is_full_while_a_blob_comes_is_said_and_given_back(registry: Registry, tmp_path: Path) -> None:
    good, large = two_layers(60, MIB), large_image(48)
    registry.add("good", "1", good)
    registry.add("app", "1", large)
    with small_disk(tmp_path / "disk", 32) as grow:
        lab = Lab(tmp_path / "engine", registry, data_root=str(tmp_path / "disk" / "data"))
        lab.daemon.start()
        try:
            assert lab.pull("good:1") == ""
            assert "no space left on device" in lab.pull("app:1")
            assert len(lab.images()) == 1
            assert wait_until(lambda: len(lab.snapshots()) == 2)
            assert os.listdir(lab.data / "content" / "ingest") == []
            lab.check_blobs()
            lab.forget_image("good:1")
            assert lab.pull("good:1") == ""  # there is room to go on with
            grow(160)
            assert lab.pull("app:1") == ""
            assert lab.is_whole("app:1", large)
        finally:
            lab.daemon.cleanup()


def test_a_disk_that_is_full_while_a_layer_is_unpacked_keeps_the_blobs(registry: Registry, tmp_path: Path) -> None:
    image = make_image({"etc/": None}, {f"same{n}": noise(4096, n) * 2048 for n in range(6)})
    registry.add("app", "1", image)
    with small_disk(tmp_path / "disk", 32) as grow:
        lab = Lab(tmp_path / "engine", registry, data_root=str(tmp_path / "disk" / "data"))
        lab.daemon.start()
        try:
            error = lab.pull("app:1")
            assert f"cannot unpack layer {image.layers[1].digest}: no space left on device" in error
            lab.nothing_is_half_made()
            good, before = lab.check_blobs(), dict(registry.sent)
            assert image.layers[1].digest in good
            grow(160)
            assert lab.pull("app:1") == ""
            assert lab.is_whole("app:1", image)
            assert all(registry.sent[digest] == before.get(digest, 0) for digest in good)
        finally:
            lab.daemon.cleanup()


def test_blobs_that_were_let_go_come_back_for_a_save(registry: Registry, tmp_path: Path) -> None:
    image = two_layers(90)
    registry.add("app", "1", image)
    lab = Lab(tmp_path / "engine", registry, keep_blobs="until-unpacked")
    lab.daemon.start()
    try:
        assert lab.pull("app:1") == ""
        assert lab.check_blobs() == {image.id, image.manifest.descriptor.digest}
        archive = str(tmp_path / "saved.tar")
        lab.daemon.docker("save", "-o", archive, f"{registry.host}/app:1")
        with tarfile.open(archive) as tar:
            held = {f"sha256:{name.rpartition('/')[2]}" for name in tar.getnames() if name.startswith("blobs/sha256/")}
        assert held >= set(image.blobs)
        assert wait_until(lambda: lab.check_blobs() == {image.id, image.manifest.descriptor.digest})
    finally:
        lab.daemon.cleanup()


def test_a_pull_takes_no_more_than_80_mebibytes_of_memory(lab: Lab) -> None:
    data = noise(8 * MIB, 70)
    layers: list[FileTree] = [{f"l{n}/f{m}": data[n * 1000 + m :] for m in range(5)} for n in range(3)]
    image = make_image(*layers)
    lab.registry.add("app", "1", image)
    idle = memory(lab.daemon.pid, "VmRSS")
    Path(f"/proc/{lab.daemon.pid}/clear_refs").write_text("5")  # the peak begins here (proc(5))
    assert lab.pull("app:1") == ""
    assert memory(lab.daemon.pid, "VmHWM") - idle < 80 * MIB


def memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def test_a_client_that_goes_away_while_the_registry_hangs_is_in_nobodys_way(lab: Lab) -> None:
    image = two_layers(80)
    lab.registry.add("app", "1", image)
    lab.registry.faults = [Fault(f"/blobs/{image.layers[1].digest}", cut=500_000, hang=True)]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(lab.daemon.socket))
    path = f"/images/create?fromImage={lab.registry.host}/app&tag=1"
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: scow\r\nContent-Length: 0\r\n\r\n".encode())
    assert wait_until(lambda: lab.registry.sent[image.layers[1].digest] >= 500_000)
    connection.close()
    begun = time.monotonic()
    assert lab.pull("app:1") == ""
    assert time.monotonic() - begun < 10
    assert sent(lab, image) < 2 * size(image)  # a registry that is slow today is asked again, too
