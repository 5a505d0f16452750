"""Real figures of what containers use, through the docker CLI, docker-py and ``scow``."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]

SERVE = "mkdir -p /www; dd if=/dev/zero of=/www/big bs=1024 count=3000 2>&1; exec httpd -f -p 80 -h /www"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    daemon.out("run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", "while :; do :; done")
    daemon.out("run", "-d", "--name", "idle", "--pids-limit", "50", "busybox", "sleep", "600")
    daemon.out("create", "--name", "never", "busybox", "true")
    yield daemon
    daemon.cleanup()


def sample(daemon: Daemon, name: str, query: str = "stream=false") -> Any:
    status, body = daemon.api("GET", f"/containers/{name}/stats?{query}")
    assert status == 200
    return body


def test_the_docker_cli_shows_each_column(daemon: Daemon) -> None:
    lines = daemon.out("stats", "--no-stream", "--format", "json").splitlines()
    shown = {line["Name"]: line for line in map(json.loads, lines)}
    assert set(shown) == {"busy", "idle"}
    busy, idle = (shown[name] for name in ("busy", "idle"))
    assert 5 < float(busy["CPUPerc"].rstrip("%")) < 130
    assert float(idle["CPUPerc"].rstrip("%")) < 5
    assert busy["MemUsage"].endswith("/ 64MiB") and not busy["MemUsage"].startswith("0B")
    assert 0 < float(busy["MemPerc"].rstrip("%")) < 50
    assert (busy["PIDs"], idle["PIDs"]) == ("1", "1")
    assert daemon.out("stats", "--no-stream", "-a", "--format", "{{.Name}} {{.PIDs}}", "never") == "never 0"


def test_the_network_is_counted_in_both_directions(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "web", "busybox", "sh", "-c", SERVE)
    try:
        address = daemon.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
        fetch = f"until wget -qO /dev/null http://{address}/big; do sleep 0.1; done; exec sleep 60"
        daemon.out("run", "-d", "--name", "client", "busybox", "sh", "-c", fetch)
        deadline = time.monotonic() + 20
        while sample(daemon, "client", "stream=false&one-shot=true")["networks"]["eth0"]["rx_bytes"] < 3_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sent = sample(daemon, "web", "stream=false&one-shot=true")["networks"]["eth0"]
        assert sent["tx_bytes"] > 3_000_000 and sent["tx_packets"] > 10
        received, _, _ = daemon.out("stats", "--no-stream", "--format", "{{.NetIO}}", "client").partition(" / ")
        assert received.endswith("MB")
    finally:
        daemon.out("rm", "-f", "web", "client")


def test_block_io_is_counted(daemon: Daemon) -> None:
    copy = "dd if=/dev/zero of=/here bs=1M count=8 oflag=direct 2>&1 && exec sleep 60"
    daemon.out("run", "-d", "--name", "disk", "busybox", "sh", "-c", copy)
    try:
        deadline = time.monotonic() + 20
        while "records out" not in (log := daemon.out("logs", "disk")):
            if "Invalid argument" in log or time.monotonic() > deadline:
                pytest.skip(f"the filesystem of the roots takes no direct writes: {log}")
            time.sleep(0.05)
        entries = sample(daemon, "disk")["blkio_stats"]["io_service_bytes_recursive"]
        written = sum(entry["value"] for entry in entries if entry["op"] == "write")
        assert written >= 8 << 20
        shown = daemon.out("stats", "--no-stream", "--format", "{{.BlockIO}}", "disk")
        assert shown.partition(" / ")[2].endswith("MB"), shown
    finally:
        daemon.out("rm", "-f", "disk")


def test_a_single_sample_has_the_one_before_and_one_shot_has_none(daemon: Daemon) -> None:
    pair = sample(daemon, "busy")
    used = pair["cpu_stats"]["cpu_usage"]["total_usage"] - pair["precpu_stats"]["cpu_usage"]["total_usage"]
    passed = pair["cpu_stats"]["system_cpu_usage"] - pair["precpu_stats"]["system_cpu_usage"]
    assert 0 < used < 1.2 * passed
    assert pair["preread"] < pair["read"]
    begun = time.monotonic()
    single = sample(daemon, "busy", "stream=false&one-shot=true")
    assert time.monotonic() - begun < 0.9
    assert single["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert sample(daemon, "idle", "stream=false&one-shot=true")["pids_stats"] == {"current": 1, "limit": 50}


def test_docker_py_streams_and_takes_one(daemon: Daemon) -> None:
    docker = pytest.importorskip("docker")
    with contextlib.closing(docker.DockerClient(base_url=f"unix://{daemon.socket}")) as client:
        container = client.containers.get("busy")
        with contextlib.closing(container.stats(stream=True, decode=True)) as samples:
            first, second = next(samples), next(samples)
        assert second["precpu_stats"] == first["cpu_stats"]
        assert second["cpu_stats"]["cpu_usage"]["total_usage"] > first["cpu_stats"]["cpu_usage"]["total_usage"]
        assert container.stats(stream=False)["memory_stats"]["limit"] == 64 << 20


def watch(*command: str, until: bytes, seconds: float = 15) -> bytes:
    """What the program draws on a terminal until it has drawn *until* three times; it is interrupted then."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    drawn = b""
    deadline = time.monotonic() + seconds
    while drawn.count(until) < 3 and time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                drawn += os.read(master, 65536)
    os.kill(pid, signal.SIGINT)
    with contextlib.suppress(OSError):
        while os.read(master, 65536):
            pass
    os.waitpid(pid, 0)
    os.close(master)
    return drawn


def test_live_tables_go_on_and_follow_containers_that_come_and_go(daemon: Daemon) -> None:
    assert DOCKER is not None
    host = ["-H", f"unix://{daemon.socket}", "stats"]
    for command in ([DOCKER, *host], [sys.executable, "-m", "scow.cli.main", *host]):
        later = subprocess.Popen(
            ["sh", "-c", f"sleep 1; {DOCKER} -H unix://{daemon.socket} run -d --name late busybox sleep 60"],
            stdout=subprocess.DEVNULL,
        )
        drawn = watch(*command, until=b"late").decode()
        later.wait()
        daemon.out("rm", "-f", "late")
        assert drawn.count("CPU %") >= 3
        for name in ("busy", "idle", "late"):
            assert name in drawn
        frames = [line for line in drawn.splitlines() if " busy " in line and "iB / 64MiB" in line]
        assert len(frames) >= 2, drawn[-2000:]
        assert "never" not in drawn


def test_a_name_that_does_not_exist_is_an_error_at_once(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "scow.cli.main", "-H", f"unix://{daemon.socket}", "stats", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, "No such container: nobody" in done.stderr) == (1, True)
