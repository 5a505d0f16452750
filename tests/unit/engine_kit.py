"""Fake network drivers as entry points name them: classes that take one `DriverContext`."""

from __future__ import annotations

from scow.ports import DriverContext
from scow.testing.fakes_network import FakeNetworkDriver, FakeShapingDriver


class FakeBridge(FakeShapingDriver):
    """Named ``bridge``."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__()


class FakeNone(FakeNetworkDriver):
    """Named ``none``."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__()


class FakeHost(FakeNetworkDriver):
    """Named ``host``."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__(sandbox="host")
