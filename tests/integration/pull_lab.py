"""What tests of broken pulls share: a scowd, a registry of our own, and a look at what a pull left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scow.testing.fakes_registry import FileTree, SmallImage, make_image
from tests.daemon import Daemon
from tests.faulty_registry import Registry

QUICK: dict[str, Any] = {"timeout_s": 0.3, "retry_pause_s": 0.01}


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def two_layers(seed: int = 1, size: int = 3 << 20) -> SmallImage:
    """A small layer and one of *size* bytes of noise."""
    base: FileTree = {"etc/": None, "etc/name": f"base {seed}"}
    return make_image(base, {f"noise{n}": noise(size // 8, seed * 100 + n) for n in range(8)})


class Lab:
    """*daemon* pulls from *registry*."""

    def __init__(self, root: Path, registry: Registry, **config: Any) -> None:
        options = {"registry.dockerhub": QUICK}
        self.registry = registry
        self.daemon = Daemon(root, options=options, **config)
        self.data = Path(str(self.daemon.config["data_root"]))

    def pull(self, name: str) -> str:
        """The error that ended the pull of *name* (``app:1``), or nothing."""
        repository, _, tag = name.partition(":")
        path = f"/images/create?fromImage={self.registry.host}/{repository}&tag={tag}"
        status, answer = self.daemon.api("POST", path)
        if status != 200:
            return str(answer["message"])
        if isinstance(answer, dict):
            lines = [answer]
        else:
            lines = [json.loads(line) for line in answer.decode().splitlines() if line]
        return str(lines[-1].get("error", ""))

    def images(self) -> list[str]:
        """The ids of what is listed."""
        return [image["Id"] for image in self.daemon.api("GET", "/images/json?all=1")[1]]

    def is_whole(self, name: str, image: SmallImage) -> bool:
        """Whether the image *name* is *image*, by its id, and can be looked into layer by layer."""
        status, answer = self.daemon.api("GET", f"/images/{self.registry.host}/{name}/json")
        return status == 200 and answer["Id"] == image.id and answer["RootFS"]["Layers"] == list(image.diff_ids)

    def snapshots(self) -> list[str]:
        """The directories of what is unpacked."""
        folder = self.data / "storage" / "overlay" / "s"
        return sorted(os.listdir(folder)) if folder.exists() else []  # the driver is loaded when it is first needed

    def check_blobs(self) -> set[str]:
        """The digests in the content store, each of which is that of its bytes."""
        found: set[str] = set()
        folder = self.data / "content" / "blobs" / "sha256"
        for path in folder.iterdir() if folder.exists() else ():  # it may have been killed before it made one
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, f"blob {path.name} is damaged"
            found.add("sha256:" + path.name)
        return found

    def nothing_is_half_made(self) -> None:
        """No image, no snapshot, and no blob that is wrong."""
        assert self.images() == []
        assert wait_until(lambda: self.snapshots() == []), self.snapshots()
        self.check_blobs()

    def forget_image(self, name: str) -> None:
        """The image *name* is gone."""
        assert self.daemon.api("DELETE", f"/images/{self.registry.host}/{name}?force=1")[0] == 200


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> bool:
    """Whether *condition* came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Callable[[int], None]]:
    """A tmpfs at *folder* that what is yielded makes larger."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)], check=True)

    def grow(more: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={more}m", str(folder)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", str(folder)], check=True)
