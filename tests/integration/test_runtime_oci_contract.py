"""The conformance kit on runtime programs: runc and crun where they are installed, and our own scow-runtime."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from scow.ports import DriverContext
from scow.ports.runtime import Runtime
from scow.testing.runtime import RuntimeContract
from scow_runtime_oci import OciRuntime

SCOW_RUNTIME = Path(sys.executable).with_name("scow-runtime")


def runtime_of(tmp_path: Path, name: str, **options: Any) -> OciRuntime:
    """The runtime *name* in an engine of this process."""
    context = DriverContext(
        name, tmp_path / "state", tmp_path / "run", {"command": name} | options, engine=f"test-{os.getpid()}"
    )
    context.run_dir.mkdir()
    return OciRuntime(context)


@pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")
class TestRunc(RuntimeContract):
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        return runtime_of(tmp_path, "runc")


@pytest.mark.skipif(shutil.which("crun") is None, reason="needs crun")
class TestCrun(RuntimeContract):
    """It refuses a host with both versions of control groups: there it runs where version 2 is not mounted."""

    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        return runtime_of(tmp_path, "crun", hide_unified=True)


@pytest.mark.skipif(not SCOW_RUNTIME.exists(), reason=f"needs {SCOW_RUNTIME.name} beside the interpreter")
class TestScowRuntime(RuntimeContract):
    """The command scow-runtime, whose code the native runtime has without any program."""

    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        return runtime_of(tmp_path, "scow", command=str(SCOW_RUNTIME))
