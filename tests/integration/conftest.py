"""Fixtures of the integration tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.ports import DriverContext
from scow.testing.runtime import Lab
from scow_runtime_native import NativeRuntime


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Containers of the native runtime, in an engine of their own, gone after the test."""
    context = DriverContext("native", tmp_path / "state", tmp_path / "run", engine=f"test-{os.getpid()}")
    lab = Lab(NativeRuntime(context), tmp_path)
    try:
        yield lab
    finally:
        lab.close()
