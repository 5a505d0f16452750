"""Credentials for Amazon's Elastic Container Registry, private and public."""

from __future__ import annotations

from scow_registry_ecr.plugin import EcrCredentials

__all__ = ["EcrCredentials"]
