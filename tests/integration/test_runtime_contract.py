"""The conformance kit on the native runtime."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scow.ports import DriverContext
from scow.ports.runtime import Runtime
from scow.testing.runtime import RuntimeContract
from scow_runtime_native import NativeRuntime


class TestNativeRuntime(RuntimeContract):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        return NativeRuntime(
            DriverContext("native", tmp_path / "state", tmp_path / "run", engine=f"test-{os.getpid()}")
        )
