"""runc, crun and scow-runtime under Scow's monitor, through the docker CLI: users see what the native runtime shows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.linux.hierarchies import detect_host
from tests.daemon import DOCKER, Daemon
from tests.integration import hook_plugin
from tests.integration.hook_plugin import shell, with_hooks

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]

COMMANDS = {"runc": "runc", "crun": "crun", "scow": f"{Path(sys.executable).parent}/scow-runtime"}
PROGRAMS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(command) is None, reason=f"needs {command}"))
    for name, command in COMMANDS.items()
]
OPTIONS: dict[str, dict[str, Any]] = {
    f"runtime.{name}": {"driver": "oci", "command": command} for name, command in COMMANDS.items()
}
OPTIONS["runtime.crun"]["hide_unified"] = True  # it refuses a host with both versions of control groups
HOST = detect_host()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("oci")
    with hook_plugin.installed(root):
        daemon = Daemon(root / "engine", options=OPTIONS).start()
        daemon.import_busybox()
        yield daemon
        daemon.cleanup()


@pytest.fixture(params=PROGRAMS)
def runtime(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[str]:
    """The runtime's name; after the test there are no containers, and the program knows of none."""
    name = str(request.param)
    yield name
    if ids := daemon.out("ps", "-aq").split():
        daemon.out("rm", "-f", "-v", *ids)
    folder = daemon.root / "run/drivers/runtime" / name
    assert [path for part in ("state", "containers", "log") for path in (folder / part).glob("[!.]*")] == []
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(daemon.root) in line]


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_output_and_exit_codes_are_dockers(daemon: Daemon, runtime: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = daemon.docker(
            "run", "--rm", "--network", "none", "--runtime", runtime, "busybox", *words, check=False
        )
        return done

    done = run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    missing, denied = run("nonsense"), run("/etc/passwd")
    assert (missing.returncode, denied.returncode) == (127, 126)
    assert "executable file not found in $PATH" in missing.stderr and "permission denied" in denied.stderr
    assert missing.stdout == denied.stdout == ""
    assert daemon.out("ps", "-aq") == ""
    unknown = daemon.docker("run", "--rm", "--runtime", runtime, "-u", "nobodythere", "busybox", "true", check=False)
    assert unknown.returncode != 0 and "unable to find user nobodythere" in unknown.stderr


def test_the_runtimes_are_listed_shown_and_an_unknown_one_is_refused(daemon: Daemon, runtime: str) -> None:
    listed = json.loads(daemon.out("info", "-f", "{{json .Runtimes}}"))
    assert listed[runtime]["path"] == shutil.which(COMMANDS[runtime])
    assert set(listed) >= {"native", "oci", *COMMANDS}
    daemon.out("create", "--name", "shown", "--runtime", runtime, "busybox", "true")
    assert daemon.out("inspect", "-f", "{{.HostConfig.Runtime}}", "shown") == runtime
    done = daemon.docker("run", "--rm", "--runtime", "nosuch", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "unknown or invalid runtime name: nosuch" in done.stderr and "runc" in done.stderr


def test_a_terminal_is_the_containers_own_with_the_clients_size(daemon: Daemon, runtime: str) -> None:
    daemon.out("run", "-d", "--name", "up", "--network", "none", "--runtime", runtime, "busybox", "sleep", "60")
    inside = "tty; stty size; echo controlling >/dev/tty"
    for words in (f"run --rm -it --network none --runtime {runtime} busybox sh -c", "exec -it up sh -c"):
        shell = f"stty rows 33 cols 99; docker -H unix://{daemon.socket} {words} '{inside}'"
        done = subprocess.run(
            ["script", "-qec", shell, "/dev/null"],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout.replace("^@", "").split()  # the echo of script's own end of input
        assert said == ["/dev/pts/0", "33", "99", "controlling"], done.stdout


def test_execs_have_users_input_and_exit_codes_and_say_a_failure_once(daemon: Daemon, runtime: str) -> None:
    daemon.out("run", "-d", "--name", "job", "--network", "none", "--runtime", runtime, "busybox", "sleep", "60")
    assert daemon.docker("exec", "-i", "job", "cat", input=b"fed").stdout == "fed"
    assert "uid=8(mail) gid=12(mail)" in daemon.out("exec", "-u", "mail", "-w", "/tmp", "job", "sh", "-c", "id; pwd")
    for command, code in ((("sh", "-c", "exit 9"), 9), (("nonsense",), 127), (("/etc/passwd",), 126)):
        done = daemon.docker("exec", "job", *command, check=False)
        assert done.returncode == code
        assert (done.stdout + done.stderr).count("\n") <= 1, "the program's own message is not repeated"
    daemon.out("exec", "-d", "job", "touch", "/tmp/detached")
    assert eventually(lambda: daemon.docker("exec", "job", "test", "-e", "/tmp/detached", check=False).returncode == 0)
    assert "sleep 60" in daemon.out("top", "job")


def test_users_volumes_init_limits_and_ports(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("hello\n")
    out = daemon.out(
        *("run", "--rm", "--network", "none", "--runtime", runtime, "--init", "-u", "mail", "--group-add", "77"),
        *("-v", f"{tmp_path}:/bind:ro", "-v", "/anonymous", "--tmpfs", "/t:size=1m", "-w", "/made/here", "--hostname"),
        *("box", "--memory", "64m", "busybox", "sh", "-c", "cat /bind/file; id; pwd; hostname; echo $HOME; echo $$"),
    ).splitlines()
    assert out[:5] == ["hello", "uid=8(mail) gid=12(mail) groups=12(mail),77(extra)", "/made/here", "box", "/home"]
    assert out[5] != "1"
    assert daemon.out("volume", "ls", "-q") == ""
    page = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w"
    daemon.out(
        *("run", "-d", "--name", "web", "--runtime", runtime, "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", page)
    )
    host, port = daemon.out("port", "web", "80").rsplit(":", 1)

    def answers() -> bool:
        try:
            with socket.create_connection((host, int(port)), 2) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b"page" in b"".join(iter(lambda: client.recv(4096), b""))
        except OSError:
            return False

    assert eventually(answers)


def test_pause_update_stats_and_out_of_memory(daemon: Daemon, runtime: str) -> None:
    daemon.out(
        *("run", "-d", "--name", "limited", "--network", "none", "--runtime", runtime, "--memory", "64m"),
        *("busybox", "sleep", "60"),
    )
    daemon.out("pause", "limited")
    assert "(Paused)" in daemon.out("ps", "--format", "{{.Status}}")
    daemon.out("unpause", "limited")
    daemon.out("update", "--memory", "32m", "--memory-swap", "64m", "limited")
    assert "/ 32MiB" in daemon.out("stats", "--no-stream", "--format", "{{.MemUsage}}", "limited")
    daemon.out("pause", "limited")
    daemon.out("kill", "limited")
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "limited") == "137"
    hog = "x=$(yes 123456789 | head -c 60000000); echo ${#x}"
    daemon.docker(
        *("run", "--name", "oom", "--network", "none", "--runtime", runtime, "--memory", "8m", "busybox"),
        *("sh", "-c", hog),
        check=False,
    )
    assert daemon.out("inspect", "-f", "{{.State.OOMKilled}}", "oom") == "true"


def test_a_restart_policy_and_stop_are_followed(daemon: Daemon, runtime: str) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    daemon.out("run", "-d", "--name", "job", "--network", "none", "--runtime", runtime, "busybox", "sh", "-c", script)
    assert eventually(lambda: daemon.out("logs", "job") == "up")
    daemon.out("stop", "job")
    assert (daemon.out("wait", "job"), daemon.out("logs", "--tail", "1", "job")) == ("3", "bye")
    daemon.out(
        *("run", "-d", "--name", "again", "--network", "none", "--runtime", runtime, "--restart", "on-failure:2"),
        *("busybox", "sh", "-c", "echo run; exit 1"),
    )
    assert daemon.out("wait", "again") == "1"
    assert eventually(lambda: daemon.out("logs", "again").split() == ["run"] * 3)


def test_containers_outlive_a_killed_daemon_and_a_killed_monitor_is_told(daemon: Daemon, runtime: str) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    for name in ("stays", "orphan"):
        daemon.out(
            *("run", "-d", "--name", name, "--network", "none", "--runtime", runtime, "busybox", "sh", "-c", script)
        )
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.out("exec", "stays", "echo", "in") == "in"
    before = len(daemon.out("logs", "stays").split())
    assert eventually(lambda: len(daemon.out("logs", "stays").split()) > before)
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "orphan"))
    os.kill(monitor_of(pid), signal.SIGKILL)
    assert daemon.out("wait", "orphan") == "137"
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    daemon.out("rm", "-f", "stays")


def test_namespaces_of_another_container_are_joined_with_its_shared_memory(daemon: Daemon, runtime: str) -> None:
    def run(*words: str) -> str:
        return str(daemon.out("run", "--rm", "--runtime", runtime, *words))

    daemon.out(
        *("run", "-d", "--name", "first", "--network", "none", "--ipc", "shareable", "--runtime", runtime),
        *("busybox", "sh", "-c", "echo shared > /dev/shm/file; exec sleep 60"),
    )
    shared = ("--network", "none", "--ipc", "container:first", "busybox", "cat", "/dev/shm/file")
    assert eventually(lambda: run(*shared) == "shared")
    inode = daemon.out("exec", "first", "readlink", "/proc/self/ns/net")
    assert run("--network", "container:first", "busybox", "readlink", "/proc/self/ns/net") == inode
    assert "sleep 60" in run("--network", "none", "--pid", "container:first", "busybox", "ps")
    left = (daemon.root / "data/containers").glob("*/elsewhere-*")
    assert not list(left)


def monitor_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


def test_a_restart_policy_applies_when_the_monitor_was_killed(daemon: Daemon, runtime: str) -> None:
    daemon.out(
        *("run", "-d", "--name", "kept", "--network", "none", "--runtime", runtime, "--restart", "always"),
        *("busybox", "sleep", "60"),
    )
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "kept"))
    os.kill(monitor_of(pid), signal.SIGKILL)
    assert eventually(lambda: int(daemon.out("inspect", "-f", "{{.State.Pid}}", "kept")) not in (0, pid))
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert daemon.out("exec", "kept", "echo", "in") == "in"


def test_orphans_of_a_container_in_the_hosts_pid_namespace_are_reaped(daemon: Daemon, runtime: str) -> None:
    script = "for i in 1 2 3; do (sleep 0.1 &); done; exec sleep 60"
    daemon.out(
        *("run", "-d", "--name", "host", "--network", "none", "--pid", "host", "--runtime", runtime),
        *("busybox", "sh", "-c", script),
    )
    pid = daemon.out("inspect", "-f", "{{.State.Pid}}", "host")
    parent = monitor_of(int(pid))
    children = Path(f"/proc/{parent}/task/{parent}/children")
    if not children.exists():
        pytest.skip("this kernel does not list a process's children (CONFIG_PROC_CHILDREN)")
    assert eventually(lambda: children.read_text().split() == [pid])


def group(daemon: Daemon, runtime: str, name: str, controller: str) -> Path:
    """The cgroup of the container *name*, of version 1 where the host has the controller there."""
    mount = HOST.v1.get(controller) or HOST.v2
    id = daemon.out("inspect", "-f", "{{.Id}}", name)
    return Path(f"{mount}/{daemon.config['cgroup_parent']}/{daemon.config['engine_name']}.{runtime}/{id}")


def says(folder: Path, *files: str) -> str:
    """The first line of the first of *files* that is there: version 1 has other names."""
    return next(path.read_text().strip() for file in files if (path := folder / file).exists())


@pytest.mark.skipif(not HOST.v1, reason="the figures of version 1 are looked at")
def test_limits_hold_and_are_changed_live(daemon: Daemon, runtime: str) -> None:
    daemon.out(
        *("run", "-d", "--name", "held", "--network", "none", "--runtime", runtime, "--cpus", "0.5", "--cpu-shares"),
        *("300", "--cpuset-cpus", "0", "--memory", "64m", "--pids-limit", "20", "--ulimit", "nofile=99", "busybox"),
        *("sleep", "60"),
    )
    cpu, memory, pids = (group(daemon, runtime, "held", name) for name in ("cpu", "memory", "pids"))
    assert (says(cpu, "cpu.cfs_quota_us"), says(cpu, "cpu.shares")) == ("50000", "300")
    assert (says(memory, "memory.limit_in_bytes"), says(pids, "pids.max")) == (str(64 << 20), "20")
    assert daemon.out("exec", "held", "sh", "-c", "ulimit -n; grep Cpus_allowed_list /proc/self/status").split() == [
        "99",
        "Cpus_allowed_list:",
        "0",
    ]
    daemon.out("update", "--cpus", "0.25", "--memory", "32m", "--memory-swap", "-1", "--pids-limit", "30", "held")
    assert (says(cpu, "cpu.cfs_quota_us"), says(cpu, "cpu.shares")) == ("25000", "300")
    assert (says(memory, "memory.limit_in_bytes"), says(pids, "pids.max")) == (str(32 << 20), "30")


def test_rates_of_disks_hold_and_an_update_that_a_program_passes_over_is_refused(daemon: Daemon, runtime: str) -> None:
    if "blkio" not in HOST.v1 or not os.path.exists("/dev/loop0"):
        pytest.skip("needs blkio of version 1 and a block device")
    daemon.out(
        *("run", "-d", "--name", "disk", "--network", "none", "--runtime", runtime),
        *("--device-read-bps", "/dev/loop0:1mb", "busybox", "sleep", "60"),
    )
    folder = group(daemon, runtime, "disk", "blkio")
    assert says(folder, "blkio.throttle.read_bps_device").split() == ["7:0", str(1 << 20)]
    id = daemon.out("inspect", "-f", "{{.Id}}", "disk")
    body = {"BlkioDeviceReadBps": [{"Path": "/dev/loop0", "Rate": 2 << 20}], "CpuShares": 300}
    status, answer = daemon.api("POST", f"/containers/{id}/update", body)
    if runtime == "runc":
        assert status == 501 and "runc update does not change throttleReadBpsDevice 7:0" in answer["message"]
        assert says(group(daemon, runtime, "disk", "cpu"), "cpu.shares") == "1024"
    else:
        assert status == 200, answer
        assert says(folder, "blkio.throttle.read_bps_device").split() == ["7:0", str(2 << 20)]
        assert says(group(daemon, runtime, "disk", "cpu"), "cpu.shares") == "300"


def test_hooks_are_the_programs_business_and_a_failed_one_leaves_nothing(
    daemon: Daemon, runtime: str, tmp_path: Path
) -> None:
    given = {kind: shell(f"cat > {tmp_path}/{kind}") for kind in ("prestart", "createRuntime", "poststart", "poststop")}
    inside = {kind: shell(f"echo {kind} >> /said") for kind in ("createContainer", "startContainer")}
    inside["createContainer"] = shell(f"touch {tmp_path}/createContainer")
    words = with_hooks("--rm", "--runtime", runtime, "busybox", "cat", "/said", **given, **inside)
    assert daemon.out(*words) == "startContainer"
    assert eventually(lambda: (tmp_path / "poststop").exists())
    assert {path.name for path in tmp_path.iterdir()} == {*given, "createContainer"}
    states = {kind: json.loads((tmp_path / kind).read_text()) for kind in given}
    assert len({state["id"] for state in states.values()}) == 1 and states["createRuntime"]["pid"] > 0
    assert states["poststop"]["status"] == "stopped"  # of the others runc and crun say what their version thinks of it
    for kind in ("prestart", "createRuntime", "createContainer"):
        words = with_hooks("--runtime", runtime, "--rm", "busybox", "echo", "ran", **{kind: shell("exit 9")})
        done = daemon.docker(*words, check=False)
        assert (done.returncode, done.stdout) == (125, "") and "hook" in done.stderr and "9" in done.stderr
        assert daemon.out("ps", "-aq") == ""


def test_user_namespaces_are_refused_before_anything_is_made(daemon: Daemon, runtime: str) -> None:
    asked = {"Image": "busybox", "HostConfig": {"Runtime": runtime, "UsernsMode": "auto"}}
    status, answer = daemon.api("POST", "/containers/create", asked)
    assert status == 501 and f"runtime {runtime} makes no user namespaces" in answer["message"]
    assert "use --userns host" in answer["message"] and daemon.out("ps", "-aq") == ""
    assert daemon.out("run", "--rm", "--runtime", runtime, "--userns", "host", "busybox", "echo", "ran") == "ran"
