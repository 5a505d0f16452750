"""User namespaces in the native runtime: rights inside, none outside, and owners that only look different."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from scow.engine.id_ranges import IdRange
from scow.engine.model import MountPoint
from scow.ports import Mount
from scow.testing.runtime import BUSYBOX, Lab
from scow.types import ContainerConfig, DeviceMapping, HostConfig, Ulimit

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]
IDS = IdRange(uid=300000, gid=400000, size=65536)


def mapping(pid: int, kind: str) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/{kind}_map").read_text().split()]


def owner(path: Path) -> tuple[int, int]:
    has = path.stat(follow_symlinks=False)
    return has.st_uid, has.st_gid


def test_root_inside_is_an_ordinary_user_outside(lab: Lab) -> None:
    running = lab.up(ids=IDS)
    assert mapping(running.pid, "uid") == [0, 300000, 65536] and mapping(running.pid, "gid") == [0, 400000, 65536]
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{running.pid}/status").read_text(), re.MULTILINE))
    assert fields["Uid"].split() == ["300000"] * 4 and fields["Gid"].split() == ["400000"] * 4


def test_every_namespace_belongs_to_the_user_namespace(lab: Lab) -> None:
    running = lab.up(ids=IDS)
    own = {kind: os.readlink(f"/proc/{running.pid}/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in own}
    assert {kind for kind in own if own[kind] == ours[kind]} <= {"time", "time_for_children"}


def test_the_image_is_roots_inside_and_untouched_on_disk(lab: Lab) -> None:
    os.chown(lab.lower / "root", 33, 34)
    output = lab.sh("stat -c '%u %g' /bin/busybox /root /etc /", ids=IDS)
    assert output.splitlines() == ["0 0", "33 34", "0 0", "0 0"]
    assert owner(lab.lower / "bin/busybox") == (0, 0) and owner(lab.lower / "root") == (33, 34)


def test_what_the_container_makes_and_changes_is_its_users_on_disk_too(lab: Lab) -> None:
    running = lab.up(ids=IDS)
    script = "echo a > /made; mkdir /dir; chown 33:34 /dir; echo x >> /etc/passwd; rm /etc/group; stat -c %u /made"
    assert running.exec("sh", "-ec", script)["output"] == "0\n"
    upper = next(lab.directory.glob("*/upper"))
    assert [owner(upper / name) for name in ("made", "dir", "etc/passwd")] == [(0, 0), (33, 34), (0, 0)]
    assert owner(Path(f"/proc/{running.pid}/root/made")) == (300000, 400000)


def test_the_default_container_works_as_without(lab: Lab) -> None:
    config = ContainerConfig(hostname="web-1")
    script = (
        "hostname; ip link show lo | grep -c UP; test -c /dev/null; echo x > /dev/null; stat -c %u /dev/null /dev/shm; "
        "touch /dev/shm/a /dev/b; ls -d /proc/self/fd /sys/class/net /dev/mqueue /dev/pts/ptmx; cat /etc/hosts; "
        "cat /proc/sys/net/ipv4/ping_group_range; test -w /etc/hosts"
    )
    output = lab.sh(script, config=config, ids=IDS)
    assert output.split() == [
        "web-1", "1", "0", "0", "/dev/mqueue", "/dev/pts/ptmx", "/proc/self/fd", "/sys/class/net", "#", "hosts",
        "0", "65535",
    ]  # fmt: skip


def test_an_exec_is_in_the_user_namespace(lab: Lab) -> None:
    running = lab.up(ids=IDS)
    result = running.exec(
        "sh", "-c", "id -u; cat /proc/self/uid_map; echo out > /dev/stdout; readlink /proc/self/ns/user"
    )
    assert result["output"].split()[:5] == ["0", "0", "300000", "65536", "out"]
    assert result["output"].split()[5] == os.readlink(f"/proc/{running.pid}/ns/user")
    other = running.exec("sh", "-c", "id; echo out > /dev/stdout; cat /proc/self/status", user="web")["output"]
    assert other.startswith("uid=33(web) gid=34(web) groups=10(wheel),34(web)\nout\n")
    assert re.search(r"^CapEff:\s*0+$", other, re.MULTILINE)


def test_a_terminal_is_the_containers(lab: Lab) -> None:
    output = lab.run("sh", "-c", "tty; stat -c %u $(tty) /dev/console; echo x > /dev/console", tty=True, ids=IDS)[1]
    assert output.split() == ["/dev/pts/0", "0", "0", "x"]
    running = lab.up(ids=IDS)
    assert running.exec("sh", "-c", "tty; stat -c %u $(tty); echo x > $(tty)", tty=True)["output"].split() == [
        "/dev/pts/0", "0", "x",
    ]  # fmt: skip


def test_other_users_inside_have_their_groups_and_none_of_the_engines(lab: Lab) -> None:
    output = lab.sh("id; grep Groups /proc/self/status", config=ContainerConfig(user="web"), ids=IDS)
    assert output.splitlines() == ["uid=33(web) gid=34(web) groups=10(wheel),34(web)", "Groups:\t10 34 "]
    assert "Groups:\t0 " in lab.sh("grep Groups /proc/self/status", ids=IDS)


def test_a_user_beyond_the_range_is_refused_by_name(lab: Lab) -> None:
    failure = lab.refused("true", config=ContainerConfig(user="70000"), ids=IDS)
    assert "70000" in failure["error"] and "user namespace does not have" in failure["error"]


def test_plain_binds_are_nobodys_and_idmapped_ones_ours(lab: Lab) -> None:
    for name in ("plain", "mapped"):
        (lab.directory / name).mkdir()
        (lab.directory / name / "file").write_text("content")
    mounts = [
        MountPoint(type="bind", destination="/plain", source=f"{lab.directory}/plain"),
        MountPoint(type="bind", destination="/mapped", source=f"{lab.directory}/mapped", mode="idmap"),
    ]
    script = "stat -c '%u %g' /plain/file /mapped/file; touch /plain/x 2>/dev/null || echo refused; touch /mapped/x"
    assert lab.sh(script, mounts=mounts, ids=IDS).splitlines() == ["65534 65534", "0 0", "refused"]
    assert owner(lab.directory / "mapped/x") == (0, 0)


def test_a_bind_below_a_folder_that_is_closed_to_others_can_be_mounted(lab: Lab) -> None:
    home = lab.directory / "home"
    (home / "data").mkdir(parents=True)
    (home / "data/file").write_text("content\n")
    os.chown(home, 1000, 1000)
    home.chmod(0o700)
    mounts = [MountPoint(type="bind", destination="/data", source=f"{home}/data", rw=False)]
    assert lab.sh("cat /data/file; touch /data/x 2>/dev/null || echo refused", mounts=mounts, ids=IDS) == (
        "content\nrefused\n"
    )


def test_a_filesystem_that_cannot_be_idmapped_is_named(lab: Lab) -> None:
    mounts = [MountPoint(type="bind", destination="/x", source="/proc/sys", mode="idmap")]
    failure = lab.refused("true", mounts=mounts, ids=IDS)
    assert "/proc/sys cannot be idmapped: the filesystem (proc)" in failure["error"]
    assert failure["stage"] == "mounting /x"


def test_devices_are_there_and_no_others_can_be_made(lab: Lab) -> None:
    device = DeviceMapping(path_on_host="/dev/zero", path_in_container="/dev/deep/zero2", cgroup_permissions="rwm")
    script = (
        "head -c 4 /dev/deep/zero2 | wc -c; stat -c '%u %t:%T' /dev/deep/zero2; head -c 1 /dev/urandom | wc -c; "
        "mknod /dev/mem c 1 1 2>/dev/null || echo refused; mknod /tmp/null c 1 3 2>/dev/null || echo refused"
    )
    output = lab.sh(script, host=HostConfig(devices=[device]), ids=IDS)
    assert output.split("\n")[:-1] == ["4", "0 1:5", "1", "refused", "refused"]


def test_rights_reach_what_the_container_owns_and_nothing_else(lab: Lab) -> None:
    host = HostConfig(cap_add=["ALL"], security_opt=["seccomp=unconfined", "systempaths=unconfined"])
    script = (
        "hostname other; mount -t tmpfs none /mnt && echo mounted; ip link set lo down && echo down; "
        "echo 1 > /proc/sys/kernel/sysrq || echo refused; "
        "mount -t ext4 /dev/vda /mnt 2>/dev/null || echo refused; "
        "mount -o remount,size=1m /dev 2>/dev/null || echo refused"
    )
    (lab.lower / "mnt").mkdir()
    output = lab.sh(script, host=host, ids=IDS)
    assert [line for line in output.splitlines() if "can't" not in line] == ["mounted", "down", *["refused"] * 3]


def test_limits_and_the_oom_score_are_set_with_the_engines_rights(lab: Lab) -> None:
    host = HostConfig(oom_score_adj=321, ulimits=[Ulimit(name="nofile", soft=7, hard=8)])
    assert lab.sh("cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn", host=host, ids=IDS).split() == [
        "321", "7", "8",
    ]  # fmt: skip


def test_sysctls_of_the_containers_namespaces_are_set(lab: Lab) -> None:
    host = HostConfig(sysctls={"net.ipv4.ip_forward": "1", "kernel.shmmax": "4096"})
    output = lab.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax", host=host, ids=IDS)
    assert output.split() == ["1", "4096"]


def test_another_containers_namespaces_can_be_joined_with_its_user_namespace(lab: Lab) -> None:
    first = lab.up("sh", "-c", "echo shared > /dev/shm/file; sleep 60", host=HostConfig(ipc_mode="shareable"), ids=IDS)
    mode = f"container:{first.id}"
    host = HostConfig(network_mode=mode, pid_mode=mode, ipc_mode=mode)
    joined = dict.fromkeys(("network", "pid", "ipc", "user"), first.pid)
    script = "sleep 0.2; cat /dev/shm/file; ps | grep -c ' sleep 60$'; id -u; ls -d /sys/class/net/lo"
    assert lab.sh(script, host=host, joined=joined, ids=IDS).split() == ["shared", "1", "0", "/sys/class/net/lo"]
    second = lab.up(host=host, joined=joined, ids=IDS)
    kinds = [kind for kind in ("user", "net", "pid", "ipc", "uts") if os.readlink(f"/proc/{first.pid}/ns/{kind}") ==
             os.readlink(f"/proc/{second.pid}/ns/{kind}")]  # fmt: skip
    assert kinds == ["user", "net", "pid", "ipc"]


def without_proc(spec: dict[str, Any]) -> None:
    """Only the rights over a PID namespace let one mount its /proc."""
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/proc"]
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])


def test_the_pid_namespace_of_a_container_of_the_hosts_is_entered_with_rights_over_nothing_there(lab: Lab) -> None:
    first = lab.up()
    host = HostConfig(pid_mode=f"container:{first.id}", cap_drop=["ALL"])
    waiting = lab.make("sleep", "60", host=host, joined={"pid": first.pid}, ids=IDS, change=without_proc)
    assert waiting.create() == {"ready": True}
    assert first.exec("sh", "-c", "echo /proc/[0-9]*")["output"].split() == ["/proc/1", "/proc/2"]
    assert waiting.start() is None
    assert os.readlink(f"/proc/{waiting.pid}/ns/pid") == os.readlink(f"/proc/{first.pid}/ns/pid")
    assert mapping(waiting.pid, "uid") == [0, 300000, 65536]
    assert waiting.exec("id", "-u")["output"] == "0\n"
    hook = {"createContainer": [{"path": "/bin/true"}]}
    refused = lab.refused(
        "true",
        host=host,
        joined={"pid": first.pid},
        ids=IDS,
        change=lambda spec: spec.update(hooks=hook, mounts=spec["mounts"][1:]),
    )
    assert "no createContainer hooks" in refused["error"]


def test_init_and_a_read_only_root(lab: Lab) -> None:
    host = HostConfig(init=True, readonly_rootfs=True, tmpfs={"/tmp": "size=1m"})
    output = lab.sh("cat /proc/1/comm; touch /x 2>/dev/null || echo refused; touch /tmp/x; stat -c %u /tmp/x",
                    host=host, ids=IDS)  # fmt: skip
    assert output.split() == ["scow-init", "refused", "0"]


def test_masked_and_read_only_paths_hold(lab: Lab) -> None:
    script = "cat /proc/timer_list | wc -c; ls -A /sys/firmware | wc -l; grep -c ' /proc/sys ro,' /proc/self/mountinfo"
    output = lab.sh(script, ids=IDS)
    assert output.split() == ["0", "0", "1"]


def test_a_network_of_others_can_be_joined_without_rights_over_it(lab: Lab) -> None:
    first = lab.up()
    host = HostConfig(network_mode=f"container:{first.id}", cap_add=["NET_ADMIN"])
    script = (
        "ip link set lo down 2>/dev/null || echo refused; test -d /sys/class; grep -c ' /sys ro,' /proc/self/mountinfo"
    )
    assert lab.sh(script, host=host, joined={"network": first.pid}, ids=IDS).split() == ["refused", "1"]


def test_a_mount_may_have_a_mapping_of_its_own_in_any_container(lab: Lab) -> None:
    (lab.directory / "data").mkdir()
    (lab.directory / "data/file").touch()
    for ids, seen in ((None, "7"), (IDS, "8")):
        running = lab.make("sleep", "60", ids=ids)
        first = 7 if ids is None else 300008
        lines = [{"containerID": 0, "hostID": first, "size": 10}]
        mount = {"destination": "/data", "type": "bind", "source": f"{lab.directory}/data", "options": ["rbind"]}
        running.spec["mounts"].append({**mount, "uidMappings": lines, "gidMappings": lines})
        lab.runtime.delete(running.id)
        bundle = lab.directory / running.id[:12]
        options = (f"lowerdir={lab.lower}", f"upperdir={bundle}/upper", f"workdir={bundle}/work")
        recipe = Mount("overlay", "overlay", "", (*options, "idmap") if ids else options)
        running.plan = lab.runtime.create(running.id, running.spec, [recipe], bundle)
        assert running.create() == {"ready": True} and running.start() is None
        assert running.exec("stat", "-c", "%u", "/data/file")["output"] == f"{seen}\n"


def test_a_user_namespace_with_clocks_of_its_own_hooks_and_a_copied_tmpfs(lab: Lab, tmp_path: Path) -> None:
    """What else the runtime spec has goes with a user namespace too."""

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 86_400}}
        spec["mounts"].append({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})
        script = f"cat > {tmp_path}/said; id -u > {tmp_path}/host"
        inside = {"path": "/bin/sh", "args": ["sh", "-c", "id -u > /etc/inside"]}
        spec["hooks"] = {
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}],
            "startContainer": [inside],
        }

    output = lab.sh("cut -d. -f1 /proc/uptime; head -1 /etc/passwd; cat /etc/inside", ids=IDS, change=change)
    uptime, passwd, inside = output.splitlines()
    assert int(uptime) > 86_400 and passwd.startswith("root:") and inside == "0"
    assert (tmp_path / "host").read_text() == "0\n"
