"""scowd is killed at random moments of create, start, stop and remove; whatever it finds afterwards is consistent."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from scow.linux.syscalls import MS_BIND, mount
from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]

SCRIPTS = (
    ("run", "--rm", "busybox", "true"),
    ("run", "-d", "busybox", "sleep", "100"),
    ("run", "-d", "-v", "/anonymous", "-p", "127.0.0.1:0:80", "busybox", "sleep", "100"),
    ("run", "-d", "--network", "none", "busybox", "sh", "-c", "exit 3"),
)


def busy(daemon: Daemon, stop: threading.Event, seed: int) -> None:
    """Runs, stops and removes containers until told to stop; errors are expected, the daemon dies meanwhile."""
    choose = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.docker(*choose.choice(SCRIPTS), check=False, timeout_s=10)
            ids = daemon.docker("ps", "-aq", check=False, timeout_s=10).stdout.split()
            if len(ids) > 4:
                daemon.docker("rm", "-f", "-v", *ids[2:], check=False, timeout_s=20)


def check(daemon: Daemon) -> None:
    """What is said to run runs, what does not has left nothing."""
    listed = daemon.out("ps", "-aq", "--no-trunc").split()
    records = json.loads(daemon.out("inspect", *listed)) if listed else []
    for record in records:
        state = record["State"]
        assert state["Status"] in ("created", "running", "exited"), state
        assert state["Running"] == (state["Pid"] != 0 and os.path.exists(f"/proc/{state['Pid']}")), state
    running = {record["Id"] for record in records if record["State"]["Running"]}
    assert set(os.listdir(daemon.root / "data" / "containers")) == set(listed)
    assert groups(daemon) == running
    used = {mount["Name"] for record in records for mount in record["Mounts"]}
    assert set(daemon.out("volume", "ls", "-q").split()) >= used


def groups(daemon: Daemon) -> set[str]:
    """The containers that have a cgroup."""
    name = f"{daemon.config['cgroup_parent']}/{daemon.config['engine_name']}"
    found = set()
    root = Path("/sys/fs/cgroup")
    for hierarchy in (root, *root.iterdir()):
        folder = hierarchy / name
        if folder.is_dir():
            found |= {entry.name for entry in folder.iterdir() if entry.is_dir()}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_any_moment_may_be_the_last(tmp_path: Path, seed: int) -> None:
    daemon = Daemon(tmp_path / "engine").start()
    daemon.import_busybox()
    choose = random.Random(seed)
    stop = threading.Event()
    clients = [threading.Thread(target=busy, args=(daemon, stop, seed * 10 + n)) for n in range(2)]
    for client in clients:
        client.start()
    try:
        for _ in range(5):
            time.sleep(choose.uniform(0.1, 0.9))
            daemon.stop(signal.SIGKILL)
            daemon.start()
    finally:
        stop.set()
        for client in clients:
            client.join()
    daemon.stop(signal.SIGKILL)
    daemon.start()
    try:
        check(daemon)
    finally:
        daemon.cleanup()


def test_a_mount_that_a_killed_daemon_left_is_gone_after_the_next_start(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "engine").start()
    try:
        daemon.stop(signal.SIGKILL)
        left = daemon.root / "run/mnt/left"
        left.mkdir(parents=True, exist_ok=True)
        mount(str(left), str(left), None, MS_BIND)
        daemon.start()
        daemon.out("ps")  # waits until the engine is open, which _ping does not
        assert not left.exists()
    finally:
        daemon.cleanup()
