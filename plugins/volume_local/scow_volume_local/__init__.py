"""The ``local`` volume driver: one folder a volume."""

from __future__ import annotations

from scow_volume_local.driver import LocalVolumes

__all__ = ["LocalVolumes"]
