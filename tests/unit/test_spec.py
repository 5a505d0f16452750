"""From a container's record to the OCI runtime spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scow.engine import spec
from scow.engine import spec_defaults as defaults
from scow.engine.model import Container, MountPoint
from scow.engine.spec_security import all_capabilities
from scow.errors import InvalidArgument
from scow.types import ContainerConfig, CreateRequest, DeviceMapping, ExecRequest, HostConfig, ThrottleDevice, Ulimit

DIRECTORY = Path("/data/containers/abc")


def record(config: ContainerConfig | None = None, host: HostConfig | None = None, **more: Any) -> Container:
    return Container(
        id="0123456789abcdef" * 4,
        name="web",
        created_ns=0,
        request=CreateRequest(),
        config=config or ContainerConfig(),
        host_config=host or HostConfig(),
        image_id="",
        image_ref="",
        chain_id=None,
        path="/bin/sh",
        args=("-c", "true"),
        platform="linux",
        storage_driver="overlay",
        runtime="native",
        **more,
    )


def built(config: ContainerConfig | None = None, host: HostConfig | None = None, **more: Any) -> dict[str, Any]:
    return spec.build(record(config, host), directory=DIRECTORY, **more)


def mount(made: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [entry for entry in made["mounts"] if entry["destination"] == destination]
    return dict(found)


def namespaces(made: dict[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in made["linux"]["namespaces"]}


def test_a_container_without_options_has_dockers_defaults() -> None:
    made = built()
    assert made["process"]["args"] == ["/bin/sh", "-c", "true"]
    assert made["process"]["env"] == [f"PATH={defaults.PATH}", "HOSTNAME=0123456789ab"]
    assert made["hostname"] == "0123456789ab"
    assert set(made["process"]["capabilities"]["bounding"]) == set(defaults.CAPABILITIES)
    assert made["process"]["capabilities"]["inheritable"] == []
    assert set(namespaces(made)) == {"mount", "network", "pid", "ipc", "uts", "cgroup"}
    assert "/proc/kcore" in made["linux"]["maskedPaths"] and "/proc/sys" in made["linux"]["readonlyPaths"]
    assert made["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "ro" in mount(made, "/sys")["options"] and "ro" in mount(made, "/sys/fs/cgroup")["options"]
    assert "size=67108864" in mount(made, "/dev/shm")["options"]
    assert mount(made, "/etc/hosts")["source"] == "/data/containers/abc/hosts"


def test_the_environment_of_the_user_wins() -> None:
    config = ContainerConfig(env=["PATH=/opt", "A=1=2", "HOSTNAME"], tty=True)
    assert built(config)["process"]["env"] == ["PATH=/opt", "TERM=xterm", "A=1=2"]


def test_privileged_means_all_capabilities_no_filter_and_nothing_masked() -> None:
    made = built(host=HostConfig(privileged=True))
    assert set(made["process"]["capabilities"]["effective"]) == set(all_capabilities())
    assert "seccomp" not in made["linux"]
    assert made["linux"]["maskedPaths"] == [] == made["linux"]["readonlyPaths"]
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in mount(made, "/sys")["options"]
    assert "/dev/null" in {node["path"] for node in made["linux"]["devices"]}
    assert "cgroup" not in namespaces(made)


def test_capabilities_are_added_and_dropped() -> None:
    caps = built(host=HostConfig(cap_add=["net_admin"], cap_drop=["CAP_MKNOD"]))["process"]["capabilities"]["bounding"]
    assert "CAP_NET_ADMIN" in caps and "CAP_MKNOD" not in caps
    assert built(host=HostConfig(cap_drop=["ALL"], cap_add=["CHOWN"]))["process"]["capabilities"]["bounding"] == [
        "CAP_CHOWN"
    ]
    every = built(host=HostConfig(cap_add=["all"], cap_drop=["SYS_ADMIN"]))["process"]["capabilities"]["bounding"]
    assert set(every) == set(all_capabilities()) - {"CAP_SYS_ADMIN"}


def test_limits_come_in_the_units_of_the_runtime_spec() -> None:
    host = HostConfig(
        memory=64 << 20,
        nano_cpus=1_500_000_000,
        cpu_shares=512,
        pids_limit=9,
        cpuset_cpus="0",
        ulimits=[Ulimit(name="nofile", soft=10, hard=-1)],
        oom_score_adj=5,
    )
    made = built(host=host)
    limits = made["linux"]["resources"]
    assert limits["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert limits["cpu"] == {"shares": 512, "period": 100000, "quota": 150000, "cpus": "0"}
    assert limits["pids"] == {"limit": 9}
    assert made["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}]
    assert made["process"]["oomScoreAdj"] == 5


def test_devices_become_nodes_and_rules() -> None:
    host = HostConfig(
        devices=[DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/nil", cgroup_permissions="r")],
        device_cgroup_rules=["c 42:* rmw"],
        blkio_device_read_bps=[ThrottleDevice(path="/dev/zero", rate=7)],
    )
    linux = built(host=host)["linux"]
    assert linux["devices"][0] | {"fileMode": 0, "uid": 0, "gid": 0} == {
        "path": "/dev/nil", "type": "c", "major": 1, "minor": 3, "fileMode": 0, "uid": 0, "gid": 0,
    }  # fmt: skip
    assert {"allow": True, "access": "r", "type": "c", "major": 1, "minor": 3} in linux["resources"]["devices"]
    assert linux["resources"]["devices"][-1] == {"allow": True, "type": "c", "access": "rmw", "major": 42}
    assert linux["resources"]["blockIO"] == {"throttleReadBpsDevice": [{"major": 1, "minor": 5, "rate": 7}]}


def test_a_device_that_is_not_there_is_named() -> None:
    host = HostConfig(devices=[DeviceMapping(path_on_host="/dev/none-such")])
    with pytest.raises(InvalidArgument, match='custom device "/dev/none-such": no such file or directory'):
        built(host=host)


def test_host_modes_leave_the_namespaces_out() -> None:
    host = HostConfig(network_mode="host", pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="host")
    made = built(host=host)
    assert set(namespaces(made)) == {"mount"}
    assert made["hostname"] == "" and made["linux"]["sysctl"] == {}
    assert mount(made, "/dev/shm")["source"] == "/dev/shm"


def test_a_joined_container_is_entered_by_its_pid() -> None:
    host = HostConfig(network_mode="container:db", ipc_mode="container:db", pid_mode="container:db")
    made = built(host=host, joined={"network": 7, "ipc": 7, "pid": 7}, files=Path("/data/containers/db"))
    found = namespaces(made)
    assert found["network"] == "/proc/7/ns/net" and found["pid"] == "/proc/7/ns/pid"
    assert mount(made, "/dev/shm")["source"] == "/proc/7/root/dev/shm"
    assert mount(made, "/etc/hosts")["source"] == "/data/containers/db/hosts"
    assert spec.joins(host) == {"network": "db", "pid": "db", "ipc": "db"}


def test_joining_a_container_that_does_not_run_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot join the network namespace"):
        built(host=HostConfig(network_mode="container:db"))


def test_mounts_of_the_user_replace_the_systems_and_come_in_order_of_depth() -> None:
    points = (
        MountPoint(type="volume", destination="/a/b", source="/volumes/v", name="v", rw=False),
        MountPoint(type="bind", destination="/a", source="/host/a", propagation="rslave", options=("create",)),
        MountPoint(type="tmpfs", destination="/dev/shm", options=("size=1m", "exec")),
        MountPoint(type="bind", destination="/etc/hosts", source="/host/hosts", options=("nonrecursive",)),
    )
    made = spec.build(record(mounts=points), directory=DIRECTORY, sources={"/a/b": "/held/v"})
    order = [entry["destination"] for entry in made["mounts"]]
    assert order.index("/a") < order.index("/a/b") and order.count("/dev/shm") == 1
    assert mount(made, "/a")["options"] == ["rbind", "rslave"]
    assert mount(made, "/a/b") | {"source": "/held/v"} == mount(made, "/a/b")
    assert mount(made, "/a/b")["options"] == ["rbind", "ro", "rro", "rprivate"]
    assert mount(made, "/etc/hosts")["options"] == ["bind", "rprivate"]
    assert mount(made, "/dev/shm")["options"] == ["nosuid", "nodev", "rprivate", "size=1m", "exec"]


def test_a_mount_of_dev_takes_what_is_below_with_it() -> None:
    points = (MountPoint(type="bind", destination="/dev", source="/dev"),)
    made = spec.build(record(mounts=points), directory=DIRECTORY)
    assert [entry["destination"] for entry in made["mounts"] if entry["destination"].startswith("/dev")] == ["/dev"]


def test_security_options() -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]}'
    made = built(host=HostConfig(security_opt=["no-new-privileges", f"seccomp={profile}", "label=disable"]))
    assert made["process"]["noNewPrivileges"] is True
    assert made["linux"]["seccomp"]["syscalls"] == [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]
    assert "seccomp" not in built(host=HostConfig(security_opt=["seccomp=unconfined"]))["linux"]
    assert "seccomp" in built(host=HostConfig(security_opt=["seccomp=builtin"], privileged=True))["linux"]
    open_paths = built(host=HostConfig(masked_paths=[], readonly_paths=[]))["linux"]
    assert open_paths["maskedPaths"] == [] == open_paths["readonlyPaths"]


def test_the_init_read_only_root_and_cgroup_parent() -> None:
    made = built(host=HostConfig(init=True, readonly_rootfs=True, cgroup_parent="/jobs/"))
    assert made["annotations"]["scow.init"] == "true" and made["root"]["readonly"] is True
    assert made["linux"]["cgroupsPath"] == f"/jobs/{'0123456789abcdef' * 4}"
    assert "ro" in mount(made, "/etc/hosts")["options"]


def test_an_exec_inherits_from_the_container_and_changes_what_it_says() -> None:
    container = record(ContainerConfig(env=["A=1"], user="web", working_dir="/srv"))
    running = spec.build(container, directory=DIRECTORY)
    process = spec.exec_process(container, ExecRequest(cmd=["id"], env=["B=2"], tty=True), running)
    assert process["args"] == ["id"] and process["cwd"] == "/srv" and process["user"]["username"] == "web"
    assert process["env"][-3:] == ["A=1", "TERM=xterm", "B=2"]
    other = spec.exec_process(container, ExecRequest(cmd=["id"], user="0", working_dir="/", privileged=True), running)
    assert other["user"]["username"] == "0" and other["cwd"] == "/"
    assert set(other["capabilities"]["effective"]) == set(all_capabilities())
    assert running["process"]["args"] == ["/bin/sh", "-c", "true"]
