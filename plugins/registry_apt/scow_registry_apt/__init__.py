"""Images built on demand from the host's own package mirror: ``apt.local/nginx``."""

from __future__ import annotations

from scow_registry_apt.driver import AptBackend

__all__ = ["AptBackend"]
