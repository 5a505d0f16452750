"""scowd's side of zygote, monitors and attached clients, in one place to import from."""

from __future__ import annotations

from scow.engine.attach_stream import AttachStream
from scow.engine.monitor_connection import MonitorConnection, ProcessId
from scow.engine.zygote import Zygote

__all__ = ["AttachStream", "MonitorConnection", "ProcessId", "Zygote"]
