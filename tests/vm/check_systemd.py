"""scowd as a service of systemd, with the units that docs/how-to/systemd.md shows.

`tests/vm/run.py` runs this in its machine; pytest does not collect it by itself. It uses the default roots and names.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import DOCKER, busybox_tar

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGE = REPOSITORY / "docs/how-to/systemd.md"
GROUPS = Path("/sys/fs/cgroup")
IN_THE_MACHINE = Path("/etc/systemd/system/scow-tests.service").exists()
UNITS = ("scowd.service", "scowd.socket")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not IN_THE_MACHINE, reason="installs units: only in the machine of tests/vm/run.py"),
]


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"systemctl {' '.join(words)}\n{done.stderr}\n{journal()}"
    return done.stdout.strip()


def journal() -> str:
    words = ["journalctl", "--no-pager", "-q", "-n", "40", *(word for unit in UNITS for word in ("-u", unit))]
    return subprocess.run(words, capture_output=True, text=True, timeout=30).stdout


def docker(*words: str, input: bytes | None = None, check: bool = True) -> str:
    assert DOCKER is not None
    done = subprocess.run(
        [DOCKER, "-H", "unix:///run/scow/scow.sock", *words], input=input, capture_output=True, timeout=60
    )
    assert not check or done.returncode == 0, f"docker {' '.join(words)}\n{done.stderr.decode()}\n{journal()}"
    return done.stdout.decode().strip()


def eventually(check: Callable[[], bool], timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def answers() -> bool:
    return docker("version", "-f", "{{.Server.Version}}", check=False) != ""


def unit(name: str) -> str:
    """The unit that the page shows, for the scowd of this repository."""
    found = re.search(
        rf'^```ini title="/etc/systemd/system/{re.escape(name)}"\n(.*?)^```', PAGE.read_text(), re.M | re.S
    )
    assert found, name
    return found[1].replace("/opt/scow/bin/", f"{Path(sys.executable).parent}/")


@pytest.fixture(scope="module")
def service() -> Iterator[None]:
    """scowd.service runs; afterwards no container, unit, or process of it is left."""
    Path("/etc/systemd/system/scowd.service").write_text(unit("scowd.service"))
    systemctl("daemon-reload")
    systemctl("start", "scowd")
    assert eventually(answers)
    docker("import", "-c", "ENV PATH=/bin", "-", "busybox", input=busybox_tar())
    yield
    ids = docker("ps", "-aq").split()
    if ids:
        docker("rm", "-f", *ids)
    for name in UNITS:
        if Path("/etc/systemd/system", name).exists():
            systemctl("stop", name)
            Path("/etc/systemd/system", name).unlink()
    systemctl("daemon-reload")


@pytest.fixture
def counter(service: None) -> Iterator[int]:
    """A container that prints numbers; its process on the host."""
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    docker("run", "-d", "--name", "counter", "--memory", "64m", "--cpus", "0.5", "busybox", "sh", "-c", script)
    yield int(docker("inspect", "-f", "{{.State.Pid}}", "counter"))
    if not answers():
        systemctl("start", "scowd")
        eventually(answers)
    docker("rm", "-f", "counter")


def group_of(pid: int | str) -> Path:
    return GROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def main_pid() -> str:
    return systemctl("show", "-p", "MainPID", "--value", "scowd")


def last_number() -> int:
    return int(docker("logs", "--tail", "1", "counter").split()[-1])  # one may have come in meanwhile


def goes_on(pid: int) -> bool:
    """The container is the same, its output comes in, and it takes an exec."""
    assert eventually(answers)
    assert int(docker("inspect", "-f", "{{.State.Pid}}", "counter")) == pid
    assert docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "counter") == "true 0"
    before = last_number()
    assert eventually(lambda: last_number() > before)
    return docker("exec", "counter", "echo", "inside") == "inside"


def test_containers_live_outside_of_the_services_group_and_monitors_inside(counter: int) -> None:
    service = group_of(main_pid())
    assert service == GROUPS / "system.slice/scowd.service"
    assert not group_of(counter).is_relative_to(service)
    assert group_of(parent_of(counter)).is_relative_to(service)  # why KillMode=process is needed


def test_containers_survive_a_restart_of_the_service(counter: int) -> None:
    before = main_pid()
    for _ in range(2):
        systemctl("restart", "scowd")
        assert goes_on(counter)
    assert main_pid() != before


def test_containers_survive_stop_and_start(counter: int) -> None:
    systemctl("stop", "scowd")
    assert Path(f"/proc/{counter}").exists()
    time.sleep(0.5)
    systemctl("start", "scowd")
    assert goes_on(counter)


def test_a_killed_daemon_is_started_again_and_containers_survive(counter: int) -> None:
    before = main_pid()
    systemctl("kill", "--kill-whom=main", "--signal=KILL", "scowd")
    assert eventually(lambda: main_pid() not in ("0", before))
    assert goes_on(counter)


def test_systemd_takes_no_controller_away(counter: int) -> None:
    """Units come and go with limits of their own; systemd then writes the controllers of its groups anew."""
    group = group_of(counter)
    systemctl("daemon-reload")
    words = ("--quiet", "--wait", "--collect", "-p", "MemoryMax=50M", "-p", "CPUQuota=50%", "-p", "AllowedCPUs=0")
    subprocess.run(["systemd-run", *words, "-p", "IOWeight=50", "true"], check=True, timeout=30)
    subprocess.run(["systemd-run", *words, "-p", "Slice=other.slice", "true"], check=True, timeout=30)
    systemctl("stop", "other.slice")
    systemctl("daemon-reload")
    systemctl("daemon-reexec")
    assert (group / "memory.max").read_text().strip() == str(64 << 20)
    assert (group / "cpu.max").read_text().strip() == "50000 100000"
    docker("update", "--cpuset-cpus", "0", "--pids-limit", "30", "counter")
    assert (group / "cpuset.cpus").read_text().strip() == "0"
    docker(
        "run", "--rm", "--memory", "32m", "--pids-limit", "9", "--cpus", "0.1", "--cpuset-cpus", "0", "busybox", "true"
    )
    assert goes_on(counter)


def test_an_idle_service_is_restarted_too(service: None) -> None:
    systemctl("restart", "scowd")
    assert eventually(answers)
    assert docker("run", "--rm", "--memory", "32m", "busybox", "cat", "/sys/fs/cgroup/memory.max") == str(32 << 20)


def test_nothing_is_left_in_the_services_group_when_the_containers_are_gone(service: None) -> None:
    docker("run", "--rm", "busybox", "true")
    systemctl("stop", "scowd")
    folder = GROUPS / "system.slice/scowd.service"
    assert eventually(lambda: not folder.exists() or not (folder / "cgroup.procs").read_text())
    assert not (GROUPS / "scow").exists()
    systemctl("start", "scowd")
    assert eventually(answers)


def test_the_first_request_starts_the_daemon_and_the_socket_outlives_it(service: None) -> None:
    systemctl("stop", "scowd")
    subprocess.run(["groupadd", "--system", "--force", "docker"], check=True)  # the socket's, as the page has it
    Path("/etc/systemd/system/scowd.socket").write_text(unit("scowd.socket"))
    override = Path("/etc/systemd/system/scowd.service.d/socket.conf")
    override.parent.mkdir()
    override.write_text(unit("scowd.service.d/socket.conf"))
    try:
        systemctl("daemon-reload")
        systemctl("start", "scowd.socket")
        assert systemctl("show", "-p", "ActiveState", "--value", "scowd") == "inactive"
        docker("run", "-d", "--name", "lives", "busybox", "sleep", "600")
        assert systemctl("show", "-p", "ActiveState", "--value", "scowd") == "active"
        first = main_pid()
        systemctl("restart", "scowd")
        assert docker("exec", "lives", "echo", "inside") == "inside"  # at once: the socket queues it
        assert main_pid() != first
        assert Path("/run/scow/scow.sock").is_socket()
        pid = docker("inspect", "-f", "{{.State.Pid}}", "lives")
        holders = {int(pid), parent_of(int(pid))}
        assert [pid for pid in holders if _holds_the_socket(pid)] == []
        docker("rm", "-f", "lives")
    finally:
        override.unlink()
        override.parent.rmdir()
        systemctl("stop", "scowd.service", "scowd.socket")
        Path("/etc/systemd/system/scowd.socket").unlink()
        systemctl("daemon-reload")
        systemctl("start", "scowd")
        assert eventually(answers)


def _holds_the_socket(pid: int) -> bool:
    """Whether *pid* has the listening socket's inode open."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    inodes = {f"socket:[{row[6]}]" for row in rows if row[-1] == "/run/scow/scow.sock" and row[3] == "00010000"}
    assert inodes
    return any(link.readlink().as_posix() in inodes for link in Path(f"/proc/{pid}/fd").iterdir())


def test_containers_can_live_in_a_unit_whose_group_systemd_hands_over(service: None) -> None:
    """Where nothing but systemd may write at the root: `cgroup_parent` names the group of a delegated unit."""
    systemctl("stop", "scowd")
    unit_file = Path("/etc/systemd/system/scow-containers.service")
    config = Path("/etc/scow/config.yaml")
    unit_file.write_text(unit("scow-containers.service"))
    config.parent.mkdir(exist_ok=True)
    config.write_text("cgroup_parent: system.slice/scow-containers.service\n")
    try:
        systemctl("daemon-reload")
        systemctl("start", "scow-containers", "scowd")
        assert eventually(answers)
        docker("run", "-d", "--name", "handed", "--memory", "64m", "--cpus", "0.5", "busybox", "sleep", "600")
        pid = docker("inspect", "-f", "{{.State.Pid}}", "handed")
        assert group_of(pid).is_relative_to(GROUPS / "system.slice/scow-containers.service/scow")
        assert not (GROUPS / "scow").exists()
        systemctl("daemon-reload")
        systemctl("restart", "scowd")
        assert eventually(answers)
        assert (group_of(pid) / "memory.max").read_text().strip() == str(64 << 20)
        docker("update", "--memory", "32m", "--memory-swap", "64m", "handed")
        assert (group_of(pid) / "memory.max").read_text().strip() == str(32 << 20)
    finally:
        docker("rm", "-f", "handed", check=False)
        systemctl("stop", "scowd", "scow-containers")
        unit_file.unlink()
        config.unlink()
        systemctl("daemon-reload")
        systemctl("start", "scowd")
        assert eventually(answers)
