"""The guard itself: it sees what a careless test would leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import leaks

pytestmark = pytest.mark.root


def test_a_forgotten_mount_and_process_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "WAIT_S", 0.3)
    before = leaks.take(tmp_path)
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={}, cwd=folder)
    try:
        found = leaks.left(before, tmp_path)
        assert f"mount: {folder}" in found
        assert any(line.startswith(f"process: {process.pid} ") for line in found)
    finally:
        process.kill()
        process.wait()
        subprocess.run(["umount", str(folder)], check=True)
    remaining = [line for line in leaks.left(before, tmp_path) if str(tmp_path) in line or str(process.pid) in line]
    assert remaining == []


def test_a_process_is_ours_by_its_environment(tmp_path: Path) -> None:
    mark = {leaks.MARK: os.environ[leaks.MARK]}
    process = subprocess.Popen([sys.executable, "-c", "input()"], env=mark, stdin=subprocess.PIPE, cwd="/")
    try:
        deadline = time.monotonic() + 5  # for a moment after execve the kernel shows no environment
        while not leaks.belongs(process.pid, tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert leaks.belongs(process.pid, tmp_path)
        assert not leaks.belongs(os.getppid(), tmp_path) or leaks.MARK in leaks.read(Path("/proc/self/environ"))
    finally:
        process.communicate(b"\n")
