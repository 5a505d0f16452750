"""The native runtime on the host's kernel: what a container sees, what it may do, and what it cannot reach."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from scow.engine.model import MountPoint
from scow.engine.spec_defaults import MASKED_PATHS, READONLY_PATHS
from scow.errors import InvalidArgument
from scow.linux import syscalls
from scow.testing.runtime import BUSYBOX, Lab, eventually
from scow.types import ContainerConfig, DeviceMapping, HostConfig, Ulimit

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]
DEFAULT_CAPABILITIES = 0xA80425FB  # capsh --decode of a container of dockerd


def status(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def namespaces(pid: int | str) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "net", "mnt", "uts", "ipc", "cgroup")}


# ---------------------------------------------------------------- namespaces


def test_every_namespace_is_the_containers_own(lab: Lab) -> None:
    running = lab.up()
    ours, theirs = namespaces("self"), namespaces(running.pid)
    assert not set(ours.values()) & set(theirs.values())


def test_host_modes_share_the_hosts(lab: Lab) -> None:
    host = HostConfig(network_mode="host", pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="host")
    theirs = namespaces(lab.up(host=host).pid)
    assert {kind for kind, name in namespaces("self").items() if theirs[kind] == name} == set(theirs) - {"mnt"}


def test_another_containers_namespaces_can_be_joined(lab: Lab) -> None:
    first = lab.up("sh", "-c", "echo shared > /dev/shm/file; sleep 60", host=HostConfig(ipc_mode="shareable"))
    assert eventually(lambda: Path(f"/proc/{first.pid}/root/dev/shm/file").exists())
    mode = f"container:{first.id}"
    host = HostConfig(network_mode=mode, pid_mode=mode, ipc_mode=mode)
    joined = dict.fromkeys(("network", "pid", "ipc"), first.pid)
    script = "cat /dev/shm/file; ps | grep -c ' sleep 60$'"
    assert lab.sh(script, host=host, joined=joined) == "shared\n1\n"
    second = lab.up(host=host, joined=joined)
    ours, theirs = namespaces(first.pid), namespaces(second.pid)
    assert {kind for kind in ours if ours[kind] == theirs[kind]} == {"net", "pid", "ipc"}


def test_hostname_domainname_and_sysctls(lab: Lab) -> None:
    config = ContainerConfig(hostname="web-1", domainname="example.org")
    host = HostConfig(sysctls={"net.ipv4.ip_forward": "1", "kernel.shmmax": "4096"})
    output = lab.sh("hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax "
                    "/proc/sys/net/ipv4/ip_unprivileged_port_start", config=config, host=host)  # fmt: skip
    assert output.split() == ["web-1", "example.org", "1", "4096", "0"]


def test_a_sysctl_that_the_kernel_refuses_is_named(lab: Lab) -> None:
    failure = lab.refused("true", host=HostConfig(sysctls={"net.ipv4.ip_forward": "x"}))
    assert failure["kind"] == "setup" and "cannot set sysctl net.ipv4.ip_forward to 'x'" in failure["error"]


def test_the_loopback_interface_is_up(lab: Lab) -> None:
    assert "LOOPBACK,UP" in lab.sh("ip link show lo")


# ---------------------------------------------------------------- the root


def test_the_default_mounts_and_their_flags(lab: Lab) -> None:
    mounts = {line.split()[4]: line for line in lab.sh("cat /proc/self/mountinfo").splitlines()}
    for point, words in {
        "/": "overlay",
        "/proc": "nosuid,nodev,noexec",
        "/dev": "nosuid",
        "/dev/pts": "ptmxmode=666",
        "/sys": "ro,nosuid,nodev,noexec",
        "/sys/fs/cgroup": "ro,nosuid,nodev,noexec",
        "/dev/mqueue": "nosuid,nodev,noexec",
        "/dev/shm": "size=65536k",
        "/etc/hosts": "hosts",
    }.items():
        assert words in mounts[point], mounts[point]
    assert not any("shared:" in line or "master:" in line for line in mounts.values())


def test_devices_and_links(lab: Lab) -> None:
    output = lab.sh("cd /dev; stat -c '%n %t:%T %a' full null random tty urandom zero; readlink fd stdin ptmx 2>&1 || "
                    "for l in fd stdin stdout stderr ptmx; do readlink $l; done")  # fmt: skip
    assert "null 1:3 666" in output and "tty 5:0 666" in output
    assert output.split()[-5:] == ["/proc/self/fd", *(f"/proc/self/fd/{n}" for n in range(3)), "pts/ptmx"]


def test_masked_paths_are_empty_and_read_only_paths_refuse_writes(lab: Lab) -> None:
    masked = [path for path in MASKED_PATHS if os.path.exists(path)]
    readonly = [path for path in READONLY_PATHS if os.path.isdir(path)]
    assert masked and readonly
    script = "; ".join(
        [f"if [ -d {path} ]; then ls -A {path} | wc -l; else cat {path} | wc -c; fi" for path in masked]
        + [f"grep -c ' {path} ro,' /proc/self/mountinfo" for path in readonly]
    )
    assert lab.sh(script).split() == ["0"] * len(masked) + ["1"] * len(readonly)


def test_a_read_only_root_refuses_writes_but_not_to_its_tmpfs(lab: Lab) -> None:
    host = HostConfig(readonly_rootfs=True, tmpfs={"/tmp": "size=1m,mode=700"})
    output = lab.sh("touch /file 2>&1 || true; touch /tmp/file; stat -c %a /tmp", host=host)
    assert "Read-only file system" in output and output.endswith("700\n")


def test_a_tmpfs_keeps_mode_and_owner_of_what_it_covers(lab: Lab) -> None:
    (lab.lower / "run").mkdir(mode=0o750)
    os.chown(lab.lower / "run", 33, 34)
    assert lab.sh("stat -c '%a %u %g' /run", host=HostConfig(tmpfs={"/run": ""})) == "750 33 34\n"


def test_binds_of_directories_and_files_writable_and_not(lab: Lab) -> None:
    (lab.directory / "data/below").mkdir(parents=True)
    (lab.directory / "file").write_text("content\n")
    mounts = [
        MountPoint(type="bind", destination="/new/place", source=f"{lab.directory}/data"),
        MountPoint(type="bind", destination="/etc/conf", source=f"{lab.directory}/file", rw=False),
    ]
    output = lab.sh("touch /new/place/made; cat /etc/conf; echo x > /etc/conf 2>&1 || echo refused", mounts=mounts)
    assert output.startswith("content\n") and output.endswith("refused\n")
    assert (lab.directory / "data/made").exists()


def test_a_read_only_bind_is_read_only_throughout(lab: Lab) -> None:
    inner = lab.directory / "data/inner"
    inner.mkdir(parents=True)
    syscalls.mount("tmpfs", str(inner), "tmpfs")
    try:
        mounts = [MountPoint(type="bind", destination="/data", source=f"{lab.directory}/data", rw=False)]
        assert "refused" in lab.sh("touch /data/inner/file 2>/dev/null || echo refused", mounts=mounts)
    finally:
        syscalls.umount(str(inner))


def test_a_slave_bind_shows_later_mounts_of_the_host_and_a_private_one_does_not(lab: Lab) -> None:
    shared = lab.directory / "shared"
    (shared / "late").mkdir(parents=True)
    syscalls.mount(str(shared), str(shared), None, syscalls.MS_BIND)
    try:
        syscalls.mount(None, str(shared), None, syscalls.MS_SHARED)
        mounts = [
            MountPoint(type="bind", destination="/slave", source=str(shared), propagation="rslave"),
            MountPoint(type="bind", destination="/private", source=str(shared), propagation="rprivate"),
        ]
        running = lab.up(mounts=mounts)
        syscalls.mount("tmpfs", str(shared / "late"), "tmpfs")
        try:
            (shared / "late/file").touch()
            assert (
                running.exec("ls", "/slave/late", "/private/late")["output"] == "/private/late:\n\n/slave/late:\nfile\n"
            )
        finally:
            syscalls.umount(str(shared / "late"), syscalls.MNT_DETACH)
    finally:
        syscalls.umount(str(shared), syscalls.MNT_DETACH)


def test_nothing_that_a_container_mounts_reaches_the_host(lab: Lab) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    lab.up(host=HostConfig(tmpfs={"/tmp": ""}))
    assert Path("/proc/self/mountinfo").read_text() == before


# ---------------------------------------------------------------- what an image or a neighbour could try


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_a_link_in_place_of_proc_or_sys_is_refused(lab: Lab, name: str) -> None:
    (lab.directory / "outside").mkdir()
    (lab.lower / name).rmdir()
    (lab.lower / name).symlink_to(lab.directory / "outside")
    failure = lab.refused("true")
    assert f"must be mounted on an ordinary directory: /{name}" in failure["error"]
    assert not any((lab.directory / "outside").iterdir())


def test_links_in_place_of_mount_points_lead_nowhere_outside(lab: Lab) -> None:
    outside = lab.directory / "outside"
    outside.mkdir()
    (outside / "hosts").write_text("the host's\n")
    (lab.lower / "etc/hosts").symlink_to(outside / "hosts")
    (lab.lower / "dev").rmdir()
    (lab.lower / "dev").symlink_to(outside)
    (lab.lower / "link").symlink_to("../../../../../../.." + str(outside))
    (lab.directory / "data").mkdir()
    mounts = [MountPoint(type="bind", destination="/link/volume", source=f"{lab.directory}/data")]
    output = lab.sh("cat /etc/hosts; ls -d /link/volume; test -c /dev/null", mounts=mounts)
    assert output == "# hosts\n/link/volume\n"
    assert [path.name for path in outside.iterdir()] == ["hosts"]
    assert (outside / "hosts").read_text() == "the host's\n"


def test_a_device_node_at_a_link_does_not_follow_it(lab: Lab) -> None:
    (lab.directory / "outside").mkdir()
    (lab.lower / "escape").symlink_to(lab.directory / "outside")
    device = DeviceMapping(path_on_host="/dev/zero", path_in_container="/escape/zero")
    lab.sh("test -c /escape/zero", host=HostConfig(devices=[device]))
    assert not any((lab.directory / "outside").iterdir())


@pytest.mark.parametrize("cwd", ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/9"])
def test_a_working_directory_cannot_be_a_descriptor_of_the_host(lab: Lab, cwd: str) -> None:
    failure = lab.refused("ls", config=ContainerConfig(working_dir=cwd))
    assert failure is not None and failure["kind"] in ("cannot_run", "setup")


def test_a_mount_over_proc_is_refused(lab: Lab) -> None:
    for destination in ("/proc", "/proc/self", "/proc/sys/../self"):
        point = MountPoint(type="bind", destination=destination, source="/tmp")
        with pytest.raises(InvalidArgument, match="/proc"):
            lab.make("true", mounts=[point])


def test_no_descriptor_but_stdio_reaches_the_program(lab: Lab) -> None:
    assert lab.sh("ls /proc/1/fd; true").split() == ["0", "1", "2"]
    assert lab.up().exec("sh", "-c", "ls /proc/$$/fd; true")["output"].split() == ["0", "1", "2"]


def test_a_process_that_waits_for_its_start_is_not_seen_in_the_pid_namespace_that_it_will_be_in(lab: Lab) -> None:
    first = lab.up()
    host = HostConfig(pid_mode=f"container:{first.id}", cap_drop=["ALL"])
    waiting = lab.make("sleep", "60", host=host, joined={"pid": first.pid})
    assert waiting.create() == {"ready": True}
    assert first.exec("sh", "-c", "echo /proc/[0-9]*")["output"].split() == ["/proc/1", "/proc/2"]
    assert waiting.start() is None
    assert os.readlink(f"/proc/{waiting.pid}/ns/pid") == os.readlink(f"/proc/{first.pid}/ns/pid")


# ---------------------------------------------------------------- users and rights


def test_the_default_capabilities_and_the_seccomp_filter(lab: Lab) -> None:
    found = status(lab.sh("cat /proc/self/status"))
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapBnd"], 16) == DEFAULT_CAPABILITIES
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert found["Seccomp"] == "2" and found["NoNewPrivs"] == "0"


def test_another_user_has_no_capabilities_and_its_own_groups_and_home(lab: Lab) -> None:
    output = lab.sh("id; echo $HOME; cat /proc/self/status", config=ContainerConfig(user="web"))
    found = status(output)
    assert output.startswith("uid=33(web) gid=34(web) groups=10(wheel),34(web)\n/srv\n")
    assert int(found["CapEff"], 16) == 0 and int(found["CapBnd"], 16) == DEFAULT_CAPABILITIES


def test_another_user_can_open_its_output_again(lab: Lab) -> None:
    assert lab.sh("echo out > /dev/stdout; echo err > /dev/stderr", config=ContainerConfig(user="1234")) == "out\nerr\n"


def test_a_user_that_the_image_does_not_know_is_named(lab: Lab) -> None:
    failure = lab.refused("true", config=ContainerConfig(user="nobody"))
    assert failure["error"] == "unable to find user nobody: no matching entries in passwd file"


def test_no_new_privileges_and_an_own_profile(lab: Lab) -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}'  # noqa: E501
    host = HostConfig(security_opt=["no-new-privileges", f"seccomp={profile}"])
    output = lab.sh("mkdir /x 2>&1 || true; cat /proc/self/status", host=host)
    assert "No space left" in output and status(output)["NoNewPrivs"] == "1"


def test_unconfined_has_no_filter(lab: Lab) -> None:
    assert (
        status(lab.sh("cat /proc/self/status", host=HostConfig(security_opt=["seccomp=unconfined"])))["Seccomp"] == "0"
    )


def test_privileged_has_the_engines_rights_and_the_hosts_devices(lab: Lab) -> None:
    output = lab.sh("ls /dev; mount -t tmpfs none /tmp; cat /proc/self/status", host=HostConfig(privileged=True))
    ours = status(Path("/proc/self/status").read_text())
    assert status(output)["CapEff"] == ours["CapBnd"] and status(output)["Seccomp"] == "0"
    assert {e.name for e in Path("/dev").iterdir() if e.is_char_device() and not e.is_symlink()} - {"console"} <= set(
        output.split()
    )


def test_a_container_may_not_mount_or_make_user_namespaces(lab: Lab) -> None:
    output = lab.sh("mount -t tmpfs none /tmp 2>&1 || true; unshare -U true 2>&1 || true")
    assert output.count("ermi") == 2 and output.count("denied") + output.count("not permitted") == 2


def test_ulimits_are_set_and_one_that_cannot_be_is_explained(lab: Lab) -> None:
    limit = Ulimit(name="nofile", soft=7, hard=8)
    assert lab.sh("ulimit -Sn; ulimit -Hn", host=HostConfig(ulimits=[limit])) == "7\n8\n"
    if int(status(Path("/proc/self/status").read_text())["CapEff"], 16) >> 24 & 1:
        return  # CAP_SYS_RESOURCE: any limit can be raised here
    failure = lab.refused("true", host=HostConfig(ulimits=[Ulimit(name="memlock", soft=1 << 40, hard=1 << 40)]))
    assert "cannot set ulimit memlock" in failure["error"] and "CAP_SYS_RESOURCE" in failure["error"]


def test_the_oom_score_is_raised(lab: Lab) -> None:
    assert lab.sh("cat /proc/self/oom_score_adj", host=HostConfig(oom_score_adj=321)) == "321\n"


def test_the_umask_and_the_signals_are_ordinary(lab: Lab) -> None:
    found = status(lab.run("cat", "/proc/self/status")[1])
    assert found["Umask"] == "0022"
    assert int(found["SigIgn"], 16) == int(found["SigBlk"], 16) == 0
