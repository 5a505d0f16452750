"""The OCI distribution protocol: Docker Hub and any registry that speaks it."""

from __future__ import annotations

from scow_registry_dockerhub.driver import DistributionBackend

__all__ = ["DistributionBackend"]
