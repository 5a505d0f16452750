"""From an OCI spec to the plan of the child: what is computed before the fork, and what is refused there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scow.engine import spec as specs
from scow.engine.spec_security import check_rights
from scow.errors import InvalidArgument
from scow.linux import capabilities
from scow.linux import syscalls as sys_
from scow.linux.hierarchies import Hierarchies
from scow.ports import DriverContext, Mount
from scow.ports.runtime import Runtime
from scow.testing.runtime import record
from scow.types import HostConfig
from scow_runtime_native import NativeRuntime
from scow_runtime_native.cgroups_v1 import CgroupsV1
from scow_runtime_native.plan import capability_warnings, container_plan, mount_plan, process_plan

CGROUP = CgroupsV1(Hierarchies({"memory": "/cg/memory", "cpu": "/cg/cpu,cpuacct", "cpuacct": "/cg/cpu,cpuacct"}))


def spec(**host: Any) -> dict[str, Any]:
    host.setdefault("cap_drop", ["ALL"])  # whatever rights this process has
    return specs.build(record("c" * 64, ["/bin/true"], host=HostConfig(**host)), directory=Path("/bundle"))


def plan(made: dict[str, Any]) -> dict[str, Any]:
    root = [Mount("overlay", "overlay", "", ("lowerdir=/l",))]
    return container_plan(
        "c1", made, root, Path("/bundle"), CGROUP.join_record("scow/e/c1", {}), b"\x06\0\0\0\0\0\xff\x7f"
    )


def test_a_plan_is_json() -> None:
    made = plan(spec())
    assert json.loads(json.dumps(made)) == made
    assert made["root"] == [["overlay", "overlay", "", ["lowerdir=/l"]]] and made["rootfs"] == "/bundle/rootfs"


def test_namespaces_become_clone_flags_or_paths_to_join() -> None:
    made = spec()
    made["linux"]["namespaces"] = [
        {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/proc/99999999/ns/net"}, {"type": "cgroup"},
    ]  # fmt: skip
    made["hostname"] = ""
    result = plan(made)
    assert result["clone"] == sys_.CLONE_NEWNS | sys_.CLONE_NEWPID
    assert (
        result["join"] == [["/proc/99999999/ns/net", sys_.CLONE_NEWNET]]
        and result["cgroupns"]
        and not result["loopback"]
    )
    made["linux"]["namespaces"][1]["path"] = "/proc/99999999/ns/pid"
    assert plan(made)["join_pid"] == "/proc/99999999/ns/pid"
    assert plan(made)["clone"] == sys_.CLONE_NEWNS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}, "needs linux.uidMappings"),
        ({"linux": {"namespaces": [{"type": "pid"}]}}, "has no mount namespace"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "moon"}]}}, "unknown namespace type 'moon'"),
        ({"process": {"args": []}}, "no command specified"),
        ({"process": {"args": ["x"], "cwd": "rel"}}, "needs to be an absolute path"),
        ({"process": {"args": ["x"], "rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}, "RLIMIT_X"),
        ({"process": {"args": ["x"], "rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}}, "there twice"),
    ],
)
def test_what_the_runtime_does_not_offer_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        plan({**spec(), **change})


def test_capabilities_that_cannot_be_given_are_left_out_with_a_warning() -> None:
    missing = capabilities.names(~capabilities.bounding() & ((1 << len(capabilities.CAPABILITIES)) - 1))
    caps = {"bounding": ["CAP_X", *missing], "effective": ["CAP_X"]}
    assert process_plan({"args": ["x"], "capabilities": caps}, b"")["capabilities"]["effective"] == 0
    assert capability_warnings(caps, capabilities.bounding()) == ["unknown capability 'CAP_X' is left out"] + [
        f"the capability {name} is left out: the runtime itself lacks it" for name in missing
    ]


def test_groups_may_be_null() -> None:
    assert process_plan({"args": ["x"], "user": {"uid": 1, "gid": 2, "additionalGids": None}}, b"")["groups"] == []


def test_a_capability_that_the_engine_lacks_cannot_be_added_to_a_container() -> None:
    missing = capabilities.names(~capabilities.bounding() & ((1 << len(capabilities.CAPABILITIES)) - 1))
    if not missing:
        pytest.skip("this process may pass every capability on")
    with pytest.raises(InvalidArgument, match=f"cannot give {missing[0]} to a container"):
        check_rights(HostConfig(cap_add=[missing[0]]))


def test_options_of_mounts_are_parsed_once() -> None:
    entry = mount_plan({"destination": "/t", "type": "tmpfs", "options": ["nosuid", "ro", "size=1m"]}, {}, True)
    assert entry["flags"] == sys_.MS_NOSUID and entry["late_readonly"] and entry["data"] == "size=1m"
    bind = mount_plan({"destination": "/b", "source": "/s", "options": ["rbind", "ro", "rro", "rslave"]}, {}, True)
    assert bind["recursive"] and bind["set"] == 0 and bind["set_recursive"] == sys_.MOUNT_ATTR_RDONLY
    assert bind["live"] and bind["propagation"] == [sys_.MS_SLAVE | sys_.MS_REC]


def test_a_source_in_another_container_is_opened_in_its_mount_namespace() -> None:
    bind = mount_plan({"destination": "/dev/shm", "type": "bind", "source": "/proc/7/root/dev/shm"}, {}, True)
    assert (bind["namespace"], bind["source"]) == ("/proc/7/ns/mnt", "/dev/shm")


@pytest.mark.parametrize("destination", ["/", "/proc", "/proc/self/attr", "/x/../proc/sys", "proc/sys"])
def test_mounts_over_what_is_the_runtimes_are_refused(destination: str) -> None:
    with pytest.raises(InvalidArgument):
        mount_plan({"destination": destination, "type": "bind", "source": "/s"}, {}, True)


def test_the_files_of_lxcfs_may_lie_over_proc() -> None:
    assert mount_plan({"destination": "/proc/cpuinfo", "type": "bind", "source": "/s"}, {}, True)["kind"] == "bind"


def test_the_cgroup_mount_shows_the_containers_own_folder_in_each_hierarchy() -> None:
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}
    entry = mount_plan(mount, CGROUP.join_record("scow/e/c1", {}), True)
    assert entry["hierarchies"] == [
        ["memory", "/cg/memory/scow/e/c1"], ["cpu,cpuacct", "/cg/cpu,cpuacct/scow/e/c1"],
    ]  # fmt: skip
    assert (
        entry["attributes"] == sys_.MOUNT_ATTR_RDONLY | sys_.MOUNT_ATTR_NOSUID and not entry["flags"] & sys_.MS_RDONLY
    )
    two = {"version": 2, "directory": "/cg/scow/e/c1"}
    assert mount_plan(mount, two, True)["type"] == "cgroup2"
    assert mount_plan(mount, two, False)["source"] == "/cg/scow/e/c1"


def test_the_driver_is_a_runtime_and_leaves_nothing_where_a_spec_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    driver = NativeRuntime(
        DriverContext("native", tmp_path / "state", tmp_path / "run"), Hierarchies({"memory": str(tmp_path / "memory")})
    )
    assert isinstance(driver, Runtime)
    with pytest.raises(InvalidArgument):
        driver.create("c1", {**spec(security_opt=["seccomp=unconfined"]), "hooks": {"poststop": [{}]}}, [], tmp_path)
    assert driver.list() == [] and list((tmp_path / "memory").iterdir()) == []


def test_the_child_module_loads_nothing_but_the_standard_library_and_scow_linux() -> None:
    script = (
        "import sys, scow_runtime_native.child; wanted = ('scow', 'scow_runtime_native', 'msgspec', 'pyseccomp'); "
        "print(*(name for name in sys.modules if name.split('.')[0] in wanted))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "scow_runtime_native.init" in loaded
    outside = [m for m in loaded if m.startswith("scow") and not m.startswith(("scow.linux", "scow_runtime_native"))]
    assert (
        set(outside) <= {"scow", "scow.errors", "scow.plain_json"}
        and "msgspec" not in loaded
        and "pyseccomp" not in loaded
    )
    assert not {"scow_runtime_native.driver", "scow_runtime_native.plan"} & set(loaded)
