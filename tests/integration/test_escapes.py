"""A hostile program in a container, and what has broken out of container engines before: nothing of it may work.

x86-64 numbers of system calls; the host's Python is mounted into the containers (`tests.integration.hostile`).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import HAVE_PYTHON, PRELUDE, PYTHON, attack, with_python

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_PYTHON, reason=f"needs {PYTHON}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks name system calls by x86-64 numbers"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def start(daemon: Daemon, name: str, program: str, *options: str) -> None:
    daemon.out("run", "-d", "--name", name, *with_python(*options), "busybox", PYTHON, "-c", PRELUDE + program)


def run(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = daemon.docker("run", "--rm", "--network", "none", *words, check=False)
    return done


# -- system calls, devices and files of the kernel

_FORBIDDEN = """
calls = dict(
    mount=(165, b"none", b"/mnt", b"tmpfs", 0, None), umount=(166, b"/proc", 2), pivot_root=(155, b"/", b"/"),
    unshare_user=(272, 0x10000000), unshare_mount=(272, 0x20000), setns=(308, 0, 0),
    clone_user=(56, 0x10000011, 0, 0, 0, 0),
    keyctl=(250, 0, -3, 1), add_key=(248, b"user", b"x", b"y", 1, -3), request_key=(249, b"user", b"x", None, -3),
    bpf=(321, 0, None, 0), perf_event_open=(298, None, 0, -1, -1, 0), open_by_handle_at=(304, -100, None, 0),
    init_module=(175, None, 0, b""), finit_module=(313, 0, b"", 0), kexec_load=(246, 0, 0, None, 0),
    reboot=(169, 0xFEE1DEAD, 672274793, 0, None), swapon=(167, b"/x", 0), syslog=(103, 10, None, 0), iopl=(172, 3),
    io_uring_setup=(425, 1, None), userfaultfd=(323, 0), acct=(163, None), settimeofday=(164, None, None),
    open_tree=(428, -100, b"/", 1), fsopen=(430, b"tmpfs", 0), mount_setattr=(442, -100, b"/", 0, None, 0),
    pidfd_getfd=(438, 0, 0, 0), fanotify_init=(300, 0, 0), sethostname=(170, b"evil", 4), socket_vsock=(41, 40, 1, 0),
    socket_alg=(41, 38, 5, 0), personality=(135, 0x0040000), kcmp=(312, 1, 1, 0, 0, 0),
)
print(json.dumps({name: call(*args) for name, args in calls.items()} | {"clone3": call(435, None, 0)}))
"""


def test_dangerous_system_calls_are_refused(daemon: Daemon) -> None:
    results = attack(daemon, _FORBIDDEN)
    assert results.pop("clone3") == "ENOSYS"  # glibc falls back to clone, whose flags the filter sees
    assert {name: result for name, result in results.items() if result != "EPERM"} == {}


def test_the_hosts_disk_cannot_be_opened_through_a_node_of_the_containers_own(daemon: Daemon) -> None:
    disk = os.stat("/").st_dev
    program = f"made = call(133, b'/tmp/disk', 0o60666, {disk})\n" + (
        "print(json.dumps([made, attempt('/tmp/disk', os.O_RDONLY), attempt('/tmp/disk', os.O_WRONLY, b'x')]))"
    )
    assert attack(daemon, program) == ["ok", "EPERM", "EPERM"]
    assert attack(daemon, program, "--cap-add", "SYS_ADMIN") == ["ok", "EPERM", "EPERM"]


_WRITABLE = """
paths = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
         "/proc/sys/vm/drop_caches", "/sys/kernel/uevent_helper", "/sys/power/state",
         "/sys/fs/cgroup/memory/release_agent",
         "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/cgroup.procs", "/proc/irq/0/smp_affinity"]
hidden = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/interrupts",
          "/dev/mem", "/dev/kmsg"]
print(json.dumps([{p: attempt(p, os.O_WRONLY, b"x") for p in paths}, {p: attempt(p, os.O_RDONLY) for p in hidden},
                  os.listdir("/sys/firmware")]))
"""


def test_files_of_the_kernel_can_neither_be_written_nor_those_that_tell_too_much_be_read(daemon: Daemon) -> None:
    written, read, firmware = attack(daemon, _WRITABLE)
    assert not [path for path, result in written.items() if result == "wrote"]
    assert not [path for path, result in read.items() if result not in ("read 0", "ENOENT", "EPERM")]
    assert firmware == []


def test_no_release_agent_is_within_reach_even_with_cap_sys_admin(daemon: Daemon) -> None:
    script = (
        "mkdir /c; for h in memory cpu devices blkio pids rdma freezer; do"
        " mount -t cgroup -o $h none /c 2>/dev/null && { ls /c/release_agent 2>/dev/null; umount /c; }; done; true"
    )
    assert run(daemon, "--cap-add", "SYS_ADMIN", "busybox", "sh", "-c", script).stdout == ""


def test_a_container_is_privileged_only_when_asked(daemon: Daemon) -> None:
    for_all = run(daemon, "busybox", "cat", "/proc/self/status").stdout
    assert "CapEff:\t00000000a80425fb" in for_all
    assert "CapAmb:\t0000000000000000" in for_all
    assert "CapInh:\t0000000000000000" in for_all
    for_user = run(daemon, "-u", "1000", "busybox", "cat", "/proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in for_user
    assert "CapPrm:\t0000000000000000" in for_user


def test_a_read_only_root_cannot_be_mounted_writable(daemon: Daemon) -> None:
    done = run(daemon, "--read-only", "busybox", "sh", "-c", "mount -o remount,rw /; touch /x")
    assert "Read-only file system" in done.stderr
    assert done.returncode == 1


def test_no_new_privileges_holds_for_a_setuid_program(daemon: Daemon) -> None:
    script = "cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; exec su mail -s /bin/sh -c '/tmp/id -u'"
    options = [word for word in with_python() if word not in ("--network", "none")]
    assert run(daemon, *options, "busybox", "sh", "-c", script).stdout == "0\n"
    held = run(daemon, *options, "--security-opt", "no-new-privileges", "busybox", "sh", "-c", script)
    assert held.stdout == "8\n"


def test_namespaces_are_the_containers_own(daemon: Daemon) -> None:
    inside = attack(
        daemon, "print(json.dumps({n: os.readlink('/proc/self/ns/' + n) for n in os.listdir('/proc/self/ns')}))"
    )
    shared = {name for name, link in inside.items() if os.readlink(f"/proc/self/ns/{name}") == link}
    assert shared <= {"user", "time", "time_for_children"}


# -- descriptors, working directory, the setup process (CVE-2019-5736, CVE-2024-21626, CVE-2016-9962)


def test_a_container_and_an_exec_have_descriptors_for_stdio_only(daemon: Daemon) -> None:
    program = (
        "print(json.dumps(sorted(f for f in os.listdir('/proc/self/fd') if os.path.islink('/proc/self/fd/' + f))))"
    )
    assert attack(daemon, program) == ["0", "1", "2"]
    start(daemon, "descriptors", "time.sleep(60)")
    try:
        assert json.loads(daemon.out("exec", "descriptors", PYTHON, "-c", PRELUDE + program)) == ["0", "1", "2"]
        listed = daemon.out("exec", "descriptors", "ls", "/proc/1/fd").split()
        assert listed == ["0", "1", "2"]
    finally:
        daemon.out("rm", "-f", "descriptors")


@pytest.mark.parametrize("number", [0, 3, 4, 5, 6, 7, 8, 64, 68])
def test_a_working_directory_leads_through_no_descriptor(daemon: Daemon, number: int) -> None:
    for path in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../..", f"/proc/1/fd/{number}"):
        done = run(daemon, "-w", path, "busybox", "pwd")
        assert done.returncode != 0
        assert done.stdout == ""
    daemon.out("run", "-d", "--name", "cwd", "--network", "none", "busybox", "sleep", "60")
    try:
        done = daemon.docker("exec", "-w", f"/proc/self/fd/{number}", "cwd", "pwd", check=False)
        assert done.returncode != 0
        assert "/" not in done.stdout
    finally:
        daemon.out("rm", "-f", "cwd")


def test_a_program_called_proc_self_exe_gets_a_copy_that_cannot_be_written(daemon: Daemon) -> None:
    program = PRELUDE + (
        "own = os.open('/proc/self/exe', os.O_RDONLY)\n"
        "pid = os.fork()\n"
        "if not pid: os.execv('/bin/busybox', ['sleep', '1'])\n"
        "print(json.dumps([os.readlink('/proc/self/exe'), attempt(f'/proc/self/fd/{own}', os.O_WRONLY, b'x')]))"
    )
    words = [*with_python("--entrypoint", "/proc/self/exe", "-e", "PYTHONHOME=/usr"), "busybox", "-c", program]
    done = run(daemon, *words[2:])
    if done.returncode:
        pytest.skip(f"the interpreter does not run in the container: {done.stderr}")
    link, result = json.loads(done.stdout)
    assert "memfd" in link
    assert result in ("ETXTBSY", "EPERM")


_WATCH = """
seen, end = {}, time.time() + 4
while time.time() < end:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid in ("1", str(os.getpid())):
            continue
        try:
            name = open(f"/proc/{pid}/comm").read()
            if not name.startswith("scow"):
                continue
            for what in ("exe", "root", "cwd", "fd/3", "fd/4"):
                try:
                    os.readlink(f"/proc/{pid}/{what}")
                    result = "read"
                except OSError as error:
                    result = errno.errorcode[error.errno]
                if open(f"/proc/{pid}/comm").read() == name:
                    seen[what] = sorted({*seen.get(what, []), result})
            for what in ("environ", "maps", "mem"):
                result = attempt(f"/proc/{pid}/{what}", os.O_RDONLY)
                if open(f"/proc/{pid}/comm").read() == name:
                    seen[what] = sorted({*seen.get(what, []), result})
        except OSError:
            pass
print(json.dumps(seen))
"""


def test_the_process_that_becomes_an_exec_shows_nothing_of_itself(daemon: Daemon) -> None:
    start(daemon, "watch", _WATCH)
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and daemon.out("inspect", "-f", "{{.State.Running}}", "watch") == "true":
            daemon.docker("exec", "watch", "true", check=False)
        assert daemon.out("wait", "watch") == "0"
        seen = json.loads(daemon.out("logs", "watch"))
        told = {
            what: [r for r in results if r not in ("EACCES", "ENOENT", "EPERM", "ESRCH")]
            for what, results in seen.items()
        }
        assert {what: results for what, results in told.items() if results} == {}
    finally:
        daemon.out("rm", "-f", "watch")


_KEYS = """
size = libc.syscall(250, ctypes.c_long(6), ctypes.c_long(-3), None, ctypes.c_long(0))
text = ctypes.create_string_buffer(max(size, 1))
libc.syscall(250, ctypes.c_long(6), ctypes.c_long(-3), text, ctypes.c_long(size))
held = libc.syscall(250, ctypes.c_long(11), ctypes.c_long(-3), None, ctypes.c_long(0))
print(json.dumps([text.value.decode().rpartition(";")[2], held]))
"""


def test_an_exec_has_a_session_keyring_of_its_own(daemon: Daemon) -> None:
    options = ("--security-opt", "seccomp=unconfined")
    assert attack(daemon, _KEYS, *options) == ["_ses", 0]
    start(daemon, "keys", "time.sleep(60)", *options)
    try:
        assert json.loads(daemon.out("exec", "keys", PYTHON, "-c", PRELUDE + _KEYS)) == ["_ses", 0]
    finally:
        daemon.out("rm", "-f", "keys")


def test_the_built_in_init_shows_nothing_of_the_engine(daemon: Daemon) -> None:
    script = (
        "cat /proc/1/environ /proc/1/maps; ls -l /proc/1/exe; ls /proc/1/fd; echo 0 > /proc/1/exe;"
        " tr -d '\\0' < /proc/1/cmdline"
    )
    done = run(daemon, "--init", "busybox", "sh", "-c", script)
    assert done.stdout.split()[-1] == "scow-init"
    assert "scowd" not in done.stdout
    assert done.stderr.count("denied") >= 4


# -- too much of everything


def test_a_fork_bomb_is_bounded_by_the_pids_limit(daemon: Daemon) -> None:
    daemon.out(
        "run", "-d", "--name", "forks", "--network", "none", "--pids-limit", "30", "busybox", "sh", "-c",
        "bomb() { bomb | bomb & }; bomb; sleep 60",
    )  # fmt: skip
    try:
        time.sleep(1)
        assert len(daemon.api("GET", "/containers/forks/top")[1]["Processes"]) <= 30
        assert daemon.api("GET", "/_ping")[0] == 200
    finally:
        daemon.out("rm", "-f", "forks")


def test_output_without_end_and_without_a_newline_is_bounded_in_the_log(daemon: Daemon) -> None:
    options = ["--log-opt", "max-size=1m", "--log-opt", "max-file=2"]
    script = "head -c 40000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/urandom"
    daemon.out("run", "--name", "flood", "--network", "none", *options, "-d", "busybox", "sh", "-c", script)
    try:
        assert daemon.out("wait", "flood", timeout_s=60) == "0"
        folder = (
            Path(daemon.config["data_root"]) / "containers" / daemon.out("inspect", "-f", "{{.Id}}", "flood") / "log"
        )
        assert sum(path.stat().st_size for path in folder.iterdir()) < 3 << 20
        status, _ = daemon.api("GET", "/containers/flood/logs?stdout=1&tail=10")
        assert status == 200
    finally:
        daemon.out("rm", "-f", "flood")
