"""Limits on the host's own kernel: written, held, refused as a whole, changed while the container runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from scow.errors import InvalidArgument
from scow.testing.runtime import BUSYBOX, Lab, Running
from scow.types import HostConfig
from scow_runtime_native import cgroups

HOST = cgroups.detect_host()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
    pytest.mark.skipif("memory" not in HOST.v1 or "cpu" not in HOST.v1, reason="the host has no cgroup version 1"),
]
MB = 1 << 20


def group(lab: Lab, running: Running, controller: str) -> Path:
    mount = HOST.v1.get(controller) or HOST.v2
    return Path(f"{mount}/scow/test-{os.getpid()}/{running.id}")


def says(folder: Path, file: str) -> str:
    return (folder / file).read_text().strip()


def make(lab: Lab, resources: dict[str, object]) -> Running:
    """A container with exactly these limits besides its devices."""

    def limited(spec: dict[str, object]) -> None:
        linux = spec["linux"]
        assert isinstance(linux, dict)
        linux["resources"].update(resources)

    return lab.up("sleep", "60", change=limited)


def test_every_cpu_limit_of_version_1_is_the_groups(lab: Lab) -> None:
    limits = {"shares": 300, "period": 50000, "quota": 20000, "burst": 1000, "cpus": "0", "mems": "0"}
    running = make(lab, {"cpu": limits})
    cpu, cpuset = group(lab, running, "cpu"), group(lab, running, "cpuset")
    assert says(cpu, "cpu.shares") == "300"
    assert (says(cpu, "cpu.cfs_period_us"), says(cpu, "cpu.cfs_quota_us")) == ("50000", "20000")
    assert says(cpu, "cpu.cfs_burst_us") == "1000"
    assert (says(cpuset, "cpuset.cpus"), says(cpuset, "cpuset.mems")) == ("0", "0")
    assert os.sched_getaffinity(running.pid) == {0}


def test_an_idle_group_is_idle_until_it_is_updated(lab: Lab) -> None:
    if not Path(HOST.v1["cpu"], "cpu.idle").exists():
        pytest.skip("cpu.idle needs Linux 5.15")
    running = make(lab, {"cpu": {"shares": 300, "idle": 1}})
    cpu = group(lab, running, "cpu")
    assert says(cpu, "cpu.idle") == "1"
    lab.runtime.update(running.id, {"cpu": {"shares": 400, "idle": 0}})
    assert (says(cpu, "cpu.idle"), says(cpu, "cpu.shares")) == ("0", "400")


def test_real_time_is_given_through_the_engines_groups(lab: Lab) -> None:
    if not Path(HOST.v1["cpu"], "cpu.rt_runtime_us").exists():
        pytest.skip("this kernel has no real-time groups (CONFIG_RT_GROUP_SCHED)")
    running = make(lab, {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 2000}})
    cpu = group(lab, running, "cpu")
    assert says(cpu, "cpu.rt_runtime_us") == "2000"
    second = make(lab, {"cpu": {"realtimeRuntime": 3000}})
    assert says(group(lab, second, "cpu"), "cpu.rt_runtime_us") == "3000"
    assert int(says(cpu.parent, "cpu.rt_runtime_us")) >= 5000
    with pytest.raises(InvalidArgument, match="cannot set cpu.rt_runtime_us to 999999: invalid argument") as caught:
        make(lab, {"cpu": {"realtimeRuntime": 999999}})
    assert "the group above has" in str(caught.value.hint)


def test_every_memory_limit_of_version_1_is_the_groups(lab: Lab) -> None:
    limits = {"limit": 64 * MB, "reservation": 32 * MB, "swappiness": 10, "disableOOMKiller": True, "kernel": MB}
    memory = group(lab, make(lab, {"memory": {**limits, "useHierarchy": True}}), "memory")
    assert says(memory, "memory.limit_in_bytes") == str(64 * MB)
    assert says(memory, "memory.soft_limit_in_bytes") == str(32 * MB)
    assert says(memory, "memory.swappiness") == "10"
    assert says(memory, "memory.oom_control").startswith("oom_kill_disable 1")


def test_memory_and_swap_go_up_and_down_together(lab: Lab) -> None:
    if not Path(HOST.v1["memory"], "memory.memsw.limit_in_bytes").exists():
        pytest.skip("this kernel does not count swap")
    running = make(lab, {"memory": {"limit": 64 * MB, "swap": 64 * MB}})
    memory = group(lab, running, "memory")
    for limit, total in ((128 * MB, 256 * MB), (32 * MB, 40 * MB), (48 * MB, -1), (-1, 0)):
        lab.runtime.update(running.id, {"memory": {"limit": limit, **({"swap": total} if total else {})}})
        if limit > 0:
            assert says(memory, "memory.limit_in_bytes") == str(limit)
        if total > 0:
            assert says(memory, "memory.memsw.limit_in_bytes") == str(total)
    assert int(says(memory, "memory.limit_in_bytes")) > 1 << 60


def test_a_refused_value_leaves_no_group_anywhere(lab: Lab) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot set cpuset.cpus to 0-4000: .*") as caught:
        make(lab, {"cpu": {"cpus": "0-4000"}, "memory": {"limit": 64 * MB}})
    assert "the group above has" in str(caught.value.hint)
    assert lab.runtime.list() == []


def test_a_refused_value_of_an_update_leaves_all_as_they_were(lab: Lab) -> None:
    running = make(lab, {"memory": {"limit": 64 * MB}, "pids": {"limit": 50}, "cpu": {"shares": 300}})
    with pytest.raises(InvalidArgument, match=r"cannot set cpuset.cpus to 4000: "):
        lab.runtime.update(
            running.id,
            {"memory": {"limit": 32 * MB}, "pids": {"limit": 9}, "cpu": {"shares": 500, "cpus": "4000"}},
        )
    assert says(group(lab, running, "memory"), "memory.limit_in_bytes") == str(64 * MB)
    assert says(group(lab, running, "cpu"), "cpu.shares") == "300"
    assert says(group(lab, running, "pids"), "pids.max") == "50"


def test_a_limit_below_the_use_is_refused_with_the_use(lab: Lab) -> None:
    running = lab.up("sh", "-c", "x=$(head -c 8000000 /dev/zero | tr '\\0' x); sleep 60; echo $x")
    memory = group(lab, running, "memory")
    while int(says(memory, "memory.usage_in_bytes")) < 8 * MB:
        os.sched_yield()
    with pytest.raises(InvalidArgument, match=r"cannot set memory.limit_in_bytes to 1048576: .*busy") as caught:
        lab.runtime.update(running.id, {"memory": {"limit": MB}})
    assert "bytes that cannot be freed" in str(caught.value.hint)


def test_no_process_beyond_the_limit_can_be_made(lab: Lab) -> None:
    output = lab.sh("(sleep 1 & sleep 1 & sleep 1 & wait) 2>&1 || true; echo on", host=HostConfig(pids_limit=3))
    assert "can't fork" in output or "Resource temporarily unavailable" in output
    running = lab.up("sleep", "60", host=HostConfig(pids_limit=1))
    result = running.exec("sh", "-c", "sleep 0; echo never")  # an exec is let in; what it forks is not
    assert result["code"] != 0 and "never" not in result["output"]


def test_huge_pages_are_limited_where_the_host_keeps_them(lab: Lab) -> None:
    if "hugetlb" not in HOST.v1 and "hugetlb" not in HOST.v2_controllers:
        pytest.skip("the host has no hugetlb controller")
    sizes = os.listdir("/sys/kernel/mm/hugepages")
    if "hugepages-2048kB" not in sizes:
        pytest.skip("the host has no huge pages of 2 MB")
    running = make(lab, {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MB}]})
    folder = group(lab, running, "hugetlb")
    file = "hugetlb.2MB.limit_in_bytes" if "hugetlb" in HOST.v1 else "hugetlb.2MB.max"
    assert says(folder, file) == str(4 * MB)
    assert str(running.pid) in says(folder, "cgroup.procs").split()
    assert running.exec("sh", "-c", "grep -c . /proc/self/cgroup")["code"] == 0
    lab.runtime.update(running.id, {"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * MB}]})
    assert says(folder, file) == str(2 * MB)
    lab.runtime.delete(running.id)
    assert not folder.exists()


def test_unified_limits_are_version_2s(lab: Lab) -> None:
    if HOST.version != "hybrid":
        pytest.skip("the host has not both versions")
    running = make(lab, {"unified": {"cgroup.max.descendants": "3"}})
    assert says(Path(f"{HOST.v2}/scow/test-{os.getpid()}/{running.id}"), "cgroup.max.descendants") == "3"
    with pytest.raises(InvalidArgument, match="the memory controller is bound to cgroup version 1"):
        make(lab, {"unified": {"memory.high": "5"}})
    with pytest.raises(InvalidArgument, match="no nonsense controller in version 2"):
        make(lab, {"unified": {"nonsense.max": "5"}})


@pytest.mark.parametrize("controller", ["net_cls", "rdma"])
def test_a_limit_whose_controller_the_host_lacks_is_refused(lab: Lab, controller: str) -> None:
    if controller in HOST.v1 or controller in HOST.v2_controllers:
        pytest.skip(f"the host has {controller}")
    limits: dict[str, dict[str, object]] = {
        "net_cls": {"network": {"classID": 5}},
        "rdma": {"rdma": {"rxe0": {"hcaHandles": 1}}},
    }
    with pytest.raises(InvalidArgument, match=f"the host has no {controller} cgroup controller"):
        make(lab, limits[controller])
    assert lab.runtime.list() == []


def test_block_weights_are_those_of_the_kernels_scheduler(lab: Lab) -> None:
    running = make(lab, {})
    folder = group(lab, running, "blkio")
    files = [file for file in ("blkio.bfq.weight", "blkio.weight") if (folder / file).exists()]
    if not files:
        pytest.skip("this kernel has neither bfq nor cfq")
    lab.runtime.update(running.id, {"blockIO": {"weight": 300}})
    assert says(folder, files[0]) == "300"


def test_devices_of_a_live_container_change_and_stay_where_one_is_refused(lab: Lab) -> None:
    running = lab.up()
    allow = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    rules = [dict(rule) for rule in running.spec["linux"]["resources"]["devices"]]
    listed = group(lab, running, "devices") / "devices.list"
    before = listed.read_text()
    lab.runtime.update(running.id, {"devices": [*rules, allow]})
    assert "c 10:229 rw" in listed.read_text()
    with pytest.raises(InvalidArgument, match="cannot set pids.max"):
        lab.runtime.update(running.id, {"devices": rules, "pids": {"limit": 1 << 62}})
    assert "c 10:229 rw" in listed.read_text()
    lab.runtime.update(running.id, {"devices": rules})
    assert sorted(listed.read_text().split("\n")) == sorted(before.split("\n"))


def test_an_exec_that_runs_out_of_memory_is_killed_and_the_container_lives(lab: Lab) -> None:
    running = lab.up("sleep", "60", host=HostConfig(memory=8 * MB))
    result = running.exec("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    assert result["code"] == -signal.SIGKILL
    assert lab.runtime.oom_killed(running.id)
    assert running.exec("true")["code"] == 0


def test_a_device_program_answers_for_the_real_kernel(lab: Lab) -> None:
    if HOST.v2 is None:
        pytest.skip("the host has no cgroup version 2 for the program")
    from scow_runtime_native import device_program

    folder = f"{HOST.v2}/scow-test-{os.getpid()}"
    os.mkdir(folder)
    try:
        device_program.attach(folder, [{"allow": False}, {"allow": True, "type": "c", "major": 1, "minor": 3}])
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                cgroups.write(f"{folder}/cgroup.procs", "0")
                os.close(os.open("/dev/null", os.O_RDWR))
                try:
                    os.close(os.open("/dev/zero", os.O_RDONLY))
                except PermissionError:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.rmdir(folder)
