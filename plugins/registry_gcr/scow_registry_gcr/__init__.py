"""Credentials for Google Artifact Registry and gcr.io."""

from __future__ import annotations

from scow_registry_gcr.plugin import GcrCredentials

__all__ = ["GcrCredentials"]
