"""Bounded container logs, read from the monitor's own segments."""

from __future__ import annotations

from scow_log_local.driver import LocalLog, NoLog

__all__ = ["LocalLog", "NoLog"]
