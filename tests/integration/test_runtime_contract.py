"""The conformance kit on the native runtime, with either version of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scow.linux.hierarchies import Hierarchies, detect_host
from scow.ports import DriverContext
from scow.ports.runtime import Runtime
from scow.testing.runtime import RuntimeContract
from scow_runtime_native import NativeRuntime


def context(tmp_path: Path) -> DriverContext:
    return DriverContext("native", tmp_path / "state", tmp_path / "run", engine=f"test-{os.getpid()}")


class TestNativeRuntime(RuntimeContract):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        return NativeRuntime(context(tmp_path))


class TestNativeRuntimeOnVersion2(RuntimeContract):
    """Where the host also has version 2 mounted beside version 1: without controllers, but all the rest is real."""

    @pytest.fixture
    def hierarchies(self) -> Hierarchies:
        found = detect_host()
        if found.version != "hybrid":
            pytest.skip("the host has not both versions: the other class tests the one it has")
        return Hierarchies({}, found.v2, found.v2_controllers)

    @pytest.fixture
    def has_limits(self, hierarchies: Hierarchies) -> bool:
        return {"memory", "pids"} <= hierarchies.v2_controllers

    @pytest.fixture
    def runtime(self, tmp_path: Path, hierarchies: Hierarchies) -> Runtime:
        return NativeRuntime(context(tmp_path), hierarchies)
