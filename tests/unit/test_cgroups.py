"""Control groups of both versions, in folders of plain files."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from scow.errors import InvalidArgument, NotFound
from scow.linux.hierarchies import Hierarchies, detect
from scow_runtime_native import block_counters
from scow_runtime_native.cgroups_v1 import CgroupsV1, device_rule
from scow_runtime_native.cgroups_v2 import CgroupsV2
from scow_runtime_native.limits_v2 import weight

V1_MOUNTINFO = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
PATH = "scow/test/c1"


def fill(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


@pytest.fixture
def v1(tmp_path: Path) -> tuple[CgroupsV1, Path]:
    names = ("cpu", "memory", "pids", "devices", "blkio", "freezer")
    for name in names:
        (tmp_path / name).mkdir()
    return CgroupsV1(Hierarchies({name: str(tmp_path / name) for name in names})), tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> tuple[CgroupsV2, Path]:
    for folder in ("", "scow", "scow/test"):
        fill(tmp_path / folder, cgroup__subtree_control="")
    return CgroupsV2(Hierarchies({}, str(tmp_path), frozenset({"cpu", "memory", "pids", "io"}))), tmp_path


def test_detection_finds_each_controller_and_named_hierarchies() -> None:
    found = detect(V1_MOUNTINFO)
    assert found.v1["cpu"] == found.v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.v1["systemd"] == "/sys/fs/cgroup/systemd"
    assert found.version == "1" and not found.unified


def test_an_almost_empty_version_2_beside_version_1_is_a_hybrid_ruled_by_version_1(tmp_path: Path) -> None:
    fill(tmp_path, cgroup__controllers="hugetlb\n")
    found = detect(V1_MOUNTINFO + f"41 31 0:38 / {tmp_path} rw,relatime - cgroup2 cgroup2 rw\n")
    assert found.version == "hybrid" and not found.unified
    assert found.v2_controllers == {"hugetlb"}


def test_version_2_alone_is_unified(tmp_path: Path) -> None:
    fill(tmp_path, cgroup__controllers="cpu io memory pids\n")
    found = detect(f"41 31 0:38 / {tmp_path} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n")
    assert found.version == "2" and found.unified


def test_version_1_joins_by_the_tasks_file_of_each_mounted_hierarchy_once() -> None:
    record = CgroupsV1(detect(V1_MOUNTINFO)).join_record(PATH, {})
    assert record["tasks"] == [f"/sys/fs/cgroup/{name}/{PATH}/tasks" for name in ("cpu,cpuacct", "memory", "systemd")]
    assert record["links"] == [["cpu", "cpu,cpuacct"], ["cpuacct", "cpu,cpuacct"]]
    assert record["oom_file"].endswith(f"memory/{PATH}/memory.oom_control")


def test_version_1_makes_only_what_is_mounted(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    manager.create(PATH, {})
    assert all((root / name / PATH).is_dir() for name in ("cpu", "memory", "pids", "devices"))
    manager.delete(PATH)
    assert not any((root / name / PATH).exists() for name in ("cpu", "memory", "pids", "devices"))


def test_version_1_limits_are_written_in_the_kernels_units(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    memory = fill(
        root / "memory" / PATH,
        memory__limit_in_bytes="9223372036854771712",
        memory__memsw__limit_in_bytes="9223372036854771712",
        memory__soft_limit_in_bytes="",
    )
    cpu = fill(root / "cpu" / PATH, cpu__shares="1024", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    pids = fill(root / "pids" / PATH, pids__max="max")
    manager.create(
        PATH,
        {
            "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000},
            "pids": {"limit": 7},
        },
    )
    assert (memory / "memory.limit_in_bytes").read_text().startswith(str(64 << 20))
    assert (memory / "memory.memsw.limit_in_bytes").read_text().startswith(str(128 << 20))
    assert (cpu / "cpu.shares").read_text().startswith("512")
    assert (cpu / "cpu.cfs_quota_us").read_text() == "50000"
    assert (pids / "pids.max").read_text() == "7ax"  # a control file is replaced, a plain one overwritten


def test_a_limit_that_the_kernel_does_not_offer_is_refused_and_leaves_no_group(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    with pytest.raises(InvalidArgument, match=r"cannot set pids.max to 7: this kernel does not offer it"):
        manager.create(PATH, {"pids": {"limit": 7}})
    assert not (root / "pids" / PATH).exists() and not (root / "cpu" / PATH).exists()


def test_a_limit_without_its_controller_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no cpu cgroup controller"):
        CgroupsV1(Hierarchies({"pids": str(tmp_path)})).create(PATH, {"cpu": {"shares": 2}})
    assert not (tmp_path / PATH).exists()


def test_device_rules_read_as_the_controller_wants_them() -> None:
    assert device_rule({"allow": False, "access": "rwm"}) == "a *:* rwm"
    assert device_rule({"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}) == "c 1:3 rw"
    assert device_rule({"allow": True, "type": "b", "access": "m"}) == "b *:* m"


def test_version_1_counts_oom_kills(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    assert manager.oom_kills(PATH) == 0
    fill(root / "memory" / PATH, memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert manager.oom_kills(PATH) == 2


def test_processes_of_groups_below_are_found_too(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    fill(root / "freezer" / PATH, cgroup__procs="11\n12\n")
    fill(root / "freezer" / PATH / "inner", cgroup__procs="13\n")
    assert manager.processes(PATH) == [11, 12, 13]
    assert manager.processes("scow/test/none") == []
    assert manager.children("scow/test") == ["c1"]


def test_a_group_that_a_crash_left_in_one_hierarchy_only_is_listed_and_removed(v1: tuple[CgroupsV1, Path]) -> None:
    cgroups, root = v1
    hierarchies = [entry.name for entry in root.iterdir() if entry.is_dir()]
    for name in hierarchies:
        fill(root / name / "scow" / f"left-in-{name}")
    assert cgroups.children("scow") == sorted(f"left-in-{name}" for name in hierarchies)
    for name in hierarchies:
        cgroups.delete(f"scow/left-in-{name}")
    assert cgroups.children("scow") == []


def test_a_kill_happens_in_the_frozen_group(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    with subprocess.Popen(["sleep", "60"]) as victim:
        group = fill(root / "freezer" / PATH, cgroup__procs=f"{victim.pid}\n", freezer__state="")
        manager.signal_all(PATH, signal.SIGKILL)
        assert victim.wait(10) == -signal.SIGKILL
    assert (group / "freezer.state").read_text() == "THAWED"


def test_version_1_statistics_have_dockers_shape(v1: tuple[CgroupsV1, Path]) -> None:
    manager, root = v1
    fill(
        root / "memory" / PATH,
        memory__usage_in_bytes="4096\n",
        memory__max_usage_in_bytes="8192\n",
        memory__failcnt="1\n",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__stat="cache 1\nrss 2\n",
    )
    fill(root / "pids" / PATH, pids__current="3\n", pids__max="max\n")
    fill(root / "blkio" / PATH, blkio__throttle__io_service_bytes="8:0 Read 10\n8:0 Write 20\nTotal 30\n")
    (root / "freezer" / PATH).mkdir(parents=True)
    sample = manager.stats(PATH)
    assert sample["memory_stats"]["usage"] == 4096 and sample["memory_stats"]["stats"] == {"cache": 1, "rss": 2}
    assert sample["memory_stats"]["limit"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert sample["pids_stats"] == {"current": 3}
    assert sample["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 10},
        {"major": 8, "minor": 0, "op": "write", "value": 20},
    ]
    assert sample["cpu_stats"]["system_cpu_usage"] > 0


def test_statistics_of_no_group_are_not_found(v1: tuple[CgroupsV1, Path], v2: tuple[CgroupsV2, Path]) -> None:
    for manager in (v1[0], v2[0]):
        with pytest.raises(NotFound):
            manager.stats("scow/test/none")


def test_version_2_hands_its_controllers_down_and_makes_one_folder(v2: tuple[CgroupsV2, Path]) -> None:
    manager, root = v2
    manager.create(PATH, {})
    assert (root / PATH).is_dir()
    assert (root / "scow" / "cgroup.subtree_control").read_text().startswith("+")
    assert manager.join_record(PATH, {}) == {
        "version": 2,
        "directory": f"{root}/{PATH}",
        "mount": str(root),
        "oom_file": f"{root}/{PATH}/memory.events",
    }
    manager.delete(PATH)
    assert not (root / PATH).exists()


def test_version_2_limits_are_converted(v2: tuple[CgroupsV2, Path]) -> None:
    manager, root = v2
    names = ("memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "pids.max", "io.max")
    group = fill(root / PATH, **{name.replace(".", "__"): "" for name in names})
    manager.create(
        PATH,
        {
            "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 1024, "quota": 150000},
            "pids": {"limit": -1},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1000}]},
        },
    )
    written = {name: (group / name).read_text() for name in names}
    assert written == {
        "memory.max": str(64 << 20),
        "memory.swap.max": str(64 << 20),  # without the memory itself
        "memory.low": str(32 << 20),
        "cpu.weight": "100",
        "cpu.max": "150000 100000",
        "pids.max": "max",
        "io.max": "8:16 rbps=1000",
    }


def test_an_update_of_the_quota_keeps_the_period(v2: tuple[CgroupsV2, Path]) -> None:
    manager, root = v2
    group = fill(root / PATH, cpu__max="max 50000\n")
    manager.update(PATH, {"cpu": {"quota": 25000}})
    assert (group / "cpu.max").read_text().split("\n")[0] == "25000 50000"


def test_an_update_of_no_group_is_not_found(v2: tuple[CgroupsV2, Path]) -> None:
    with pytest.raises(NotFound):
        v2[0].update("scow/test/none", {})


@pytest.mark.parametrize(
    ("shares", "expected"), [(1, 1), (2, 1), (512, 59), (1024, 100), (262144, 10000), (999999, 10000)]
)
def test_shares_become_weights_as_in_runc(shares: int, expected: int) -> None:
    assert weight(shares) == expected


def test_version_2_statistics_have_dockers_shape(v2: tuple[CgroupsV2, Path]) -> None:
    manager, root = v2
    fill(
        root / PATH,
        cpu__stat="usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nnr_throttled 1\nthrottled_usec 4\n",
        memory__current="4096\n",
        memory__max="8192\n",
        memory__stat="anon 1\nfile 2\n",
        pids__current="2\n",
        pids__max="5\n",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
    )
    sample = manager.stats(PATH)
    assert sample["cpu_stats"]["cpu_usage"] == {
        "total_usage": 5000,
        "usage_in_kernelmode": 2000,
        "usage_in_usermode": 3000,
    }
    assert sample["cpu_stats"]["throttling_data"]["throttled_time"] == 4000
    assert sample["memory_stats"] == {"usage": 4096, "limit": 8192, "stats": {"anon": 1, "file": 2}}
    assert sample["pids_stats"] == {"current": 2, "limit": 5}
    assert [entry["value"] for entry in sample["blkio_stats"]["io_serviced_recursive"]] == [1, 2]


def test_version_2_kills_by_one_write(v2: tuple[CgroupsV2, Path]) -> None:
    manager, root = v2
    group = fill(root / PATH, cgroup__kill="")
    manager.signal_all(PATH, signal.SIGKILL)
    assert (group / "cgroup.kill").read_text() == "1"


def test_version_2_freezes_until_the_kernel_says_so(v2: tuple[CgroupsV2, Path]) -> None:
    manager, root = v2
    group = fill(root / PATH, cgroup__freeze="0", cgroup__events="populated 1\nfrozen 1\n")
    manager.freeze(PATH, True)
    assert (group / "cgroup.freeze").read_text() == "1"
    with pytest.raises(NotFound):
        manager.freeze("scow/test/none", True)


def test_version_1_counts_block_io_on_disks_that_have_no_limit_yet(tmp_path: Path) -> None:
    devices = tmp_path / "block"
    for name, number in (("sda", "8:0"), ("sdb", "8:16"), ("dm-0", "253:0")):
        fill(devices / name, dev=number + "\n")
        if name != "dm-0":
            (devices / name / "device").mkdir()
    group = fill(tmp_path / "group", blkio__throttle__read_bps_device="8:16 1000\n")
    block_counters.start(str(group), str(devices))
    assert (group / "blkio.throttle.read_bps_device").read_text().startswith("8:0 0")
    assert "8:16 0" not in (group / "blkio.throttle.read_bps_device").read_text()
    block_counters.start(str(tmp_path / "none"), str(devices))  # a kernel without throttling
