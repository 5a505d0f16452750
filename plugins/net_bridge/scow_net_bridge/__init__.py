"""Container networks: ``bridge``, ``host`` and ``none``."""

from scow_net_bridge.driver import BridgeDriver
from scow_net_bridge.plain import HostDriver, NoneDriver

__all__ = ["BridgeDriver", "HostDriver", "NoneDriver"]
