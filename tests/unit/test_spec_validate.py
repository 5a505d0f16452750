"""What a create request may not ask for, in Docker's words."""

from __future__ import annotations

import os
from typing import Any

import pytest

from scow.engine import spec
from scow.errors import InvalidArgument, ScowError
from scow.types import ContainerConfig, DeviceMapping, HostConfig, Ulimit

MB = 1 << 20


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"memory": 4 * MB}, "Minimum memory limit allowed is 6MB"),
        ({"memory": 64 * MB, "memory_swap": 32 * MB}, "Minimum memoryswap limit should be larger than memory limit"),
        ({"memory_swap": 32 * MB}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"memory": 64 * MB, "memory_reservation": 65 * MB}, "can not be less than memory reservation limit"),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"nano_cpus": 10**12}, f"as there are only {os.cpu_count()} CPUs available"),
        ({"nano_cpus": 10**9, "cpu_quota": 5000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        ({"cpu_period": 999}, "CPU cfs period can not be less than 1ms"),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms"),
        ({"cpuset_cpus": "0-4000"}, "Requested CPUs are not available - requested 0-4000, available: 0"),
        ({"cpuset_cpus": "x"}, "Invalid value x for cpuset"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"oom_score_adj": 1001}, "Invalid value 1001, range for oom score adj is"),
        ({"shm_size": -1}, "SHM size can not be less than 0"),
        ({"cap_add": ["nonsense"]}, 'invalid CapAdd: unknown capability: "CAP_NONSENSE"'),
        ({"cap_drop": ["CAP_X"]}, 'invalid CapDrop: unknown capability: "CAP_X"'),
        ({"security_opt": ["nonsense"]}, "invalid --security-opt 1: 'nonsense'"),
        ({"security_opt": ["foo=bar"]}, "invalid --security-opt 2: 'foo=bar'"),
        ({"security_opt": ["seccomp={"]}, "invalid --security-opt seccomp: not JSON"),
        ({"sysctls": {"kernel.panic": "1"}}, 'sysctl "kernel.panic" is not in a separate kernel namespace'),
        ({"sysctls": {"net.core.somaxconn": "1"}, "network_mode": "host"}, "not allowed in host network namespace"),
        ({"sysctls": {"kernel.shmmax": "1"}, "ipc_mode": "host"}, "not allowed in host IPC namespace"),
        ({"sysctls": {"kernel.hostname": "x"}}, "conflicts with the hostname option"),
        ({"pid_mode": "container:"}, "invalid PID mode: container:"),
        ({"ipc_mode": "foo"}, "invalid IPC mode: foo"),
        ({"uts_mode": "private"}, "invalid UTS mode: private"),
        ({"cgroupns_mode": "foo"}, "invalid cgroup namespace mode: foo"),
        ({"ulimits": [Ulimit(name="foo")]}, "invalid ulimit type: foo"),
        ({"ulimits": [Ulimit(name="nofile", soft=2, hard=1)]}, "ulimit soft limit must be less than or equal to hard"),
        ({"device_cgroup_rules": ["c 1:3"]}, "invalid device cgroup rule format: 'c 1:3'"),
        ({"devices": [DeviceMapping(path_on_host="/dev/null", cgroup_permissions="x")]}, "invalid device mode: x"),
        ({"devices": [DeviceMapping(path_on_host="/dev/none")]}, 'custom device "/dev/none": no such file'),
    ],
)
def test_a_bad_host_option_is_named(host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec.validate(ContainerConfig(), HostConfig(**host))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"working_dir": "data"}, "the working directory 'data' is invalid, it needs to be an absolute path"),
        ({"env": ["=x"]}, "invalid environment variable: =x"),
        ({"hostname": "under score!"}, "invalid hostname format"),
    ],
)
def test_a_bad_config_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        spec.validate(ContainerConfig(**config), HostConfig())


def test_a_hostname_with_the_hosts_uts_namespace_conflicts() -> None:
    with pytest.raises(InvalidArgument, match="conflicting options: hostname and the UTS mode"):
        spec.validate(ContainerConfig(hostname="x"), HostConfig(uts_mode="host"))


def test_what_can_be_run_gives_no_warnings() -> None:
    host = HostConfig(
        memory=64 * MB,
        memory_swap=-1,
        nano_cpus=10**9,
        cpuset_cpus="0",
        cap_add=["ALL"],
        sysctls={"net.ipv4.ip_forward": "1", "kernel.shmmax": "1", "fs.mqueue.msg_max": "1"},
        security_opt=["no-new-privileges:true", "seccomp=unconfined", "apparmor=unconfined"],
        ulimits=[Ulimit(name="nofile", soft=-1, hard=-1)],
        pid_mode="container:x",
    )
    assert spec.validate(ContainerConfig(hostname="a.b-c"), host) == []


def test_what_is_ignored_is_warned_of() -> None:
    warnings = spec.validate(ContainerConfig(), HostConfig(oom_kill_disable=True, security_opt=["label=type:x"]))
    assert [warning.split(" ", 1)[0] for warning in warnings] == ["SELinux", "OOM"]


def test_errors_are_scows_own() -> None:
    assert issubclass(InvalidArgument, ScowError)
