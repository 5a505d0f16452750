"""Storage for Scow: `OverlayDriver`, and `VfsDriver` as the fallback that needs no kernel support."""

from __future__ import annotations

from scow_storage_overlay.overlay import OverlayDriver
from scow_storage_overlay.vfs import VfsDriver

__all__ = ["OverlayDriver", "VfsDriver"]
