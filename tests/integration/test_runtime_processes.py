"""The native runtime's processes and control groups: terminals, the built-in init, limits, devices."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scow.engine import spec as specs
from scow.errors import InvalidArgument
from scow.linux.hierarchies import detect_host
from scow.testing.runtime import BUSYBOX, Lab, eventually
from scow.types import ContainerConfig, HostConfig
from scow_runtime_native import device_program, terminal

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]

# ---------------------------------------------------------------- working directory, terminal, init


def test_a_working_directory_that_is_missing_is_made(lab: Lab) -> None:
    assert lab.sh("pwd", config=ContainerConfig(working_dir="/srv/app")) == "/srv/app\n"


def test_a_terminal_is_of_the_containers_own_devpts_and_controls_the_program(lab: Lab) -> None:
    script = "tty; echo $TERM; echo there > /dev/tty; echo here > /dev/console; ls /dev/pts"
    code, output = lab.run("sh", "-c", script, tty=True, config=ContainerConfig(tty=True))
    assert (code, output.split()) == (0, ["/dev/pts/0", "xterm", "there", "here", "0", "ptmx"])


def test_a_terminal_of_an_exec_is_of_the_containers_devpts(lab: Lab) -> None:
    running = lab.up()
    result = running.exec("sh", "-c", "tty; echo there > /dev/tty; ls -l $(tty) | cut -c1-10", tty=True, user="web")
    assert (result["code"], result["output"].split()) == (0, ["/dev/pts/0", "there", "crw--w----"])
    result = running.exec("ls", "/dev/pts")
    assert result["output"] == "ptmx\n"


def test_the_built_in_init_leaves_the_terminal_to_the_program(lab: Lab) -> None:
    config = ContainerConfig(tty=True)
    code, output = lab.run("sh", "-c", "tty; ls /proc/1/fd", tty=True, config=config, host=HostConfig(init=True))
    assert (code, output.split()) == (0, ["/dev/pts/0"])


def test_a_terminal_is_not_taken_from_what_the_container_made_of_dev(lab: Lab) -> None:
    running = lab.up(
        "sh", "-c", "umount /dev/pts; ln -s /dev/null /dev/pts/ptmx; sleep 60", host=HostConfig(privileged=True)
    )
    assert eventually(lambda: os.path.islink(f"/proc/{running.pid}/root/dev/pts/ptmx"))
    root = os.open(f"/proc/{running.pid}/root", os.O_PATH)
    with pytest.raises(OSError, match="inappropriate ioctl"):
        terminal.open_pair(root)
    os.close(root)
    result = running.exec("sh", "-c", "test -t 0 && cat /proc/sys/kernel/ostype", tty=True)
    assert (result["code"], result["output"].split()) == (0, ["Linux"])


def test_no_other_device_is_opened_as_a_terminal(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "dev/pts").mkdir(parents=True)
    os.mknod(tmp_path / "dev/pts/ptmx", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    root = os.open(tmp_path, os.O_PATH)
    with pytest.raises(OSError, match="ioctl"):
        terminal.open_pair(root)
    os.close(root)


def test_the_init_reaps_orphans_and_passes_the_exit_code_on(lab: Lab) -> None:
    script = "(sleep 0.2 & ) ; sleep 0.5; ps | grep -c '\\[sleep\\]'; exit 5"
    assert lab.run("sh", "-c", script, host=HostConfig(init=True)) == (5, "0\n")


def test_the_init_forwards_signals(lab: Lab) -> None:
    running = lab.up(
        "sh", "-c", "trap 'echo got; exit 3' TERM; while :; do sleep 0.05; done", host=HostConfig(init=True)
    )
    assert eventually(lambda: len(lab.runtime.processes(running.id)) >= 2)
    running.exec("sleep", "0.2")  # the shell has set its trap
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait() == (3, "got\n")


def test_the_init_shows_nothing_of_the_engine(lab: Lab) -> None:
    output = lab.sh("cat /proc/1/cmdline; echo; cat /proc/1/comm", host=HostConfig(init=True))
    assert output.replace("\0", "") == "scow-init\nscow-init\n"


def test_the_init_reports_a_program_that_is_missing(lab: Lab) -> None:
    assert lab.refused("no-such", host=HostConfig(init=True))["kind"] == "not_found"


# ---------------------------------------------------------------- cgroups


def test_the_container_sees_its_own_cgroup_as_the_root(lab: Lab) -> None:
    lines = lab.sh("cat /proc/self/cgroup").splitlines()
    assert lines and all(line.endswith(":/") for line in lines)


def test_devices_that_are_not_allowed_can_be_made_but_not_opened(lab: Lab) -> None:
    script = "mknod /tmp/mem c 1 1; head -c 1 /tmp/mem 2>&1 || true; head -c 1 /dev/zero | wc -c"
    assert "Operation not permitted" in lab.sh(script, host=HostConfig(cap_add=["SYS_RAWIO"]))
    rule = HostConfig(device_cgroup_rules=["c 1:5 r"])
    assert lab.sh("mknod /tmp/z c 1 5; head -c 1 /tmp/z | wc -c", host=rule) == "1\n"


def test_an_update_of_device_rules_refuses_nothing_that_stays_allowed(lab: Lab) -> None:
    host = HostConfig(device_cgroup_rules=["c 1:5 r", "c 1:1 r"])
    running = lab.up("sh", "-c", "while head -c 1 /dev/zero >/dev/null; do :; done; echo refused", host=host)
    for rules in (["c 1:1 rw"], ["c 1:5 rm", "c 1:2 rwm"], []) * 10:
        lab.runtime.update(running.id, specs.resources(HostConfig(device_cgroup_rules=rules)))
    assert running.exec("sh", "-c", "mknod /m c 1 1; head -c 1 /m")["code"] != 0
    lab.runtime.delete(running.id)
    assert running.wait() == (-signal.SIGKILL, "")


def test_the_pids_limit_holds(lab: Lab) -> None:
    output = lab.run(
        "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo done", host=HostConfig(pids_limit=5)
    )
    assert "done" not in output[1] and "fork" in output[1]


def test_processes_that_fork_all_the_time_are_killed_to_the_last_one(lab: Lab) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do (while :; do (:); done) & done; sleep 60"
    running = lab.up("sh", "-c", script, host=HostConfig(pid_mode="host"))  # no init whose end would end them
    assert eventually(lambda: len(lab.runtime.processes(running.id)) > 10)
    lab.runtime.delete(running.id)
    assert lab.runtime.processes(running.id) == []


def test_a_limit_that_cannot_be_set_leaves_nothing(lab: Lab) -> None:
    with pytest.raises(InvalidArgument, match="cannot set cpuset.cpus to 4000"):
        lab.make("true", host=HostConfig(cpuset_cpus="4000"))
    assert lab.runtime.list() == []


def test_a_cgroup_parent_of_the_users_choice_is_remembered(lab: Lab) -> None:
    parent = f"scow-test-{os.getpid()}"
    running = lab.up(host=HostConfig(cgroup_parent=f"/{parent}"))
    assert f"/{parent}/{running.id}" in Path(f"/proc/{running.pid}/cgroup").read_text()
    assert lab.runtime.list() == [running.id] and running.pid in lab.runtime.processes(running.id)
    lab.runtime.delete(running.id)
    assert lab.runtime.list() == []
    root = Path("/sys/fs/cgroup")
    for folder in [*root.glob(parent), *root.glob(f"*/{parent}")]:
        folder.rmdir()


def test_the_device_program_of_version_2_holds_in_the_kernel_and_can_be_replaced(tmp_path: Path) -> None:
    mount = detect_host().v2
    if mount is None:
        pytest.skip("no cgroup2 is mounted")
    group = Path(mount, f"scow-test-{os.getpid()}")
    group.mkdir()
    try:
        zero, null = {"type": "c", "major": 1, "minor": 5}, {"type": "c", "major": 1, "minor": 3}
        script = f"echo 0 > {group}/cgroup.procs; head -c 1 /dev/zero | wc -c; (: < /dev/null) && echo 0 || echo 1"

        def tried(rules: list[dict[str, Any]]) -> list[str]:
            device_program.attach(str(group), rules)
            done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30)
            return done.stdout.split()

        deny: dict[str, Any] = {"allow": False, "access": "rwm"}
        assert tried([deny, {"allow": True, "access": "rw", **zero}]) == ["1", "1"]
        assert tried([deny, {"allow": True, "access": "rw", **null}]) == ["0", "0"]
        assert tried([{"allow": True, "access": "rwm"}]) == ["1", "0"]
    finally:
        assert eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


# ---------------------------------------------------------------- a PID namespace that is another container's


def test_a_container_in_anothers_pid_namespace_sees_and_shows_its_processes(lab: Lab) -> None:
    first = lab.up("sleep", "123")
    host = HostConfig(pid_mode=f"container:{first.id}")
    second = lab.up("sh", "-c", "sleep 321", host=host, joined={"pid": first.pid})
    listed = second.exec("ps", "-o", "args")["output"]
    assert "sleep 123" in listed and "sleep 321" in listed
    assert "sleep 321" in first.exec("ps", "-o", "args")["output"]
    assert os.readlink(f"/proc/{second.pid}/ns/pid") == os.readlink(f"/proc/{first.pid}/ns/pid")
    masked = second.exec("sh", "-c", "wc -c < /proc/keys; echo 1 > /proc/sys/vm/swappiness; cat /proc/mounts")["output"]
    assert masked.startswith("0\n") and "Read-only" in masked and "proc /proc proc rw,nosuid,nodev,noexec" in masked


def test_a_container_in_anothers_pid_namespace_has_exit_code_init_and_errors_as_any(lab: Lab) -> None:
    first = lab.up()
    more: dict[str, Any] = {"joined": {"pid": first.pid}}
    mode = f"container:{first.id}"
    assert lab.run("sh", "-c", "echo out; exit 4", host=HostConfig(pid_mode=mode), **more) == (4, "out\n")
    assert lab.run("sh", "-c", "exit 5", host=HostConfig(pid_mode=mode, init=True), **more) == (5, "")
    assert lab.refused("no-such", host=HostConfig(pid_mode=mode), **more)["kind"] == "not_found"
    config = ContainerConfig(tty=True)
    code, output = lab.run("sh", "-c", "tty", tty=True, config=config, host=HostConfig(pid_mode=mode), **more)
    assert (code, output.split()) == (0, ["/dev/pts/0"])


_COPY = """
import os, sys
from scow.linux import syscalls
from scow_runtime_native import joined_proc
tree = joined_proc.copy_of_its_own(sys.argv[1], syscalls.MOUNT_ATTR_NOSUID)
name = open(os.open("1/cmdline", os.O_RDONLY, dir_fd=tree)).read().split(chr(0))[0]
print(name, os.listdir(f"/proc/self/fd/{tree}").count("self"))
"""


def copied(pid: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _COPY, f"/proc/{pid}/ns/pid"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_older_kernel_gets_a_copy_of_the_other_containers_proc(lab: Lab) -> None:
    done = copied(lab.up().pid)
    assert done.stdout == "sleep 1\n", done.stderr


@pytest.mark.parametrize(
    "trick",
    [
        "mount -t tmpfs none /proc",
        "mkdir /p; mount -t proc none /p; mount --bind /p/sys /proc",
        "mkdir -p /x/1/ns; touch /x/1/ns/pid; mount --bind /proc/1/ns/pid /x/1/ns/pid; mount --bind /x /proc",
    ],
)
def test_a_proc_that_the_other_container_has_faked_is_not_taken(lab: Lab, trick: str) -> None:
    running = lab.up("sh", "-c", f"{trick}; mkdir /done; sleep 60", host=HostConfig(privileged=True))
    assert eventually(lambda: os.path.exists(f"/proc/{running.pid}/root/done"))
    assert "cannot mount /proc for the PID namespace" in copied(running.pid).stderr
