"""What the tests of the distribution client share: an image on a registry of our own, and one-line requests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from scow.ports import DriverContext
from scow.ports.registry import Credentials
from scow.reference import Reference
from scow.testing.fakes_registry import make_image
from scow_registry_dockerhub import DistributionBackend
from tests.faulty_registry import Registry

IMAGE = make_image({"etc/": None, "etc/noise": bytes(range(256)) * 8000}, compression="none")
LAYER = IMAGE.layers[0]
BLOB = IMAGE.blobs[LAYER.digest]
USER = Credentials("tester", "hunter2")


def make_backend(folder: Path, **options: Any) -> DistributionBackend:
    return DistributionBackend(DriverContext("dockerhub", folder, folder, {"retry_pause_s": 0.01, **options}))


def reference(registry: Registry, text: str = "library/app:1") -> Reference:
    return Reference.parse(f"{registry.host}/{text}")


def resolve(backend: DistributionBackend, ref: Reference, who: Credentials | None = None) -> bytes:
    return backend.resolve(ref, who, lambda line: None).data


def read(backend: DistributionBackend, ref: Reference, offset: int = 0, who: Credentials | None = None) -> bytes:
    with backend.fetch(ref, LAYER, who, offset) as stream:
        return stream.read()


def push(backend: DistributionBackend, ref: Reference, who: Credentials | None = None, **more: Any) -> tuple[bool, int]:
    sent: list[int] = []
    new = backend.push_blob(ref, LAYER, lambda: io.BytesIO(BLOB), who, sent.append, **more)
    return new, sum(sent)
