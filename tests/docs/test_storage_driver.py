"""The driver of docs/tutorials/storage-driver.md: installed from its page, put to the kit, and used by an engine."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "tutorials" / "storage-driver.md"
NAME = "scow-storage-copy"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the files of the page, which an interpreter that has it on its path takes for installed."""
    folder = tmp_path / "package"
    for block in blocks(PAGE):
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == NAME
    metadata = folder / f"{NAME.replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.root
def test_it_keeps_the_promises_of_the_kit(package: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_copy.py"]
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


@pytest.mark.root
def test_containers_run_on_it(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package))
    daemon = Daemon(tmp_path / "engine", drivers={"storage": "copy"})
    try:
        daemon.start()
        daemon.import_busybox()
        assert daemon.out("run", "--network", "none", "--rm", "busybox", "echo", "it works") == "it works"
        assert daemon.out("info", "--format", "{{.Driver}}") == "copy"
        (line,) = [line for line in daemon.api("GET", "/scow/v1/plugins")[1] if line["name"] == "copy"]
        assert (line["distribution"], line["state"]) == (NAME, "ready")
        daemon.cleanup()
    finally:
        daemon.stop()


def test_it_is_typed_and_formatted(package: Path) -> None:
    for command in (["ruff", "check", "--isolated", "--line-length", "120"], ["mypy", "--strict"]):
        done = subprocess.run(
            [sys.executable, "-m", *command, "scow_storage_copy/__init__.py"],
            cwd=package,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
