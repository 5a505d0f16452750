"""What pulling an image costs at least: its blobs fetched by curl, verified by sha256sum and inflated by igzip, over
all processors, and nothing unpacked; and what Scow takes for it, with a storage driver that drops what it is given.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from scow.ports import DriverContext
from scow.ports.storage import Usage
from scow.testing.fakes_storage import FakeStorage
from scow_registry_dockerhub import DistributionBackend
from tests.unit.image_kit import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_READ_BYTES = 1 << 20


def missing() -> str:
    """The first tool of the floor that this host has not; ``""`` where it has all."""
    return next((tool for tool in ("curl", "sha256sum", "igzip") if shutil.which(tool) is None), "")


def floor_s(host: str, repository: str, digests: Sequence[str], folder: Path) -> float:
    """Seconds for the blobs *digests* of a plain-HTTP registry."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        names = [digest.partition(":")[2] for digest in digests]
        wanted = [
            word
            for digest, name in zip(digests, names, strict=True)
            for word in ("-o", f"{scratch}/{name}", f"http://{host}/v2/{repository}/blobs/{digest}")
        ]
        begun = time.perf_counter()
        subprocess.run(["curl", "-sSf", "--parallel", *wanted], check=True, stderr=subprocess.DEVNULL)
        # the larger ones first: no processor is left alone with the largest
        ordered = sorted(names, key=lambda name: -Path(scratch, name).stat().st_size)
        steps = [f"igzip -dc {scratch}/{name} | sha256sum" for name in ordered]
        steps += [f"sha256sum {scratch}/{name}" for name in ordered]
        with ThreadPoolExecutor(os.cpu_count()) as processors:
            list(processors.map(_shell, steps))
        return time.perf_counter() - begun


def _shell(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)


class _Dropping(FakeStorage):
    """Reads each layer to its end, and keeps no bytes of it."""

    def apply(
        self,
        key: str,
        parent: str | None,
        diff_id: str,
        layer: BinaryIO,
        parent_ready: Callable[[], None] | None = None,
    ) -> Usage:
        while layer.read(_READ_BYTES):
            pass
        return super().apply(key, parent, diff_id, cast("BinaryIO", _Empty()), parent_ready)


class _Empty:
    def read(self, size: int = -1) -> bytes:
        return b"\0" * 1024


def download_s(ref: str, folder: Path) -> float:
    """Seconds of a pull of *ref* from a plain-HTTP registry on loopback that unpacks nothing."""

    async def body() -> float:
        async with opened(Path(scratch)) as kit:
            context = DriverContext("dockerhub", Path(scratch), Path(scratch))
            kit.host.registry = DistributionBackend(context)  # type: ignore[assignment]
            kit.host.storage = _Dropping()
            begun = time.perf_counter()
            await kit.pull(ref)
            return time.perf_counter() - begun

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        return asyncio.run(body())
