"""A named volume that is a bind of a folder: mounted once while it is held, and never removed with its volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from scow.ports import DriverContext
from scow_volume_local import LocalVolumes

pytestmark = pytest.mark.root


def mounts_at(path: str) -> int:
    return sum(line.split()[4] == path for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("kept")
    return folder


def make(tmp_path: Path, folder: Path) -> LocalVolumes:
    driver = LocalVolumes(DriverContext("local", tmp_path / "volumes", tmp_path / "run"))
    driver.create("bound", {"type": "none", "o": "bind", "device": str(folder)}, {})
    return driver


def test_a_bound_folder_is_mounted_once_and_unmounted_by_its_last_holder(tmp_path: Path, folder: Path) -> None:
    driver = make(tmp_path, folder)
    at = str(driver.mount("bound", "one"))
    assert str(driver.mount("bound", "two")) == at
    assert (Path(at) / "file").read_text() == "kept"
    assert mounts_at(at) == 1
    driver.unmount("bound", "one")
    assert mounts_at(at) == 1
    driver.unmount("bound", "two")
    assert mounts_at(at) == 0
    driver.remove("bound")
    assert (folder / "file").read_text() == "kept"


def test_a_removed_volume_leaves_the_folder_that_a_killed_engine_left_mounted(tmp_path: Path, folder: Path) -> None:
    at = str(make(tmp_path, folder).mount("bound", "one"))
    driver = LocalVolumes(DriverContext("local", tmp_path / "volumes", tmp_path / "run"))  # who held it is not known
    assert mounts_at(at) == 1
    driver.remove("bound")
    assert mounts_at(at) == 0
    assert (folder / "file").read_text() == "kept"
