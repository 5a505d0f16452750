"""What a container of the docker CLI may do and use: limits, rights, devices, a read-only root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def run(daemon: Daemon, *words: str) -> str:
    return daemon.out("run", "--rm", "--network", "none", *words)


def test_limits_reach_the_cgroup(daemon: Daemon) -> None:
    daemon.out(
        "run",
        "-d",
        "--name",
        "limited",
        "--network",
        "none",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "20",
        "busybox",
        "sleep",
        "60",
    )
    try:
        pid = daemon.out("inspect", "-f", "{{.State.Pid}}", "limited")
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        assert daemon.config["cgroup_parent"] in groups
        values = {path.name: path.read_text().strip() for path in _limit_files(groups)}
        assert values.get("memory.limit_in_bytes", values.get("memory.max")) == str(64 << 20)
        assert values["pids.max"] == "20"
    finally:
        daemon.out("rm", "-f", "limited")


def _limit_files(groups: str) -> Iterator[Path]:
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ["unified"]:
            folder = Path("/sys/fs/cgroup") / controller / path.lstrip("/")
            if not controllers and not folder.exists():
                folder = Path("/sys/fs/cgroup") / path.lstrip("/")
            for name in ("memory.limit_in_bytes", "memory.max", "pids.max"):
                if (folder / name).exists():
                    yield folder / name


def test_out_of_memory_is_told(daemon: Daemon) -> None:
    daemon.docker(
        "run",
        "--name",
        "oom",
        "--network",
        "none",
        "--memory",
        "8m",
        "busybox",
        "sh",
        "-c",
        "x=$(yes 123456789 | head -c 60000000); echo ${#x}",
        check=False,
    )
    try:
        assert daemon.out("inspect", "-f", "{{.State.OOMKilled}}", "oom") == "true"
    finally:
        daemon.out("rm", "-f", "oom")


def test_security_options(daemon: Daemon) -> None:
    status = run(
        daemon,
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "--security-opt",
        "no-new-privileges",
        "busybox",
        "cat",
        "/proc/self/status",
    )
    assert re.search(r"CapEff:\s+0000000000000001", status)
    assert re.search(r"NoNewPrivs:\s+1", status)
    assert re.search(r"Seccomp:\s+2", status)
    plain = run(daemon, "--security-opt", "seccomp=unconfined", "busybox", "cat", "/proc/self/status")
    assert re.search(r"Seccomp:\s+0", plain)
    assert re.search(r"CapEff:\s+00000000a80425fb", plain)


def test_read_only_root_and_privileged(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--read-only", "--network", "none", "busybox", "touch", "/x", check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert run(daemon, "--privileged", "busybox", "sh", "-c", "mount -t tmpfs none /tmp && echo mounted") == "mounted"


def test_ulimits_sysctls_devices_and_init(daemon: Daemon) -> None:
    out = run(
        daemon,
        "--ulimit",
        "nofile=100:200",
        "--sysctl",
        "net.ipv4.ip_default_ttl=99",
        "--device",
        "/dev/zero:/dev/nought",
        "--init",
        "busybox",
        "sh",
        "-c",
        "ulimit -n; cat /proc/sys/net/ipv4/ip_default_ttl; ls /dev/nought; echo $$",
    )
    lines = out.splitlines()
    assert lines[:3] == ["100", "99", "/dev/nought"]
    assert lines[3] != "1"
