"""Properties of the runtime spec that are checked and turned into numbers before the fork: namespaces, sysctls, hooks,
scheduling, labels, devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow.linux import syscalls as sys_
from scow_runtime_native import labels, namespaces, scheduling_plan
from scow_runtime_native.plan import device_plan
from scow_runtime_native.plan_hooks import hook_plan, state_base

NOWHERE = "/proc/99999999/ns/"


def kinds(*entries: str, **paths: str) -> list[dict[str, str]]:
    return [{"type": kind} for kind in entries] + [{"type": kind, "path": path} for kind, path in paths.items()]


# ---------------------------------------------------------------- namespaces


def test_namespaces_are_new_joined_or_the_callers() -> None:
    linux = {"namespaces": kinds("mount", "pid", network="/run/netns/blue")}
    assert namespaces.read(linux) == {"mount": "", "pid": "", "network": "/run/netns/blue"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (kinds("mount", "moon"), "unknown namespace type 'moon'"),
        (kinds("mount", "pid", "pid"), "the namespace type 'pid' is there twice"),
        (kinds("mount", network="netns/blue"), "the path 'netns/blue' is not absolute"),
        (kinds("pid"), "no mount namespace: .* made on the host"),
        (kinds(mount="/proc/self/ns/mnt"), "the runtime's own mount namespace"),
    ],
)
def test_namespaces_that_cannot_be(entries: list[dict[str, str]], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        namespaces.read({"namespaces": entries})


def test_time_offsets_are_lines_for_the_kernel() -> None:
    offsets = {"monotonic": {"secs": 5}, "boottime": {"secs": -7, "nanosecs": 9}}
    assert namespaces.time_offsets({"timeOffsets": offsets}, {"time": ""}) == "monotonic 5 0\nboottime -7 9\n"
    assert namespaces.time_offsets({}, {"time": ""}) == ""


@pytest.mark.parametrize(
    ("offsets", "found", "message"),
    [
        ({"monotonic": {"secs": 1}}, {}, "timeOffsets without a time namespace"),
        ({"monotonic": {"secs": 1}}, {"time": NOWHERE + "time"}, "its offsets are fixed"),
        ({"realtime": {"secs": 1}}, {"time": ""}, "unknown clock 'realtime'"),
        ({"boottime": {"nanosecs": 10**9}}, {"time": ""}, "are not in 0-999999999"),
    ],
)
def test_time_offsets_that_cannot_be(offsets: Any, found: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        namespaces.time_offsets({"timeOffsets": offsets}, found)


# ---------------------------------------------------------------- sysctls


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("kernel.domainname", "kernel/domainname"),
    ],
)
def test_sysctls_of_the_containers_own_namespaces(name: str, path: str) -> None:
    own = {"ipc": "", "network": "", "uts": ""}
    assert namespaces.sysctls({"sysctl": {name: "1"}}, own) == [[f"/proc/sys/{path}", "1"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward is not allowed: the container has the host's network namespace"),
        ("kernel.msgmax", "kernel.msgmax is not allowed: the container has the host's IPC namespace"),
        ("fs.mqueue.msg_max", "the host's IPC namespace"),
        ("kernel.domainname", "the host's UTS namespace"),
        ("kernel.hostname", "the spec's hostname says it"),
        ("user.max_user_namespaces", "it needs a user namespace of the container's own"),
        ("vm.swappiness", "vm.swappiness is not allowed: it is the whole host's"),
        ("kernel.core_pattern", "it is the whole host's"),
        ("net.ipv4..x", "'net.ipv4..x' is no sysctl"),
        ("net/../kernel/core_pattern", "is no sysctl"),
        ("net.ipv4.//.//.kernel", "is no sysctl"),
    ],
)
def test_sysctls_of_the_host_are_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        namespaces.sysctls({"sysctl": {name: "1"}}, {"mount": ""})


def test_a_joined_namespace_has_sysctls_unless_it_is_the_hosts() -> None:
    linux = {"sysctl": {"net.core.somaxconn": 9}}
    assert namespaces.sysctls(linux, {"network": NOWHERE + "net"}) == [["/proc/sys/net/core/somaxconn", "9"]]
    with pytest.raises(InvalidArgument, match="the host's network namespace"):
        namespaces.sysctls(linux, {"network": "/proc/self/ns/net"})


# ---------------------------------------------------------------- hooks


def test_hooks_are_kept_in_order_and_complete() -> None:
    given = {
        "poststop": [],
        "prestart": [{"path": "/a"}, {"path": "/b", "args": ["b", "c"], "env": ["X=1"], "timeout": 3}],
    }
    assert hook_plan({"hooks": given}) == {
        "prestart": [
            {"path": "/a", "args": ["/a"], "env": [], "timeout": 0},
            {"path": "/b", "args": ["b", "c"], "env": ["X=1"], "timeout": 3},
        ]
    }
    assert hook_plan({}) == {} == hook_plan({"hooks": None})


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"prestop": []}, "unknown kind of hook 'prestop'"),
        ({"prestart": [{"path": "bin/x"}]}, "prestart hook #0: the path 'bin/x' is not absolute"),
        ({"poststop": [{"path": "/x", "timeout": 0}]}, "the timeout 0 is not greater than zero"),
    ],
)
def test_hooks_that_cannot_be(hooks: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        hook_plan({"hooks": hooks})


def test_the_state_has_what_the_spec_requires() -> None:
    spec = {"ociVersion": "1.1.0", "annotations": {"a": "b"}}
    assert state_base("c1", spec, Path("/b")) == {
        "ociVersion": "1.1.0", "id": "c1", "bundle": "/b", "annotations": {"a": "b"},
    }  # fmt: skip


# ---------------------------------------------------------------- scheduling


def test_scheduling_becomes_numbers() -> None:
    process = {
        "scheduler": {
            "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"], "runtime": 1,
            "deadline": 2, "period": 3,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 4},
        "execCPUAffinity": {"initial": "7", "final": "0-3,7"},
    }  # fmt: skip
    assert scheduling_plan.read(process, {"personality": {"domain": "LINUX32"}}) == {
        "scheduler": [6, 6, 0, 0, 1, 2, 3],
        "io_priority": 1 << 13 | 4,
        "personality": 8,
        "initial_cpus": [7],
        "final_cpus": [0, 1, 2, 3, 7],
    }
    assert scheduling_plan.read({}, {}) == {}


def test_every_word_of_scheduling_is_known() -> None:
    def numbers(key: str, member: str, *words: Any) -> list[Any]:
        given = {"policy": "SCHED_OTHER", "priority": 0}
        return [scheduling_plan.read({key: {**given, member: word}}, {}).popitem()[1] for word in words]

    kinds = [f"SCHED_{word}" for word in ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE")]
    assert [made[0] for made in numbers("scheduler", "policy", *kinds)] == list(range(7))
    words = ("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX")
    flags = [[f"SCHED_FLAG_{word}"] for word in words]
    assert [made[1] for made in numbers("scheduler", "flags", *flags)] == [1 << bit for bit in range(7)]
    classes = [f"IOPRIO_CLASS_{word}" for word in ("RT", "BE", "IDLE")]
    assert numbers("ioPriority", "class", *classes) == [1 << 13, 2 << 13, 3 << 13]
    domains = [scheduling_plan.read({}, {"personality": {"domain": word}}) for word in ("LINUX", "LINUX32")]
    assert domains == [{"personality": 0}, {"personality": 8}]


@pytest.mark.parametrize(
    ("process", "linux", "message"),
    [
        ({"scheduler": {"policy": "SCHED_X"}}, {}, "scheduler.policy: unknown value 'SCHED_X'"),
        ({"scheduler": {"policy": "SCHED_OTHER", "flags": ["X"]}}, {}, "scheduler.flags: unknown value 'X'"),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, {}, "20 is not in -20 to 19"),
        ({"scheduler": {"policy": "SCHED_OTHER", "priority": 1}}, {}, "SCHED_OTHER has none, only SCHED_FIFO"),
        ({"scheduler": {"policy": "SCHED_FIFO", "runtime": 1}}, {}, "only SCHED_DEADLINE has"),
        ({"ioPriority": {"class": "X", "priority": 1}}, {}, "ioPriority.class: unknown value 'X'"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, {}, "8 is not in 0 to 7"),
        ({}, {"personality": {"domain": "BSD"}}, "personality.domain: unknown value 'BSD'"),
        ({}, {"personality": {"domain": "LINUX", "flags": ["X"]}}, "personality.flags"),
        ({"execCPUAffinity": {"initial": "0-"}}, {}, "'0-' is no list of CPUs"),
        ({"execCPUAffinity": {"final": "3-1"}}, {}, "'3-1' is no range of CPUs"),
    ],
)
def test_scheduling_that_cannot_be(process: Any, linux: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        scheduling_plan.read(process, linux)


# ---------------------------------------------------------------- labels


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with AppArmor, which has files of its own, and SELinux."""
    (tmp_path / "sys/module/apparmor/parameters").mkdir(parents=True)
    (tmp_path / "sys/module/apparmor/parameters/enabled").write_text("Y\n")
    (tmp_path / "sys/fs/selinux").mkdir(parents=True)
    (tmp_path / "sys/fs/selinux/enforce").write_text("1")
    (tmp_path / "proc/self/attr/apparmor").mkdir(parents=True)
    return tmp_path


def test_labels_are_written_where_the_kernel_takes_them_at_execve(host: Path) -> None:
    process = {"apparmorProfile": "docker-default", "selinuxLabel": "system_u:system_r:container_t:s0"}
    assert labels.process_labels(process, str(host)) == [
        ["apparmor/exec", "exec docker-default"], ["exec", "system_u:system_r:container_t:s0"],
    ]  # fmt: skip
    (host / "proc/self/attr/apparmor").rmdir()  # Linux before 5.8
    assert labels.process_labels({"apparmorProfile": "x"}, str(host)) == [["exec", "exec x"]]


def test_a_label_without_its_security_module_is_refused(tmp_path: Path) -> None:
    for process, message in (
        ({"apparmorProfile": "x"}, "AppArmor profile 'x': this host has no AppArmor"),
        ({"selinuxLabel": "x"}, "SELinux label 'x': this host has no SELinux"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            labels.process_labels(process, str(tmp_path))
    with pytest.raises(InvalidArgument, match="mount label 'x': this host has no SELinux"):
        labels.mount_label({"mountLabel": "x"}, str(tmp_path))
    assert labels.process_labels({}, str(tmp_path)) == [] and labels.mount_label({}, str(tmp_path)) == ""


def test_apparmor_that_is_switched_off_is_not_there(host: Path) -> None:
    (host / "sys/module/apparmor/parameters/enabled").write_text("N\n")
    assert not labels.has_apparmor(str(host))


def test_the_mount_label_is_an_option_of_the_containers_own_filesystems(host: Path) -> None:
    label = labels.mount_label({"mountLabel": "a:b:c:s0:c1,c2"}, str(host))
    assert labels.mount_data(label, "tmpfs") == ('context="a:b:c:s0:c1,c2"',)
    assert labels.mount_data(label, "proc") == () == labels.mount_data("", "tmpfs")


# ---------------------------------------------------------------- devices


def test_the_default_devices_are_there_whatever_the_spec_says() -> None:
    made = {node["path"]: node for node in device_plan([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])}
    assert set(made) == {f"/dev/{name}" for name in ("null", "zero", "full", "tty", "random", "urandom", "fuse")}
    assert made["/dev/fuse"]["own"] and not made["/dev/null"].get("own")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"path": "dev/x", "type": "c", "major": 1, "minor": 3}, "not absolute"),
        ({"path": "/", "type": "c", "major": 1, "minor": 3}, "or the root"),
        ({"path": "/dev/x", "type": "z"}, "device /dev/x: unknown type 'z'"),
        ({"path": "/dev/x", "type": "b", "major": 1}, "needs major and minor numbers"),
    ],
)
def test_devices_that_cannot_be(device: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        device_plan([device])


def test_flags_of_namespaces_are_the_kernels() -> None:
    assert namespaces.JOIN["time"] == sys_.CLONE_NEWTIME and "time" not in namespaces.CLONE
    assert namespaces.is_own("mount", "/proc/self/ns/mnt") and not namespaces.is_own("mount", "/proc/self/ns/net")
    assert not os.path.exists(NOWHERE)
