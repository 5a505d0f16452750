"""Containers that lose their monitor, have no process left, run out of memory, end while somebody enters, or fill their
control groups: it is reported, and nothing stays."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import HAVE_PYTHON, PRELUDE, PYTHON, with_python

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def eventually(check: Callable[[], Any], timeout_s: float = 20) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return bool(check())


def state(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.api("GET", f"/containers/{name}/json")[1]
    return found


def monitor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def traces(daemon: Daemon, container_id: str) -> list[str]:
    """What the kernel has of a container: control groups, mounts, its monitor's socket."""
    parent = daemon.config["cgroup_parent"]
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{parent}/*/{container_id}")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if container_id in line]
    return found + [str(path) for path in (daemon.root / "run" / "m").glob(f"*{container_id[:12]}*")]


# -- the monitor


def test_a_container_whose_monitor_is_killed_leaves_nothing_and_its_ports_are_free(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "orphan", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    before = state(daemon, "orphan")
    pid, box = before["State"]["Pid"], before["Id"]
    exec_id = daemon.api("POST", "/containers/orphan/exec", {"Cmd": ["sleep", "500"]})[1]["Id"]
    assert daemon.api("POST", f"/exec/{exec_id}/start", {"Detach": True})[0] == 200
    entered = daemon.api("GET", f"/exec/{exec_id}/json")[1]["Pid"]
    os.kill(monitor_of(pid), signal.SIGKILL)
    assert eventually(lambda: state(daemon, "orphan")["State"]["Status"] == "exited")
    ended = state(daemon, "orphan")["State"]
    assert (ended["ExitCode"], ended["Error"]) == (137, "monitor lost")
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}") and not os.path.exists(f"/proc/{entered}"))
    assert eventually(lambda: traces(daemon, box) == []), traces(daemon, box)
    assert state(daemon, "orphan")["NetworkSettings"]["Ports"] in ({}, None)
    daemon.out("start", "orphan")
    assert daemon.out("exec", "orphan", "echo", "again") == "again"
    daemon.out("rm", "-f", "orphan")


def test_the_restart_policy_applies_where_the_monitor_was_killed(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "phoenix", "--network", "none", "--restart", "always", "busybox", "sleep", "600")
    first = state(daemon, "phoenix")["State"]["Pid"]
    try:
        os.kill(monitor_of(first), signal.SIGKILL)
        assert eventually(lambda: state(daemon, "phoenix")["State"]["Pid"] not in (0, first))
        assert eventually(lambda: state(daemon, "phoenix")["State"]["Running"])
        assert state(daemon, "phoenix")["RestartCount"] == 1
        assert eventually(lambda: not os.path.exists(f"/proc/{first}"))  # the host's init reaps it
    finally:
        daemon.out("rm", "-f", "phoenix")


def test_a_monitor_that_is_killed_while_scowd_is_away_is_found_at_the_next_start(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "engine").start()
    daemon.import_busybox()
    try:
        daemon.out("run", "-d", "--name", "plain", "--network", "none", "busybox", "sleep", "600")
        words = ("--restart", "unless-stopped", "busybox", "sleep", "600")
        daemon.out("run", "-d", "--name", "again", "--network", "none", *words)
        pids = [state(daemon, name)["State"]["Pid"] for name in ("plain", "again")]
        box = state(daemon, "plain")["Id"]
        daemon.stop(signal.SIGKILL)
        for pid in pids:
            os.kill(monitor_of(pid), signal.SIGKILL)
        daemon.start()
        assert state(daemon, "plain")["State"]["Error"] == "monitor lost"
        assert eventually(lambda: state(daemon, "again")["State"]["Running"])
        assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
        assert eventually(lambda: traces(daemon, box) == []), traces(daemon, box)
    finally:
        daemon.cleanup()


def test_an_exec_whose_monitor_is_killed_ends_its_client(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "entered", "--network", "none", "busybox", "sleep", "600")
    pid = state(daemon, "entered")["State"]["Pid"]
    codes: list[int] = []
    client = threading.Thread(
        target=lambda: codes.append(daemon.docker("exec", "entered", "sleep", "500", check=False).returncode)
    )
    client.start()
    try:
        assert eventually(lambda: len(daemon.api("GET", "/containers/entered/top")[1]["Processes"]) == 2)
        os.kill(monitor_of(pid), signal.SIGKILL)
        client.join(30)
        assert not client.is_alive() and codes[0] != 0
    finally:
        daemon.docker("rm", "-f", "entered", check=False)
        client.join(30)


# -- processes and memory


def test_an_exec_where_no_process_is_left_says_so(daemon: Daemon) -> None:
    words = ("--network", "none", "--pids-limit", "1", "busybox", "sleep", "600")
    daemon.out("run", "-d", "--name", "full", *words)
    try:
        if daemon.api("GET", "/info")[1]["PidsLimit"] is False:
            pytest.skip("this host has no pids controller")
        done = daemon.docker("exec", "full", "true", check=False)
        assert done.returncode == 126
        assert "no process is left" in done.stderr and "--pids-limit" in done.stderr
        assert daemon.out("inspect", "-f", "{{.State.Running}}", "full") == "true"
        daemon.out("update", "--pids-limit", "3", "full")
        assert daemon.out("exec", "full", "echo", "room") == "room"
        for _ in range(5):  # the helper is gone each time
            assert daemon.out("exec", "full", "echo", "room") == "room"
    finally:
        daemon.out("rm", "-f", "full")


def test_an_exec_into_a_fork_bomb_fails_or_runs_in_time_and_the_bomb_is_removed(daemon: Daemon) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; while :; do :; done"
    words = ("--network", "none", "--pids-limit", "40", "--cpus", "0.5", "busybox", "sh", "-c", bomb)
    daemon.out("run", "-d", "--name", "bomb", *words)
    box = state(daemon, "bomb")["Id"]
    try:
        for _ in range(5):
            done = daemon.docker("exec", "bomb", "true", check=False, timeout_s=60)
            assert done.returncode == 0 or "no process is left" in done.stderr or "fork" in done.stderr, done.stderr
    finally:
        daemon.out("rm", "-f", "bomb")
    assert traces(daemon, box) == []


def test_an_exec_that_wants_too_much_memory_is_killed_and_the_container_goes_on(daemon: Daemon) -> None:
    words = ("--network", "none", "-m", "24m", "--memory-swap", "24m", "busybox", "sleep", "600")
    daemon.out("run", "-d", "--name", "small", *words)
    try:
        done = daemon.docker("exec", "small", "sh", "-c", "head -c 200m /dev/zero | tail", check=False)
        assert done.returncode == 137
        assert eventually(lambda: state(daemon, "small")["State"]["OOMKilled"])
        assert state(daemon, "small")["State"]["Running"]
        assert daemon.out("exec", "small", "echo", "fine") == "fine"
    finally:
        daemon.out("rm", "-f", "small")


# -- the end at the same moment


def test_execs_into_a_container_that_ends_meanwhile_end_too_and_leave_no_process(daemon: Daemon) -> None:
    for number in range(12):
        daemon.out("run", "-d", "--name", "brief", "--network", "none", "busybox", "sleep", f"0.{number % 4 + 1}")
        pid = state(daemon, "brief")["State"]["Pid"]
        if not pid:  # it has ended already
            daemon.out("rm", "-f", "brief")
            continue
        box, monitor = state(daemon, "brief")["Id"], monitor_of(pid)
        done: list[Any] = []

        def enter(done: list[Any] = done) -> None:
            while not done or done[-1].returncode == 0:
                done.append(daemon.docker("exec", "brief", "true", check=False, timeout_s=30))

        clients = [threading.Thread(target=enter) for _ in range(2)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
            assert not client.is_alive()
        last = done[-1]
        assert last.returncode in (1, 126, 137), (last.returncode, last.stderr)
        assert "Traceback" not in last.stderr and "malformed" not in last.stderr, last.stderr
        assert daemon.out("wait", "brief") == "0"
        assert eventually(lambda monitor=monitor: not os.path.exists(f"/proc/{monitor}"))  # type: ignore[misc]
        assert eventually(lambda box=box: traces(daemon, box) == [])  # type: ignore[misc]
        daemon.out("rm", "brief")
    assert "Traceback" not in (daemon.root / "run" / "monitor.log").read_text()
    assert "Traceback" not in daemon.log.read_text()


# -- control groups

_FILL = """
made = {}
for hierarchy in os.listdir("/sys/fs/cgroup"):
    top = "/sys/fs/cgroup/" + hierarchy
    if os.path.islink(top) or not os.path.isdir(top):
        continue
    try:
        for n in range(WIDE):
            os.mkdir(f"{top}/wide{n}")
        here = os.open(top, os.O_RDONLY)
        for n in range(DEEP):
            os.mkdir("deep", dir_fd=here)
            below = os.open("deep", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        made[hierarchy] = n + 1
    except OSError as error:
        made[hierarchy] = errno.errorcode[error.errno]
print(json.dumps(made), flush=True)
for n in range(20):
    if not os.fork():
        for hierarchy in made:
            try: open(f"/sys/fs/cgroup/{hierarchy}/wide{n}/cgroup.procs", "w").write("0")
            except OSError: pass
        while True:
            time.sleep(100)
time.sleep(1000)
"""


@pytest.mark.skipif(not HAVE_PYTHON, reason=f"needs {PYTHON}")
def test_a_container_that_fills_its_cgroups_with_groups_is_stopped_and_removed(daemon: Daemon) -> None:
    """More than a thousand deep in one hierarchy, and wide in the others, with processes in them."""
    program = PRELUDE + _FILL.replace("WIDE", "50").replace("DEEP", "1200 if hierarchy in ('pids', 'memory') else 3")
    words = with_python("--security-opt", "writable-cgroups=true")
    daemon.out("run", "-d", "--name", "filler", *words, "busybox", PYTHON, "-c", program)
    box = state(daemon, "filler")["Id"]
    try:
        assert eventually(lambda: "{" in daemon.out("logs", "filler"), 60), daemon.docker("logs", "filler").stderr
        assert eventually(lambda: len(daemon.api("GET", "/containers/filler/top")[1].get("Processes") or ()) > 20)
        daemon.out("pause", "filler")
        daemon.out("unpause", "filler")
        assert daemon.out("exec", "filler", "echo", "inside") == "inside"
    finally:
        daemon.out("rm", "-f", "filler")
    assert eventually(lambda: traces(daemon, box) == []), traces(daemon, box)[:5]
