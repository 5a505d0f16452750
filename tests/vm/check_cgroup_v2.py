"""Limits, devices, freezing, killing and statistics where there is nothing but cgroup version 2.

`tests/vm/run.py` runs this in its machine; pytest does not collect it by itself.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon

ROOT = Path("/sys/fs/cgroup")
UNIFIED = (ROOT / "cgroup.controllers").exists()
DISK = "/dev/vdb"  # the job's: there, and of no use to a container

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not UNIFIED, reason="needs a host with nothing but cgroup version 2"),
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def box(daemon: Daemon) -> Iterator[Callable[..., Path]]:
    """Starts the container ``box`` with the words given; the folder of its cgroup."""

    def start(*words: str, command: tuple[str, ...] = ("sleep", "600")) -> Path:
        daemon.out("run", "-d", "--name", "box", "--network", "none", *words, "busybox", *command)
        return group(daemon, "box")

    yield start
    daemon.docker("rm", "-f", "box", check=False)


def group(daemon: Daemon, name: str) -> Path:
    pid = daemon.out("inspect", "-f", "{{.State.Pid}}", name)
    return ROOT / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


def values(folder: Path, *names: str) -> list[str]:
    return [(folder / name).read_text().strip() for name in names]


def run(daemon: Daemon, *words: str, check: bool = True) -> Any:
    return daemon.docker("run", "--rm", "--network", "none", *words, check=check)


def eventually(check: Callable[[], bool], timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_nothing_of_version_1_is_mounted_and_the_engine_says_so(daemon: Daemon) -> None:
    assert " cgroup " not in Path("/proc/mounts").read_text().replace("cgroup2", "")
    assert daemon.out("info", "-f", "{{.CgroupVersion}} {{.CgroupDriver}}") == "2 cgroupfs"
    info = daemon.api("GET", "/info")[1]
    wanted = ("MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit")
    assert [name for name in wanted if not info[name]] == []
    assert "WARNING" not in daemon.docker("info").stderr


def test_limits_are_in_the_files_of_version_2(box: Callable[..., Path]) -> None:
    folder = box(
        *("--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", "--pids-limit", "20"),
        *("--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0-1", "--cpuset-mems", "0"),
        *("--device-read-bps", f"{DISK}:1mb"),
    )
    found = values(folder, "memory.max", "memory.swap.max", "memory.low", "pids.max", "cpu.max", "cpuset.cpus")
    assert found == [str(64 << 20), str(32 << 20), str(32 << 20), "20", "50000 100000", "0-1"]
    assert values(folder, "cpu.weight", "cpuset.mems") == ["59", "0"]
    number = os.stat(DISK).st_rdev
    disk = f"{os.major(number)}:{os.minor(number)}"
    assert values(folder, "io.max") == [f"{disk} rbps=1048576 wbps=max riops=max wiops=max"]


def test_a_container_without_limits_has_none(box: Callable[..., Path]) -> None:
    assert values(box(), "memory.max", "memory.swap.max", "pids.max", "cpu.max") == ["max", "max", "max", "max 100000"]


def test_limits_are_changed_while_it_runs(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--memory", "64m", "--cpus", "0.5")
    words = ("--memory", "32m", "--memory-swap", "48m", "--cpus", "1.5", "--pids-limit", "9", "--cpu-shares", "2048")
    daemon.out("update", *words, "box")
    assert values(folder, "memory.max", "memory.swap.max") == [str(32 << 20), str(16 << 20)]
    assert values(folder, "cpu.max", "pids.max", "cpu.weight") == ["150000 100000", "9", "174"]
    daemon.out("update", "--memory", "128m", "--memory-swap", "-1", "box")
    assert values(folder, "memory.max", "memory.swap.max") == [str(128 << 20), "max"]


def test_the_limits_hold(daemon: Daemon) -> None:
    forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done 2>&1; wait"
    assert "can't fork" in run(daemon, "--pids-limit", "5", "busybox", "sh", "-c", forks, check=False).stdout
    spin = "s=$(cut -d' ' -f1 /proc/uptime); timeout 2 sh -c 'while :; do :; done'; cat /sys/fs/cgroup/cpu.stat"
    done = run(daemon, "--cpus", "0.2", "busybox", "sh", "-c", spin, check=False)
    used = dict(line.split() for line in done.stdout.splitlines())
    assert 200_000 < int(used["usage_usec"]) < 800_000
    assert int(used["nr_throttled"]) > 5


def test_an_exec_that_runs_out_of_memory_is_told_and_the_container_lives(
    daemon: Daemon, box: Callable[..., Path]
) -> None:
    folder = box("--memory", "16m", "--memory-swap", "16m")
    eat = "x=$(yes 123456789 | head -c 60000000); echo ${#x}"
    assert daemon.docker("exec", "box", "sh", "-c", eat, check=False).returncode == 137
    assert int(dict(line.split() for line in values(folder, "memory.events")[0].splitlines())["oom_kill"]) >= 1
    assert daemon.out("inspect", "-f", "{{.State.Status}}", "box") == "running"
    daemon.out("kill", "box")
    assert daemon.out("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "box") == "true 137"


def node(path: str, number: int) -> str:
    return f"mknod {path} b {os.major(number)} {os.minor(number)}"


def test_the_device_program_refuses_and_allows(daemon: Daemon) -> None:
    number = os.stat(DISK).st_rdev
    read = f"{node('/tmp/disk', number)} && head -c 1 /tmp/disk >/dev/null && echo read"
    write = f"{node('/tmp/disk', number)}; echo >>/tmp/disk && echo written"
    refused = run(daemon, "busybox", "sh", "-c", read, check=False)
    assert "ermitted" in refused.stderr and "read" not in refused.stdout.split()
    rule = ("--device-cgroup-rule", f"b {os.major(number)}:* rm")
    assert run(daemon, *rule, "busybox", "sh", "-c", read).stdout == "read\n"
    assert "written" not in run(daemon, *rule, "busybox", "sh", "-c", write, check=False).stdout
    given = ("--device", f"{DISK}:/dev/given:r")
    assert run(daemon, *given, "busybox", "sh", "-c", "head -c 1 /dev/given >/dev/null && echo read").stdout == "read\n"
    assert "ermitted" in run(daemon, *given, "busybox", "sh", "-c", "echo >>/dev/given", check=False).stderr
    assert run(daemon, "--privileged", "busybox", "sh", "-c", read).stdout == "read\n"
    usual = (
        "for d in null zero full random urandom; do head -c 1 /dev/$d | wc -c; done; echo >/dev/null; test -c /dev/tty"
    )
    assert run(daemon, "busybox", "sh", "-c", usual).stdout.split() == ["0", "1", "1", "1", "1"]


def test_an_exec_is_under_the_device_program(daemon: Daemon, box: Callable[..., Path]) -> None:
    box()
    script = f"{node('/tmp/disk', os.stat(DISK).st_rdev)} && head -c 1 /tmp/disk"
    assert "ermitted" in daemon.docker("exec", "box", "sh", "-c", script, check=False).stderr
    assert daemon.docker("exec", "--privileged", "box", "head", "-c", "0", "/dev/zero").returncode == 0


def test_a_paused_container_does_nothing(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box(command=("sh", "-c", "while :; do :; done"))
    daemon.out("pause", "box")
    assert "frozen 1" in values(folder, "cgroup.events")[0]
    before = values(folder, "cpu.stat")
    time.sleep(0.3)
    assert values(folder, "cpu.stat") == before
    daemon.out("unpause", "box")
    assert eventually(lambda: values(folder, "cpu.stat") != before)
    daemon.out("pause", "box")
    daemon.out("rm", "-f", "box")
    assert not folder.exists()


def test_everything_is_killed_where_the_pid_namespace_is_the_hosts(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--pid", "host", command=("sh", "-c", "for i in 1 2 3; do setsid sleep 601 & done; exec sleep 600"))
    assert eventually(lambda: len(values(folder, "cgroup.procs")[0].split()) == 4)
    pids = values(folder, "cgroup.procs")[0].split()
    daemon.out("kill", "box")
    assert eventually(lambda: not any(Path("/proc", pid).exists() for pid in pids))
    assert eventually(lambda: not folder.exists())


def test_statistics(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--memory", "64m", "--pids-limit", "20", command=("sh", "-c", "while :; do :; done"))
    time.sleep(1.2)
    status, stats = daemon.api("GET", "/containers/box/stats?stream=false")
    assert status == 200
    assert stats["memory_stats"]["limit"] == 64 << 20
    assert 0 < stats["memory_stats"]["usage"] < 64 << 20
    assert {"anon", "file", "inactive_file"} <= set(stats["memory_stats"]["stats"])
    assert stats["pids_stats"] == {"current": 1, "limit": 20}
    cpu = stats["cpu_stats"]
    now = int(dict(line.split() for line in values(folder, "cpu.stat")[0].splitlines())["usage_usec"])
    assert 0 < cpu["cpu_usage"]["total_usage"] <= now * 1000
    assert cpu["online_cpus"] == os.cpu_count()
    assert cpu["system_cpu_usage"] > stats["precpu_stats"]["system_cpu_usage"] > 0
    shown = json.loads(daemon.out("stats", "--no-stream", "--format", "json", "box"))
    assert 50 < float(shown["CPUPerc"].rstrip("%")) < 130
    assert shown["PIDs"] == "1"
    assert shown["MemUsage"].endswith("64MiB")


def test_what_a_container_reads_and_writes_is_counted(daemon: Daemon, box: Callable[..., Path]) -> None:
    box(
        "--device",
        f"{DISK}:/dev/given:r",
        command=("sh", "-c", "dd if=/dev/given of=/dev/null bs=1M count=8; sleep 60"),
    )

    def read() -> int:
        entries = daemon.api("GET", "/containers/box/stats?stream=false&one-shot=true")[1]["blkio_stats"]
        return sum(entry["value"] for entry in entries["io_service_bytes_recursive"] or () if entry["op"] == "read")

    assert eventually(lambda: read() >= 8 << 20)


def test_a_container_sees_its_own_group_as_the_root(daemon: Daemon, box: Callable[..., Path]) -> None:
    box("--memory", "64m")
    look = "cat /proc/self/cgroup /sys/fs/cgroup/memory.max; echo 1 >/sys/fs/cgroup/memory.max"
    done = daemon.docker("exec", "box", "sh", "-c", look, check=False)
    assert done.stdout.split() == ["0::/", str(64 << 20)]
    assert "Read-only" in done.stderr


def test_the_host_cgroup_namespace_shows_the_groups_name(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--cgroupns", "host")
    assert daemon.out("exec", "box", "cat", "/proc/self/cgroup") == f"0::/{folder.relative_to(ROOT)}"


def test_groups_made_inside_a_privileged_container_go_with_it(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--privileged", "--cgroupns", "private", "--memory", "64m")
    divide = "cd /sys/fs/cgroup && mkdir inner && echo 1 >inner/cgroup.procs && echo $$ >inner/cgroup.procs && "
    daemon.out("exec", "box", "sh", "-c", divide + "echo +memory +pids >cgroup.subtree_control")
    assert (folder / "inner/memory.max").exists()
    assert daemon.out("exec", "box", "cat", "/proc/self/cgroup") == "0::/inner"  # the root takes no process any more
    assert daemon.api("GET", "/containers/box/stats?stream=false&one-shot=true")[1]["pids_stats"]["current"] >= 1
    daemon.out("rm", "-f", "box")
    assert not folder.exists()


def test_a_cgroup_parent_of_its_own(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--cgroup-parent", "/scow-elsewhere", "--memory", "64m")
    assert folder.parent == ROOT / "scow-elsewhere"
    assert values(folder, "memory.max") == [str(64 << 20)]
    daemon.out("rm", "-f", "box")
    assert not folder.exists()
    folder.parent.rmdir()


def test_what_version_2_does_not_have_is_no_reason_to_fail(daemon: Daemon) -> None:
    words = ("--memory", "64m", "--memory-swappiness", "0", "--oom-kill-disable", "--blkio-weight", "300")
    done = run(daemon, *words, "busybox", "echo", "started")
    assert done.stdout == "started\n"
    assert "memory swappiness capabilities" in done.stderr and "OomKillDisable discarded" in done.stderr


def test_a_refused_value_of_an_update_puts_the_others_back(daemon: Daemon, box: Callable[..., Path]) -> None:
    folder = box("--memory", "64m", "--pids-limit", "9")
    names = ("memory.max", "memory.swap.max", "pids.max", "cpu.weight")
    before = values(folder, *names)
    body = {
        "Memory": 32 << 20, "MemorySwap": 48 << 20, "PidsLimit": 7, "CpuShares": 300,
        "BlkioDeviceReadBps": [{"Path": "/dev/tty", "Rate": 5}],
    }  # fmt: skip
    code, answer = daemon.api("POST", "/containers/box/update", body)
    assert code == 400 and "cannot set io.max to 5:0 rbps=5: no such device" in answer["message"]
    assert values(folder, *names) == before
    daemon.api("POST", "/containers/box/update", {**body, "BlkioDeviceReadBps": []})
    assert values(folder, *names) == [str(32 << 20), str(16 << 20), "7", "39"]


def test_a_refused_value_at_the_start_leaves_no_group(daemon: Daemon) -> None:
    groups = {path for path in ROOT.rglob("*") if path.is_dir() and len(path.name) == 64}
    done = run(daemon, "--memory", "64m", "--device-read-bps", "/dev/tty:5", "busybox", "true", check=False)
    assert done.returncode and "cannot set io.max to 5:0 rbps=5" in done.stderr
    assert {path for path in ROOT.rglob("*") if path.is_dir() and len(path.name) == 64} == groups
