"""What is mounted over, into and beside /dev and /proc, by images and by containers that share volumes with a new one
(CVE-2025-31133, CVE-2025-52565, CVE-2025-52881), and files of an image that are not what they seem."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import HAVE_PYTHON, PRELUDE, PYTHON, add_image, with_python

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


def run(daemon: Daemon, *words: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    words = ("run", "--rm", "--network", "none", *words)
    done: subprocess.CompletedProcess[str] = daemon.docker(*words, check=False, timeout_s=timeout_s)
    return done


def mounts(text: str) -> dict[str, list[str]]:
    """The lines of a mountinfo by mount point: root within the filesystem, options, type."""
    lines = [line.split(" ") for line in text.splitlines()]
    return {fields[4]: [fields[3], fields[5], fields[fields.index("-") + 1]] for fields in lines if len(fields) > 8}


# -- masks, read-only paths and the console

_SWAP_DEVICES = """
os.chdir("/v")
targets = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys", "/etc/shadow", "../../../etc/shadow"]
while True:
    for target in targets:
        for name in ("null", "console", "ptmx", "tty", "pts"):
            try:
                os.symlink(target, ".link")
                os.rename(".link", name)
            except OSError:
                for path in (".link", name):
                    try: os.unlink(path)
                    except OSError: pass
"""


@pytest.fixture
def swapper(daemon: Daemon) -> Iterator[Daemon]:
    """A container that makes links of the devices in the volume ``devices``, again and again."""
    daemon.out("volume", "create", "devices")
    words = with_python("-v", "devices:/v")
    daemon.out("run", "-d", "--name", "swapper", *words, "busybox", PYTHON, "-c", PRELUDE + _SWAP_DEVICES)
    yield daemon
    daemon.docker("rm", "-f", "swapper", check=False)
    daemon.out("volume", "rm", "devices")


def test_what_hides_paths_is_the_hosts_null_whatever_the_container_has_at_dev(swapper: Daemon) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    masked = 0
    for _ in range(12):
        done = run(swapper, "-v", "devices:/dev:nocopy", "busybox", "cat", "/proc/self/mountinfo")
        found = mounts(done.stdout)
        for path, (root, _options, kind) in found.items():
            if path.startswith("/proc/"):
                masked += kind == "devtmpfs"
                expected = {"devtmpfs": "/null", "tmpfs": "/"}.get(kind, path.removeprefix("/proc"))
                assert kind in ("devtmpfs", "tmpfs", "proc") and root == expected, done.stdout
        if "/proc/sys" in found:
            assert "ro" in found["/proc/sys"][1].split(",")
    assert masked
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_terminal_is_bound_at_no_link_of_the_containers(swapper: Daemon) -> None:
    terminals = 0
    for _ in range(8):
        script = "cat /proc/self/mountinfo; echo evil > /dev/console"
        done = run(swapper, "-t", "-v", "devices:/dev:nocopy", "busybox", "sh", "-c", script)
        for path, (_root, _options, kind) in mounts(done.stdout.replace("\r", "")).items():
            terminals += kind == "devpts"
            assert not (kind in ("devpts", "devtmpfs") and path.startswith(("/proc/sys", "/etc")))
    assert Path("/proc/sys/kernel/core_pattern").read_text() != "evil\n"


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/shadow", "../../../../etc/shadow"])
def test_the_console_of_an_image_with_links_at_dev_is_the_terminal(daemon: Daemon, target: str) -> None:
    entries: dict[str, Any] = {f"dev/{name}": ("link", target) for name in ("console", "null", "ptmx", "tty", "pts")}
    add_image(daemon, "device-links", entries)
    script = "test -c /dev/console && test -c /dev/null && tty && cat /proc/self/mountinfo"
    done = run(daemon, "-t", "device-links", "sh", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    found = mounts(done.stdout.replace("\r", ""))
    assert found["/dev/console"][2] == "devpts"
    assert [path for path, (root, _, _) in found.items() if root == "/null" and not path.startswith("/proc/")] == []


# -- what is written to /proc before the program runs

_DECOYS = (
    "proc/self/oom_score_adj", "proc/self/attr/exec", "proc/self/attr/apparmor/exec", "proc/thread-self/attr/exec",
    "proc/sys/net/ipv4/ip_unprivileged_port_start", "proc/sys/net/ipv4/ping_group_range", "proc/sys/kernel/shmmax",
    "proc/sys/kernel/domainname", "proc/self/setgroups", "proc/self/uid_map", "proc/sysrq-trigger",
)  # fmt: skip


def test_no_setting_is_written_to_what_an_image_has_at_proc(daemon: Daemon) -> None:
    add_image(daemon, "decoys", dict.fromkeys(_DECOYS, b"untouched"))
    daemon.out(
        "run", "--name", "decoyed", "--network", "none", "--oom-score-adj", "321", "--sysctl", "kernel.shmmax=4242",
        "decoys", "sh", "-c", "cat /proc/self/oom_score_adj /proc/sys/kernel/shmmax",
    )  # fmt: skip
    try:
        assert daemon.out("logs", "decoyed").split() == ["321", "4242"]
        found = [path for name in _DECOYS for path in Path(daemon.config["data_root"]).rglob(name)]
        assert len(found) == len(_DECOYS)  # in the image's layer, and nothing in the container's
        assert {path.read_bytes() for path in found} == {b"untouched"}
    finally:
        daemon.out("rm", "decoyed")


_SWAP_PROC = """
os.chdir("/v")
while True:
    for target in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/tmp", "/proc/self/attr"):
        for name in ("a", "b"):
            try:
                os.symlink(target, ".link"); os.rename(".link", name)
            except OSError:
                pass
            try:
                os.unlink(name); os.mkdir(name); os.rmdir(name)
            except OSError:
                pass
"""


def test_settings_hold_while_a_volumes_links_are_swapped_under_the_mounts(daemon: Daemon) -> None:
    daemon.out("volume", "create", "swapped")
    words = with_python("-v", "swapped:/v")
    daemon.out("run", "-d", "--name", "proc-swapper", *words, "busybox", PYTHON, "-c", PRELUDE + _SWAP_PROC)
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    score = Path("/proc/self/oom_score_adj").read_text()
    ran = 0
    try:
        for _ in range(10):
            done = run(
                daemon, "--oom-score-adj", "77", "--sysctl", "kernel.shmmax=4343", "-v", "swapped:/v:nocopy",
                "--tmpfs", "/v/a", "--tmpfs", "/v/b", "busybox",
                "cat", "/proc/self/oom_score_adj", "/proc/sys/kernel/shmmax", "/proc/self/mountinfo",
            )  # fmt: skip
            if done.returncode:
                assert "it leads to" in done.stderr or "directory" in done.stderr or "exists" in done.stderr, (
                    done.stderr
                )
                continue
            ran += 1
            assert done.stdout.split()[:2] == ["77", "4343"]
            for path, (_root, _options, kind) in mounts(done.stdout).items():
                assert kind != "tmpfs" or path.startswith(("/v/", "/dev", "/tmp", "/proc/", "/sys/")), done.stdout
                assert kind != "tmpfs" or path not in ("/proc", "/proc/sys", "/proc/self", "/sys")
    finally:
        daemon.docker("rm", "-f", "proc-swapper", check=False)
        daemon.docker("volume", "rm", "swapped", check=False)
    assert ran
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    assert Path("/proc/self/oom_score_adj").read_text() == score


# -- files of an image that are not what they seem

_SPARSE = 1 << 30


@pytest.mark.parametrize(
    "entry", [("link", "/etc/passwd"), ("link", "../../etc/passwd"), ("fifo",), b"x", ("char", 1, 5)]
)
@pytest.mark.parametrize("folder", ["dev", "proc", "sys", "etc"])
def test_an_image_whose_folder_is_something_else_is_refused_in_time_or_runs(
    daemon: Daemon, folder: str, entry: Any
) -> None:
    entries: dict[str, Any] = {folder: entry}
    if folder == "etc":
        entries |= {"etc/passwd": None, "etc/group": None}
    add_image(daemon, "odd", entries)
    before = Path("/etc/passwd").read_bytes()
    begun = time.monotonic()
    done = run(daemon, "odd", "echo", "ran")
    assert time.monotonic() - begun < 20
    if done.returncode:
        assert done.returncode in (125, 126) and f"/{folder}" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert done.stdout == "ran\n"
    assert Path("/etc/passwd").read_bytes() == before


def test_users_are_looked_up_in_a_file_of_a_gigabyte_in_no_time_and_no_memory(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "huge", "--network", "none", "-m", "64m", "busybox", "sleep", "600")
    try:
        for path in ("/etc/passwd", "/etc/group"):
            daemon.out("exec", "huge", "sh", "-c", f"rm {path}; truncate -s {_SPARSE} {path}")
        begun = time.monotonic()
        done = daemon.docker("exec", "-u", "mail", "huge", "true", check=False)
        assert done.returncode == 126 and "unable to find user mail" in done.stderr
        assert "Uid:\t8\t8" in daemon.out("exec", "-u", "8", "huge", "cat", "/proc/self/status")
        assert time.monotonic() - begun < 10
        script = "i=0; while [ $i -lt 60000 ]; do echo a:x:1:mail,mail,mail,mail; i=$((i+1)); done > /etc/group"
        daemon.out("exec", "huge", "sh", "-c", script)
        daemon.out("exec", "huge", "sh", "-c", "echo mail:x:8:12:m:/home:/bin/sh > /etc/passwd")
        begun = time.monotonic()
        assert "Groups:\t1 12" in daemon.out("exec", "-u", "mail", "huge", "cat", "/proc/self/status")
        assert time.monotonic() - begun < 10
        assert daemon.out("inspect", "-f", "{{.State.OOMKilled}}", "huge") == "false"
    finally:
        daemon.out("rm", "-f", "huge")


def test_the_shared_memory_of_another_container_is_taken_through_no_link_of_its_making(daemon: Daemon) -> None:
    """The other one sees the host's processes: /dev/shm leads to the host's root, which it may not follow itself."""
    script = "umount /dev/shm; rmdir /dev/shm; ln -s /proc/1/root/etc /dev/shm; touch /ready; sleep 60"
    words = (
        "--network",
        "none",
        "--pid",
        "host",
        "--ipc",
        "shareable",
        "--cap-add",
        "SYS_ADMIN",
        "--cap-drop",
        "SYS_PTRACE",
    )
    daemon.out("run", "-d", "--name", "linked", *words, "busybox", "sh", "-c", script)
    try:
        deadline = time.monotonic() + 20
        while daemon.docker("exec", "linked", "test", "-e", "/ready", check=False).returncode:
            assert time.monotonic() < deadline
        done = run(daemon, "--ipc", "container:linked", "busybox", "ls", "/dev/shm")
        assert done.returncode and "passwd" not in done.stdout
    finally:
        daemon.out("rm", "-f", "linked")


def test_shared_memory_is_for_those_whom_it_is_offered_to(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "private", "--network", "none", "busybox", "sleep", "60")
    daemon.out("run", "-d", "--name", "offered", "--network", "none", "--ipc", "shareable", "busybox", "sleep", "60")
    try:
        assert "non-shareable IPC" in run(daemon, "--ipc", "container:private", "busybox", "true").stderr
        daemon.out("exec", "offered", "touch", "/dev/shm/mark")
        assert run(daemon, "--ipc", "container:offered", "busybox", "ls", "/dev/shm").stdout == "mark\n"
    finally:
        daemon.out("rm", "-f", "private", "offered")
