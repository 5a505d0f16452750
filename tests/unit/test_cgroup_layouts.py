"""Groups over both versions side by side, paths, and groups that were there before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scow.errors import Conflict, InvalidArgument
from scow.ports import DriverContext
from scow_runtime_native import NativeRuntime
from scow_runtime_native.cgroups import Hierarchies
from scow_runtime_native.cgroups_hybrid import CgroupsHybrid
from scow_runtime_native.cgroups_v1 import CgroupsV1
from scow_runtime_native.cgroups_v2 import CgroupsV2

PATH = "scow/test/c1"
V1 = ("cpu", "memory", "pids", "freezer", "cpuset", "blkio")
HUGE = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}


def fill(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


class Grown(CgroupsV1):
    """Version 1 whose new cpuset groups have their control files, empty, as the kernel's have."""

    def _fill_cpuset(self, directory: str, parent: str) -> None:
        fill(Path(directory), cpuset__cpus="", cpuset__mems="", cgroup__clone_children="0")
        super()._fill_cpuset(directory, parent)


@pytest.fixture
def hybrid(tmp_path: Path) -> tuple[CgroupsHybrid, Path]:
    for name in V1:
        (tmp_path / name).mkdir()
    for folder in ("", "scow", "scow/test"):
        fill(tmp_path / "unified" / folder, cgroup__subtree_control="")
    mounts = {name: str(tmp_path / name) for name in V1 if name != "cpuset"}
    return CgroupsHybrid(Hierarchies(mounts, str(tmp_path / "unified"), frozenset({"hugetlb", "misc"}))), tmp_path


def test_a_hybrid_container_is_not_in_the_unified_hierarchy_without_need(hybrid: tuple[CgroupsHybrid, Path]) -> None:
    manager, root = hybrid
    manager.create(PATH, {})
    assert (root / "memory" / PATH).is_dir() and not (root / "unified" / PATH).exists()
    assert not any("unified" in path for path in manager.join_record(PATH, {})["tasks"])
    manager.delete(PATH)
    assert manager.children("scow/test") == []


def test_a_hybrid_container_joins_the_unified_hierarchy_for_a_limit_that_is_there(
    hybrid: tuple[CgroupsHybrid, Path],
) -> None:
    manager, root = hybrid
    group = fill(root / "unified" / PATH, hugetlb__2MB__max="max")
    fill(root / "memory" / PATH, memory__limit_in_bytes="")
    limits = {**HUGE, "memory": {"limit": 64 << 20}}
    manager.create(PATH, limits)
    assert (group / "hugetlb.2MB.max").read_text() == str(4 << 20)
    assert (root / "memory" / PATH / "memory.limit_in_bytes").read_text() == str(64 << 20)
    record = manager.join_record(PATH, limits)
    assert record["tasks"][-1] == f"{root}/unified/{PATH}/cgroup.procs"
    assert record["hierarchies"][-1] == ["unified", f"{root}/unified/{PATH}"]
    assert manager.children("scow/test") == ["c1"]


def test_a_hybrid_limit_that_is_refused_leaves_no_group_in_either(hybrid: tuple[CgroupsHybrid, Path]) -> None:
    manager, root = hybrid
    with pytest.raises(InvalidArgument, match=r"hugetlb.2MB.max"):
        manager.create(PATH, HUGE)
    assert not any((root / name / PATH).exists() for name in ("unified", "memory", "cpu"))


def test_unified_keys_on_a_hybrid_are_those_of_controllers_that_are_there(hybrid: tuple[CgroupsHybrid, Path]) -> None:
    manager, root = hybrid
    with pytest.raises(InvalidArgument, match="the memory controller is bound to cgroup version 1"):
        manager.create(PATH, {"unified": {"memory.high": "5"}})
    with pytest.raises(InvalidArgument, match="io controller is bound to cgroup version 1"):
        manager.create(PATH, {"unified": {"io.max": "8:0 rbps=5"}})
    group = fill(root / "unified" / PATH, misc__max="", cgroup__max__depth="")
    manager.create(PATH, {"unified": {"misc.max": "res_a 5", "cgroup.max.depth": "2"}})
    assert (group / "misc.max").read_text() == "res_a 5" and (group / "cgroup.max.depth").read_text() == "2"


def test_a_running_hybrid_container_does_not_enter_the_unified_hierarchy_later(
    hybrid: tuple[CgroupsHybrid, Path],
) -> None:
    manager, _ = hybrid
    manager.create(PATH, {})
    with pytest.raises(InvalidArgument, match="started without such a limit"):
        manager.update(PATH, HUGE)


def test_a_refused_hybrid_update_changes_neither(hybrid: tuple[CgroupsHybrid, Path]) -> None:
    manager, root = hybrid
    fill(root / "unified" / PATH)
    memory = fill(root / "memory" / PATH, memory__limit_in_bytes="1000")
    with pytest.raises(InvalidArgument, match=r"hugetlb.2MB.max"):
        manager.update(PATH, {**HUGE, "memory": {"limit": 2000}})
    assert (memory / "memory.limit_in_bytes").read_text() == "1000"


@pytest.mark.parametrize("below", ["", "inner"])
def test_a_group_in_use_is_refused_and_left_alone(tmp_path: Path, below: str) -> None:
    for version, make in (("1", lambda: CgroupsV1(Hierarchies({"pids": str(tmp_path / "1")}))),
                          ("2", lambda: CgroupsV2(Hierarchies({}, str(tmp_path / "2"))))):  # fmt: skip
        group = fill(tmp_path / version / PATH / below, cgroup__procs="1\n")
        fill(tmp_path / version, cgroup__subtree_control="")
        with pytest.raises(Conflict, match=r"in use by 1 other process\(es\), the first is 1"):
            make().create(PATH, {})
        assert group.is_dir()


def test_a_group_that_was_there_stays_where_a_limit_is_refused(tmp_path: Path) -> None:
    group = fill(tmp_path / PATH, cgroup__procs="")
    with pytest.raises(InvalidArgument):
        CgroupsV1(Hierarchies({"pids": str(tmp_path)})).create(PATH, {"pids": {"limit": 3}})
    assert group.is_dir()


def test_a_frozen_group_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / PATH, freezer__state="FROZEN\n")
    with pytest.raises(Conflict, match="is frozen"):
        CgroupsV1(Hierarchies({"freezer": str(tmp_path)})).create(PATH, {})


def test_a_cpuset_group_has_cpus_where_its_parent_hands_none_down(tmp_path: Path) -> None:
    fill(tmp_path, cpuset__cpus="0-3\n", cpuset__mems="0\n")
    manager = Grown(Hierarchies({"cpuset": str(tmp_path)}))
    manager.create(PATH, {})
    assert (tmp_path / PATH / "cpuset.cpus").read_text() == "0-3"
    assert (tmp_path / PATH / "cpuset.mems").read_text() == "0"
    assert (tmp_path / "scow" / "cgroup.clone_children").read_text() == "1"
    assert (tmp_path / PATH / "cgroup.clone_children").read_text() == "0"


def bundle(cgroups_path: str, resources: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "process": {"args": ["/bin/true"]},
        "linux": {"namespaces": [{"type": "mount"}], "cgroupsPath": cgroups_path, "resources": resources or {}},
    }


@pytest.fixture
def runtime(tmp_path: Path) -> tuple[NativeRuntime, Path]:
    context = DriverContext("native", tmp_path / "state", tmp_path / "run", engine="e")
    (tmp_path / "pids").mkdir()
    return NativeRuntime(context, Hierarchies({"pids": str(tmp_path / "pids")})), tmp_path


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("", "scow/e/c1"),
        ("/", "scow/e/c1"),
        ("/pod/web", "pod/web"),
        ("pod/web", "scow/e.paths/pod/web"),
        ("/../../pod", "pod"),
        ("../../pod", "scow/e.paths/pod"),
        ("/a:b:c", "a:b:c"),
    ],
)
def test_a_cgroup_path_is_absolute_or_below_the_engines(
    runtime: tuple[NativeRuntime, Path], asked: str, path: str
) -> None:
    driver, root = runtime
    made = driver.create("c1", bundle(asked), [], root)
    assert made["cgroup"]["tasks"] == [f"{root}/pids/{path}/tasks"]
    assert (root / "pids" / path).is_dir()
    assert driver.exec("c1", bundle(asked), {"args": ["x"]})["cgroup"]["tasks"] == made["cgroup"]["tasks"]
    driver.delete("c1")
    assert not (root / "pids" / path).exists() and driver.list() == []


def test_a_path_for_systemd_is_refused_with_the_reason(runtime: tuple[NativeRuntime, Path]) -> None:
    driver, root = runtime
    with pytest.raises(InvalidArgument, match="'system.slice:scow:c1' has systemd's form") as caught:
        driver.create("c1", bundle("system.slice:scow:c1"), [], root)
    assert "cgroup driver is cgroupfs" in str(caught.value.hint)


def test_a_container_that_was_refused_is_not_listed(runtime: tuple[NativeRuntime, Path]) -> None:
    driver, root = runtime
    with pytest.raises(InvalidArgument):
        driver.create("c1", bundle("/pod/web", {"cpu": {"shares": 5}}), [], root)
    assert driver.list() == [] and not (root / "pids/pod/web").exists()
