"""Scow: a container engine for Linux on a microkernel of plugins."""

from __future__ import annotations

__version__ = "0.1.0"
