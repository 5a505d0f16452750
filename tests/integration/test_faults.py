"""scowd, zygote and monitors are killed while containers run; bad requests change nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "engine").start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def eventually(check: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return check()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fetch(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 3) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b"")).decode()


def test_containers_survive_a_killed_daemon(daemon: Daemon) -> None:
    port = free_port()
    serve = "mkdir /www; echo page > /www/index.html; httpd -f -p 80 -h /www"
    daemon.out("run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "busybox", "sh", "-c", serve)
    daemon.out(
        "run",
        "-dt",
        "--name",
        "tty",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done",
    )
    daemon.out("run", "-d", "--name", "short", "--network", "none", "busybox", "sh", "-c", "sleep 1; exit 5")
    assert eventually(lambda: "page" in fetch(port))
    pid = daemon.out("inspect", "-f", "{{.State.Pid}}", "tty")
    daemon.stop(signal.SIGKILL)
    assert os.path.exists(f"/proc/{pid}")
    assert "page" in fetch(port)
    time.sleep(1.2)
    daemon.start()
    assert sorted(daemon.out("ps", "--format", "{{.Names}}").split()) == ["tty", "web"]
    assert daemon.out("port", "web") == f"80/tcp -> 127.0.0.1:{port}"
    assert "page" in fetch(port)
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "short") == "5 exited"
    assert daemon.out("inspect", "-f", "{{.State.Pid}}", "tty") == pid
    before = int(daemon.out("logs", "--tail", "1", "tty").split()[1])
    assert eventually(lambda: int(daemon.out("logs", "--tail", "1", "tty").split()[1]) > before)
    assert daemon.out("exec", "web", "echo", "inside") == "inside"
    daemon.out("stop", "-t", "1", "tty", "web")
    assert daemon.out("ps", "-q") == ""
    with pytest.raises(OSError):
        fetch(port)


def test_an_exec_is_answered_after_a_restart(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60")
    status, created = daemon.api("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "sleep 1; exit 6"]})
    assert status == 201
    assert daemon.api("POST", f"/exec/{created['Id']}/start", {"Detach": True})[0] == 200
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert eventually(lambda: daemon.api("GET", f"/exec/{created['Id']}/json")[1].get("ExitCode") == 6)


def test_the_zygote_is_replaced(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60")
    os.kill(zygote_of(daemon.pid), signal.SIGKILL)
    assert daemon.out("exec", "box", "echo", "still") == "still"
    assert eventually(
        lambda: (
            daemon.docker("run", "--rm", "--network", "none", "busybox", "echo", "new", check=False).stdout == "new\n"
        )
    )
    daemon.out("stop", "-t", "1", "box")


def zygote_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    for child in children:
        if "zygote" in Path(f"/proc/{child}/comm").read_text() + Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise AssertionError(f"no zygote among {children}")


def test_a_killed_monitor_ends_its_container(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60")
    pid = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "box"))
    monitor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(monitor, signal.SIGKILL)
    assert eventually(lambda: daemon.out("inspect", "-f", "{{.State.Status}}", "box") == "exited")
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}} {{.State.Error}}", "box") == "137 monitor lost"
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_rm_waits_for_the_daemon_and_happens_then(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--rm", "--name", "gone", "--network", "none", "busybox", "sleep", "0.5")
    daemon.stop(signal.SIGKILL)
    time.sleep(0.8)
    daemon.start()
    assert eventually(lambda: daemon.out("ps", "-aq") == "")


def test_a_second_daemon_on_the_same_root_is_refused(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scow.daemon", "--config", str(daemon.config_file)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert f"pid {daemon.pid}" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["run", "--rm", "nginx/UPPER", "true"], 125, "invalid reference format"),
        (["create", "--name", "bad name", "busybox"], 1, "Invalid container name"),
        (["run", "--rm", "--network", "none", "-p", "70000:80", "busybox"], 125, "hostPort"),
        (["run", "--rm", "--network", "nosuch", "busybox", "true"], 125, "network nosuch not found"),
        (["run", "--rm", "--runtime", "nosuch", "busybox", "true"], 125, "nosuch"),
        (["run", "--rm", "--log-driver", "nosuch", "busybox", "true"], 125, "nosuch"),
        (["run", "--rm", "--log-opt", "bogus=1", "busybox", "true"], 125, "bogus"),
        (["run", "--rm", "--cap-add", "NOPE", "busybox", "true"], 125, "NOPE"),
        (["run", "--rm", "--sysctl", "kernel.panic=1", "busybox", "true"], 125, "kernel.panic"),
        (["run", "--rm", "-u", "nobodyknows", "busybox", "true"], 125, "nobodyknows"),
        (["run", "--rm", "--memory", "1m", "busybox", "true"], 125, "Minimum memory limit"),
        (["run", "--rm", "--mount", "type=bind,src=/does/not/exist,dst=/x", "busybox", "true"], 125, "does not exist"),
        (["run", "--rm", "--restart", "always", "--rm", "busybox", "true"], 125, "restart"),
    ],
)
def test_bad_requests_say_what_is_wrong_and_leave_nothing(
    shared: Daemon, words: list[str], code: int, text: str
) -> None:
    done = shared.docker(*words, check=False)
    assert done.returncode in (code, 125 if code == 1 else code)
    assert text in done.stderr
    assert shared.out("ps", "-aq") == ""
    assert os.listdir(shared.root / "data" / "containers") == []
    assert shared.out("volume", "ls", "-q") == ""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("shared")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def test_a_taken_port_is_refused_and_nothing_is_left(shared: Daemon) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = shared.docker(
            "run", "-d", "--name", "clash", "-p", f"127.0.0.1:{port}:80", "busybox", "true", check=False
        )
    assert done.returncode == 125
    assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in done.stderr
    record = json.loads(shared.out("inspect", "clash"))[0]
    assert record["State"]["Status"] == "created"
    assert shared.out("ps", "-q") == ""
    shared.out("rm", "clash")


def test_a_broken_plugin_is_named_and_stops_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "broken_scow-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-scow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[scow.storage]\nbroken = broken_scow:Driver\n[scow.plugins]\nb = broken_scow\n"
    )
    (site / "broken_scow.py").write_text("raise RuntimeError('broken on purpose')\n")
    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(site)
    try:
        daemon = Daemon(tmp_path / "engine").start()
    finally:
        if environment is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = environment
    daemon.import_busybox()
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "fine") == "fine"
    states = {(entry["kind"], entry["name"]): entry for entry in daemon.api("GET", "/scow/v1/plugins")[1]}
    assert ("storage", "broken") in states
    assert "broken on purpose" in states["plugin", "b"]["reason"]
    daemon.cleanup()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ({"drivers": {"storage": "zfs"}}, "no storage driver named 'zfs'"),
        ({"drivers": {"storage": "zfs"}}, "installed: overlay, vfs"),
        ({"drivers": {"storge": "overlay"}}, "storge"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_what_is_valid(
    tmp_path: Path, key: dict[str, object], text: str
) -> None:
    daemon = Daemon(tmp_path / "engine", **key)
    command = [sys.executable, "-m", "scow.daemon", "--config", str(daemon.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert text in done.stderr
    assert str(daemon.config_file) in done.stderr


def test_the_vfs_driver_runs_containers_too(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "engine", drivers={"storage": "vfs"}).start()
    daemon.import_busybox()
    assert daemon.out("info", "-f", "{{.Driver}}") == "vfs"
    assert daemon.out("run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo x > /f; cat /f") == "x"
    daemon.cleanup()


def test_a_clean_restart_repairs_nothing_and_a_stop_leaves_nothing_in_the_kernel(daemon: Daemon) -> None:
    daemon.out("run", "--rm", "busybox", "true")
    daemon.stop()
    assert not Path(f"/sys/class/net/{daemon.config['bridge_name']}").exists()
    daemon.start()
    assert daemon.api("GET", "/scow/v1/repairs") == (200, [])
    assert daemon.out("run", "--rm", "busybox", "echo", "again") == "again"
