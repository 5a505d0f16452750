"""Limits of memory, CPUs and processes, and CDI devices, as users of the docker CLI set them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.engine import host_limits
from scow.testing.runtime import eventually
from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]
MB = 1 << 20
NO_NET = ("--network", "none")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("engine")
    daemon = Daemon(root, cdi_spec_dirs=[str(root / "cdi"), str(root / "cdi-run")]).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def box(daemon: Daemon) -> Iterator[str]:
    """The name of a container that the test may make."""
    yield "limited"
    daemon.docker("rm", "-f", "limited", check=False)


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    return dict(json.loads(daemon.out("inspect", name))[0])


@pytest.mark.skipif(host_limits.of_host().unified, reason="reads version 1's control files")
def test_docker_update_changes_what_inspect_and_the_kernel_say(daemon: Daemon, box: str) -> None:
    daemon.out("run", "-d", "--name", box, *NO_NET, "-m", "64m", "busybox", "sleep", "600")
    assert inspect(daemon, box)["HostConfig"]["MemorySwap"] == 128 * MB
    daemon.out("update", "-m", "32m", "--memory-swap", "48m", "--memory-reservation", "16m", "--cpu-shares", "300",
               "--cpu-quota", "20000", "--cpu-period", "50000", "--cpuset-cpus", "0",
               "--pids-limit", "33", box)  # fmt: skip
    host = inspect(daemon, box)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (32 * MB, 48 * MB, 16 * MB)
    script = (
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes cpu/cpu.shares "
        "cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max"
    )
    told = daemon.out("exec", box, "sh", "-c", script).split()
    assert told == [str(32 * MB), str(16 * MB), "300", "20000", "50000", "0", "33"]
    refused = daemon.docker("update", "--cpus", "1", box, check=False)
    assert "Nano CPUs cannot be updated as CPU Period has already been set" in refused.stderr
    refused = daemon.docker("update", "-m", "96m", box, check=False)
    assert "update the memoryswap at the same time" in refused.stderr
    assert inspect(daemon, box)["HostConfig"]["Memory"] == 32 * MB


def test_a_limit_of_the_kernels_memory_is_ignored_with_a_warning(daemon: Daemon, box: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"KernelMemory": 64 * MB, "NetworkMode": "none"}}
    code, answer = daemon.api("POST", f"/containers/create?name={box}", body)
    assert code == 201 and "kernel memory limit capabilities" in answer["Warnings"][0]
    assert "KernelMemory" not in inspect(daemon, box)["HostConfig"]


def test_an_exec_killed_for_want_of_memory_ends_with_137_and_inspect_says_why(daemon: Daemon, box: str) -> None:
    daemon.out("run", "-d", "--name", box, *NO_NET, "-m", "12m", "busybox", "sleep", "600")
    done = daemon.docker("exec", box, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", check=False)
    assert done.returncode == 137
    assert eventually(lambda: inspect(daemon, box)["State"]["OOMKilled"])
    assert inspect(daemon, box)["State"]["Running"]
    words = ("--filter", "event=oom", "--filter", f"container={box}", "--format", "{{.Action}}")
    assert eventually(lambda: daemon.out("events", "--since", "1m", "--until", "0s", *words) == "oom")
    daemon.out("restart", "-t", "0", box)
    assert inspect(daemon, box)["State"]["OOMKilled"] is False


def test_an_init_killed_for_want_of_memory_ends_with_137_and_inspect_says_why(daemon: Daemon, box: str) -> None:
    words = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    done = daemon.docker("run", "--name", box, *NO_NET, "-m", "12m", "busybox", *words, check=False)
    assert done.returncode == 137
    state = inspect(daemon, box)["State"]
    assert state["OOMKilled"] and state["ExitCode"] == 137


def test_a_container_without_processes_left_says_so(daemon: Daemon, box: str) -> None:
    done = daemon.docker("run", "--name", box, *NO_NET, "--pids-limit", "2", "busybox", "sh", "-c",
                         "sleep 1 | sleep 1 | sleep 1; echo on", check=False)  # fmt: skip
    assert "can't fork" in done.stderr or "Resource temporarily unavailable" in done.stderr


def test_cgroup_parents_and_namespaces_are_as_asked(daemon: Daemon, box: str) -> None:
    parent = f"{daemon.config['cgroup_parent']}/extra"
    shown = daemon.out("run", "--rm", *NO_NET, "--cgroupns", "host", "--cgroup-parent", parent, "busybox",
                       "cat", "/proc/self/cgroup")  # fmt: skip
    assert re.search(rf":/{parent}/[0-9a-f]{{64}}$", shown, re.MULTILINE)
    for folder in [*Path("/sys/fs/cgroup").glob(f"*/{parent}"), *Path("/sys/fs/cgroup").glob(parent)]:
        folder.rmdir()  # a parent is its user's, as with dockerd
    own = daemon.out("run", "--rm", *NO_NET, "--cgroupns", "private", "busybox", "cat", "/proc/self/cgroup")
    assert all(line.endswith(":/") or line.startswith("0::") for line in own.splitlines())


# ---------------------------------------------------------------------------
# CDI
# ---------------------------------------------------------------------------


@pytest.fixture
def vendor(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "driver.so").write_text("library")
    edits = {
        "env": ["VENDOR_DEVICE=one"],
        "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/full", "permissions": "rw"}],
        "mounts": [{"hostPath": str(tmp_path / "lib"), "containerPath": "/opt/lib", "options": ["ro", "rbind"]}],
        "additionalGids": [4242],
    }
    files = {
        "cdi/vendor.json": {"cdiVersion": "0.7.0", "kind": "vendor.com/device",
                            "devices": [{"name": "one", "containerEdits": edits}]},
        "cdi-run/nvidia.json": {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [
            {"name": name, "containerEdits": {"env": [f"GPU_{name}=yes"]}} for name in ("0", "1", "all")]},
    }  # fmt: skip
    for name, content in files.items():
        path = daemon.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


@pytest.mark.usefixtures("vendor")
def test_a_cdi_device_brings_its_node_mount_variables_and_groups(daemon: Daemon) -> None:
    script = (
        "echo $VENDOR_DEVICE; cat /opt/lib/driver.so; echo; stat -c %t:%T /dev/vendor0; id -G; echo x > /dev/vendor0"
    )
    done = daemon.docker("run", "--rm", *NO_NET, "--device", "vendor.com/device=one", "busybox",
                         "sh", "-c", script, check=False)  # fmt: skip
    assert done.stdout.split() == ["one", "library", "1:7", "0", "4242"]
    assert "No space left on device" in done.stderr  # /dev/full was opened and written


@pytest.mark.usefixtures("vendor")
def test_an_unknown_cdi_device_is_refused_with_those_that_there_are(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", *NO_NET, "--device", "vendor.com/device=two", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "CDI device injection failed: unresolvable CDI devices vendor.com/device=two" in done.stderr
    assert "nvidia.com/gpu=0" in done.stderr and daemon.out("ps", "-aq") == ""


@pytest.mark.usefixtures("vendor")
@pytest.mark.parametrize(("asked", "given"), [("all", "GPU_all"), ("1", "GPU_0"), ("device=1", "GPU_1")])
def test_gpus_come_through_cdi(daemon: Daemon, asked: str, given: str) -> None:
    environment = daemon.out("run", "--rm", *NO_NET, "--gpus", asked, "busybox", "env")
    assert re.findall(r"^GPU_\w+", environment, re.MULTILINE) == [given]


def test_gpus_without_a_spec_file_are_refused_in_dockers_words(daemon: Daemon) -> None:
    for path in daemon.root.glob("cdi*/*"):
        path.unlink()
    done = daemon.docker("run", "--rm", *NO_NET, "--gpus", "all", "busybox", "true", check=False)
    assert done.returncode == 125
    assert 'could not select device driver "" with capabilities: [[gpu]]' in done.stderr


@pytest.mark.usefixtures("vendor")
def test_docker_info_tells_of_the_folders_and_devices(daemon: Daemon) -> None:
    code, info = daemon.api("GET", "/info")
    assert code == 200 and info["CDISpecDirs"] == [str(daemon.root / "cdi"), str(daemon.root / "cdi-run")]
    assert {"Source": "cdi", "ID": "vendor.com/device=one"} in info["DiscoveredDevices"]
