"""OCI ``linux.resources`` as control files of both versions, and how they are written: all or none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow_runtime_native import limits_v1, limits_v2
from scow_runtime_native.limits import Setting, former, write_all

DISK = {"major": 8, "minor": 0}
EVERY = frozenset({"cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma", "misc"})
GB = 1 << 30


def rate(amount: int) -> list[dict[str, int]]:
    return [{**DISK, "rate": amount}]


def v1(resources: dict[str, Any], *offered: str, live: bool = False) -> list[str]:
    """The writes as ``file=value``, on a kernel with the files *offered* of those that differ between kernels."""
    made = limits_v1.settings(resources, lambda _, file: file in offered, live=live)
    return [f"{setting.file}={setting.value}" for setting in made]


def v2(resources: dict[str, Any], directory: Path, *, live: bool = False) -> list[str]:
    return [f"{item.file}={item.value}" for item in limits_v2.settings(resources, str(directory), EVERY, live=live)]


@pytest.mark.parametrize(
    ("resources", "written"),
    [
        ({"memory": {"limit": 5, "swap": 9}}, ["memory.limit_in_bytes=5", "memory.memsw.limit_in_bytes=9"]),
        ({"memory": {"limit": -1}}, ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]),
        ({"memory": {"reservation": GB}}, [f"memory.soft_limit_in_bytes={GB}"]),
        ({"memory": {"kernel": GB, "kernelTCP": GB}}, []),
        ({"memory": {"swappiness": 0}}, ["memory.swappiness=0"]),
        ({"memory": {"disableOOMKiller": True}}, ["memory.oom_control=1"]),
        ({"memory": {"disableOOMKiller": False}}, []),
        ({"memory": {"useHierarchy": True, "checkBeforeUpdate": True}}, ["memory.use_hierarchy=1"]),
        ({"cpu": {"shares": 2}}, ["cpu.shares=2"]),
        (
            {"cpu": {"quota": 5000, "burst": 1000, "period": 10000}},
            ["cpu.cfs_period_us=10000", "cpu.cfs_quota_us=5000", "cpu.cfs_burst_us=1000"],
        ),
        ({"cpu": {"quota": -1}}, ["cpu.cfs_quota_us=-1"]),
        ({"cpu": {"idle": 1, "shares": 100}}, ["cpu.shares=100", "cpu.idle=1"]),
        ({"cpu": {"idle": 0, "shares": 100}}, ["cpu.idle=0", "cpu.shares=100"]),
        (
            {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 1000}},
            ["cpu.rt_period_us=1000000", "cpu.rt_runtime_us=1000"],
        ),
        ({"cpu": {"cpus": "0-3,7", "mems": "0"}}, ["cpuset.cpus=0-3,7", "cpuset.mems=0"]),
        ({"pids": {"limit": 7}}, ["pids.max=7"]),
        ({"pids": {"limit": -1}}, ["pids.max=max"]),
        ({"pids": {"limit": 0}}, []),
        ({"blockIO": {"weight": 300, "leafWeight": 20}}, ["blkio.weight=300", "blkio.leaf_weight=20"]),
        (
            {"blockIO": {"weightDevice": [{**DISK, "weight": 500, "leafWeight": 300}]}},
            ["blkio.weight_device=8:0 500", "blkio.leaf_weight_device=8:0 300"],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": rate(1), "throttleWriteBpsDevice": rate(2)}},
            ["blkio.throttle.read_bps_device=8:0 1", "blkio.throttle.write_bps_device=8:0 2"],
        ),
        (
            {"blockIO": {"throttleReadIOPSDevice": rate(3), "throttleWriteIOPSDevice": rate(0)}},
            ["blkio.throttle.read_iops_device=8:0 3", "blkio.throttle.write_iops_device=8:0 0"],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": GB}]}, [f"hugetlb.2MB.limit_in_bytes={GB}"]),
        ({"network": {"classID": 0x100001}}, ["net_cls.classid=1048577"]),
        (
            {"network": {"priorities": [{"name": "eth0", "priority": 5}, {"name": "eth1", "priority": 9}]}},
            ["net_prio.ifpriomap=eth0 5", "net_prio.ifpriomap=eth1 9"],
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 100}, "rxe3": {"hcaObjects": 9}}},
            ["rdma.max=mlx5_1 hca_handle=3 hca_object=100", "rdma.max=rxe3 hca_object=9"],
        ),
        ({}, []),
    ],
)  # fmt: skip
def test_each_limit_is_version_1s_file_and_unit(resources: dict[str, Any], written: list[str]) -> None:
    assert v1(resources) == written


def test_version_1_uses_the_files_of_newer_kernels_where_they_are() -> None:
    weights = {"blockIO": {"weight": 300, "weightDevice": [{**DISK, "weight": 500}, {**DISK, "weight": 0}]}}
    assert v1(weights, "blkio.bfq.weight") == [
        "blkio.bfq.weight=300",
        "blkio.bfq.weight_device=8:0 500",
        "blkio.bfq.weight_device=8:0 default",
    ]
    huge = {"hugepageLimits": [{"pageSize": "1GB", "limit": GB}]}
    assert v1(huge, "hugetlb.1GB.rsvd.limit_in_bytes") == [
        f"hugetlb.1GB.rsvd.limit_in_bytes={GB}",
        f"hugetlb.1GB.limit_in_bytes={GB}",
    ]


def test_the_oom_killer_of_a_live_group_can_be_turned_on_again() -> None:
    assert v1({"memory": {"disableOOMKiller": False}}, live=True) == ["memory.oom_control=0"]


@pytest.mark.parametrize(
    ("resources", "written"),
    [
        ({"memory": {"limit": GB, "swap": 3 * GB}}, [f"memory.swap.max={2 * GB}", f"memory.max={GB}"]),
        ({"memory": {"limit": GB, "swap": GB}}, ["memory.swap.max=0", f"memory.max={GB}"]),
        ({"memory": {"limit": GB, "swap": -1}}, ["memory.swap.max=max", f"memory.max={GB}"]),
        ({"memory": {"limit": -1}}, ["memory.swap.max=max", "memory.max=max"]),
        ({"memory": {"reservation": GB, "kernel": GB, "disableOOMKiller": False}}, [f"memory.low={GB}"]),
        ({"cpu": {"shares": 1024}}, ["cpu.weight=100"]),
        ({"cpu": {"quota": 5000}}, ["cpu.max=5000 100000"]),
        ({"cpu": {"quota": -1, "period": 20000, "burst": 500}}, ["cpu.max=max 20000", "cpu.max.burst=500"]),
        ({"cpu": {"idle": 1, "shares": 2}}, ["cpu.idle=1"]),
        ({"cpu": {"cpus": "0", "mems": "0"}}, ["cpuset.cpus=0", "cpuset.mems=0"]),
        ({"blockIO": {"weight": 1000}}, ["io.weight=default 10000"]),
        ({"blockIO": {"weightDevice": [{**DISK, "weight": 10}]}}, ["io.weight=8:0 1"]),
        ({"blockIO": {"weightDevice": [{**DISK, "weight": 0}]}}, ["io.weight=8:0 default"]),
        (
            {"blockIO": {"throttleReadBpsDevice": rate(1), "throttleWriteIOPSDevice": rate(0)}},
            ["io.max=8:0 rbps=1", "io.max=8:0 wiops=max"],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 5}]}, ["hugetlb.2MB.max=5"]),
        ({"rdma": {"rxe3": {"hcaHandles": 1}}}, ["rdma.max=rxe3 hca_handle=1"]),
        (
            {"unified": {"memory.high": "5", "io.max": "8:0 rbps=1\n8:16 wbps=2", "cgroup.max.depth": "3"}},
            ["memory.high=5", "io.max=8:0 rbps=1", "io.max=8:16 wbps=2", "cgroup.max.depth=3"],
        ),
    ],
)  # fmt: skip
def test_each_limit_is_converted_for_version_2(tmp_path: Path, resources: dict[str, Any], written: list[str]) -> None:
    assert v2(resources, tmp_path) == written


def test_version_2_uses_bfqs_weights_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "io.bfq.weight").touch()
    assert v2({"blockIO": {"weight": 300, "weightDevice": [{**DISK, "weight": 20}]}}, tmp_path) == [
        "io.bfq.weight=default 300",
        "io.bfq.weight=8:0 20",
    ]


def test_version_2_takes_the_memory_limit_that_there_is_where_only_swap_changes(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{GB}\n")
    assert v2({"memory": {"swap": 3 * GB}}, tmp_path, live=True) == [f"memory.swap.max={2 * GB}"]


def test_version_2_checks_the_use_before_an_update_where_asked(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("5000\n")
    with pytest.raises(InvalidArgument, match=r"cannot set memory.max to 4000: 5000 bytes are in use"):
        v2({"memory": {"limit": 4000, "checkBeforeUpdate": True}}, tmp_path, live=True)
    assert v2({"memory": {"limit": 4000}}, tmp_path, live=True) == ["memory.max=4000"]
    assert v2({"memory": {"limit": 6000, "checkBeforeUpdate": True}}, tmp_path, live=True) == ["memory.max=6000"]


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"swappiness": 101}}, r"memory.swappiness to 101: the range is 0 to 100"),
        ({"cpu": {"shares": 1}}, r"cpu.shares to 1: the range is 2 to 262144"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, "invalid huge page size '../x'"),
        ({"rdma": {"mlx5_1": {}}}, "rdma device mlx5_1: neither hcaHandles nor hcaObjects"),
        ({"unified": {"memory.high": "1"}}, "cannot set memory.high: this host has no cgroup version 2"),
    ],
)
def test_what_version_1_cannot_do_is_refused_by_name(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        v1(resources)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"swap": GB}}, "without a limit of the memory alone"),
        ({"memory": {"limit": 2 * GB, "swap": GB}}, "below the memory limit"),
        ({"memory": {"swappiness": 5}}, "swappiness to 5: cgroup version 2 has no swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "cgroup version 2 has no OOM killer switch"),
        ({"cpu": {"realtimeRuntime": 5}}, "cgroup version 2 has no real-time budget"),
        ({"blockIO": {"leafWeight": 5}}, "leaf weight"),
        ({"blockIO": {"weightDevice": [{**DISK, "leafWeight": 5}]}}, "leaf weight"),
        ({"network": {"classID": 5}}, "cgroup version 2 has no net_cls and net_prio"),
        ({"unified": {"../x": "1"}}, "invalid name '../x' in unified"),
        ({"unified": {"net.max": "1"}}, "cannot set net.max to 1: the host has no net controller in version 2"),
    ],
)
def test_what_version_2_cannot_do_is_refused_by_name(tmp_path: Path, resources: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        v2(resources, tmp_path)


# ---------------------------------------------------------------------------
# writing
# ---------------------------------------------------------------------------


class Kernel:
    """Control files of one group. *check* says whether the values that there are allow a new one."""

    def __init__(self, directory: Path, check: Callable[[dict[str, int], str, int], bool], **values: int) -> None:
        self.directory, self.check, self.values = directory, check, values
        self.log: list[str] = []
        self._show()

    def _show(self) -> None:
        for name, value in self.values.items():
            (self.directory / name).write_text(f"{value}\n")

    def put(self, path: str, value: str) -> None:
        name = os.path.basename(path)
        if not self.check(self.values, name, int(value)):
            raise OSError(errno.EINVAL, "refused", path)
        self.values[name] = int(value)
        self.log.append(f"{name}={value}")
        self._show()

    def write(self, *settings: Setting, live: bool = True) -> None:
        write_all(settings, lambda _: str(self.directory), live=live, put=self.put)


def limit_below_sum(values: dict[str, int], name: str, value: int) -> bool:
    """Version 1's rule for memory and memory+swap; a third file takes even numbers only."""
    after = {**values, name: value}
    return after["limit"] <= after["sum"] and after.get("even", 0) % 2 == 0


@pytest.mark.parametrize(("limit", "total"), [(50, 60), (150, 160), (10, 10), (100, 200)])
def test_values_that_depend_on_each_other_are_written_in_an_order_that_the_kernel_takes(
    tmp_path: Path, limit: int, total: int
) -> None:
    kernel = Kernel(tmp_path, limit_below_sum, limit=80, sum=100)
    kernel.write(Setting("memory", "limit", str(limit)), Setting("memory", "sum", str(total)))
    assert kernel.values == {"limit": limit, "sum": total}


def test_a_refused_value_of_an_update_puts_back_what_was_written_before_it(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, limit_below_sum, limit=80, sum=100, even=0)
    wanted = [Setting("memory", "limit", "150"), Setting("memory", "sum", "160"), Setting("x", "even", "3")]
    with pytest.raises(InvalidArgument, match="cannot set even to 3: invalid argument"):
        kernel.write(*wanted)
    assert kernel.values == {"limit": 80, "sum": 100, "even": 0}
    assert kernel.log == ["sum=160", "limit=150", "limit=80", "sum=100"]


def test_what_fails_after_the_last_write_of_an_update_puts_everything_back(tmp_path: Path) -> None:
    (tmp_path / "cpu.shares").write_text("1024")

    def fail() -> None:
        raise InvalidArgument("the device rules are refused")

    with pytest.raises(InvalidArgument, match="device rules"):
        write_all([Setting("cpu", "cpu.shares", "2000")], lambda _: str(tmp_path), live=True, last=fail)
    assert (tmp_path / "cpu.shares").read_text() == "1024"


def test_a_new_group_is_not_read_before_it_is_written(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, limit_below_sum, limit=1, sum=100, even=0)
    with pytest.raises(InvalidArgument):
        kernel.write(Setting("memory", "limit", "5"), Setting("x", "even", "3"), live=False)
    assert kernel.values["limit"] == 5  # the whole group goes


def test_a_missing_file_is_an_error_unless_the_value_says_no_limit(tmp_path: Path) -> None:
    write_all([Setting("memory", "memory.swap.max", "max", lenient=True)], lambda _: str(tmp_path), live=True)
    with pytest.raises(InvalidArgument, match=r"cannot set memory.swap.max to 5: this kernel does not offer it"):
        write_all([Setting("memory", "memory.swap.max", "5")], lambda _: str(tmp_path), live=True)


def test_a_controller_that_stays_with_the_group_above_is_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(InvalidArgument, match="the group above does not hand the memory controller on"):
        write_all([Setting("memory", "memory.max", "5")], lambda _: str(tmp_path), live=False)


@pytest.mark.parametrize(
    ("setting", "text", "expected"),
    [
        (Setting("cpu", "cpu.max", ""), "max 100000\n", ["max 100000"]),
        (Setting("cpuset", "cpuset.cpus", ""), "", ["\n"]),
        (Setting("memory", "memory.oom_control", "1"), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", ["0"]),
        (Setting("blkio", "x", "", "8:0", "0"), "7:0 5\n8:0 9\n", ["8:0 9"]),
        (Setting("blkio", "x", "", "8:0", "0"), "7:0 5\n", ["8:0 0"]),
        (Setting("io", "io.max", "8:0 rbps=1", "8:0", "rbps=max"), "8:0 rbps=5 wbps=max\n", ["8:0 rbps=5 wbps=max"]),
        (Setting("io", "io.weight", "", "default", "100"), "default 200\n8:0 5\n", ["default 200"]),
        (Setting("io", "io.max", ""), "8:0 rbps=5\n8:16 rbps=6\n", ["8:0 rbps=5", "8:16 rbps=6"]),
    ],
)
def test_what_a_file_said_can_be_written_again(setting: Setting, text: str, expected: list[str]) -> None:
    assert former(setting, text) == expected
