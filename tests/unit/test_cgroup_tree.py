"""Groups below a container's, as many and as deep as it likes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scow.linux import cgroup_tree
from scow.linux.hierarchies import Hierarchies
from scow_runtime_oci import cgroup

DEEP = 3000  # over Python's stack, and twice PATH_MAX


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A tree of one branch, too deep for any path."""
    top = tmp_path / "container"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("abc", dir_fd=here)
        below = os.open("abc", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return top


def test_a_tree_that_is_too_deep_for_a_path_is_removed(deep: Path) -> None:
    assert cgroup_tree.processes(str(deep)) == []
    before = os.listdir("/proc/self/fd")
    assert cgroup_tree.remove(str(deep))
    assert not deep.exists()
    assert os.listdir("/proc/self/fd") == before


def test_a_runtime_program_s_container_with_such_a_tree_is_emptied_and_removed(deep: Path) -> None:
    hierarchies = Hierarchies({"freezer": str(deep.parent)})
    cgroup.empty(hierarchies, deep.name)
    cgroup.remove(hierarchies, deep.name)
    assert not deep.exists()


def test_frozen_groups_are_thawed_at_every_depth(tmp_path: Path) -> None:
    for path in ("", "a", "a/b"):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "freezer.state").write_text("FROZEN")
    (tmp_path / "c").mkdir()  # on its way out: its file is gone
    cgroup_tree.thaw(str(tmp_path))
    assert {file.read_text() for file in tmp_path.rglob("freezer.state")} == {"THAWED"}


def test_processes_are_found_however_far_down_they_hide(tmp_path: Path) -> None:
    for number, path in enumerate(("", "a", "a/b", "c")):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.procs").write_text(f"{number + 1}\n{number + 11}\n")
    assert sorted(cgroup_tree.processes(str(tmp_path))) == [1, 2, 3, 4, 11, 12, 13, 14]


def test_a_group_that_is_in_use_stays_and_the_others_go(tmp_path: Path) -> None:
    for path in ("a/b", "c", "d/e/f"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/b/held").touch()  # as a process would
    assert not cgroup_tree.remove(str(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/b", "a/b/held"]


def test_what_is_not_there_is_removed_and_has_no_process(tmp_path: Path) -> None:
    assert cgroup_tree.remove(str(tmp_path / "none")) and cgroup_tree.processes(str(tmp_path / "none")) == []
