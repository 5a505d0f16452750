"""The network driver for unit tests keeps the promises of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scow.errors import Unavailable
from scow.ports.network import Network
from scow.testing.fakes_network import FakeNetworkDriver, FakeShapingDriver
from scow.testing.network import NetworkContract, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable


class TestFakeNetworkDriver(NetworkContract):
    @pytest.fixture
    def make_driver(self) -> Callable[[], FakeNetworkDriver]:
        return FakeNetworkDriver

    @pytest.fixture
    def touches_kernel(self) -> bool:
        return False


class TestFakeShapingDriver(TestFakeNetworkDriver):
    @pytest.fixture
    def make_driver(self) -> Callable[[], FakeNetworkDriver]:
        return FakeShapingDriver


def test_it_fails_once_as_told_and_lists_its_calls() -> None:
    driver = FakeNetworkDriver(fail=Unavailable("no"))
    network = driver.create(Network("a" * 64, "front", "fake"))
    with pytest.raises(Unavailable):
        driver.attach(network, endpoint(1), "")
    driver.attach(network, endpoint(1), "")
    assert [name for name, _ in driver.calls] == ["create", "attach", "attach"]
