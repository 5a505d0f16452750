"""The network drivers that come with Scow keep the promises of their kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scow.ports import DriverContext
from scow.testing.network import NetworkContract
from scow_net_bridge import BridgeDriver, HostDriver, NoneDriver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.root


def context(name: str, folder: Path) -> DriverContext:
    """What a driver of an engine of its own is told."""
    settings = {"bridge": "kit0", "subnet_pool": "10.77.0.0/16", "nft_table": "kit"}
    return DriverContext(name, folder, folder, settings=settings, engine="kit")


class TestBridge(NetworkContract):
    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], BridgeDriver]:
        return lambda: BridgeDriver(context("bridge", tmp_path))


class TestHost(NetworkContract):
    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], HostDriver]:
        return lambda: HostDriver(context("host", tmp_path))

    @pytest.fixture
    def has_addresses(self) -> bool:
        return False


class TestNone(NetworkContract):
    @pytest.fixture
    def make_driver(self, tmp_path: Path) -> Callable[[], NoneDriver]:
        return lambda: NoneDriver(context("none", tmp_path))

    @pytest.fixture
    def has_addresses(self) -> bool:
        return False
