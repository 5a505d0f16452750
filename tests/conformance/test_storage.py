"""The storage drivers that come with Scow keep the promises of their kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scow.ports import DriverContext
from scow.testing.storage import StorageContract
from scow_storage_overlay import OverlayDriver, VfsDriver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.root


def context(name: str, folder: Path) -> DriverContext:
    """What a driver of an engine of its own is told."""
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    return DriverContext(name, state, folder, engine="kit")


class TestOverlay(StorageContract):
    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], OverlayDriver]:
        return lambda: OverlayDriver(context("overlay", tmp_path))


class TestVfs(StorageContract):
    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], VfsDriver]:
        return lambda: VfsDriver(context("vfs", tmp_path))
