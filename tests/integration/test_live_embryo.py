"""The init that waits in a spare monitor (`scow_runtime_native.embryo`), through an engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    engine = Daemon(tmp_path_factory.mktemp("engine"), userns_user="scow-nobody").start()
    engine.import_busybox()
    yield engine
    engine.cleanup()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zygote_of(daemon: Daemon) -> int:
    (pid,) = [pid for pid in children(daemon.pid) if Path(f"/proc/{pid}/comm").read_text() == "scow-zygote\n"]
    return pid


def waiting(daemon: Daemon) -> tuple[int, int]:
    """The pids of the spare and of its embryo, as soon as they are there; skipped where the host has none."""
    if daemon.out("info", "-f", "{{.CgroupVersion}}") == "2":
        pytest.skip("with cgroup version 2 an init is born in its group")
    for _ in range(500):
        for spare in children(zygote_of(daemon)):
            if Path(f"/proc/{spare}/comm").read_text() == "scow-zygote\n" and (found := children(spare)):
                return spare, found[0]
        time.sleep(0.01)
    raise AssertionError("no embryo is there")


def gone(pid: int) -> bool:
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.01)
    return False


def test_the_embryo_becomes_the_init_and_another_follows(daemon: Daemon) -> None:
    _spare, embryo = waiting(daemon)
    container = daemon.out("run", "-d", "busybox", "sleep", "60")
    assert daemon.out("inspect", "-f", "{{.State.Pid}}", container) == str(embryo)
    assert waiting(daemon)[1] != embryo
    daemon.docker("rm", "-f", container)


@pytest.mark.parametrize("option", ["--network=host", "--ipc=host", "--pid=host", "--uts=host"])
def test_a_container_that_wants_other_namespaces_leaves_no_embryo_behind(daemon: Daemon, option: str) -> None:
    _spare, embryo = waiting(daemon)
    container = daemon.out("run", "-d", option, "busybox", "sleep", "60")
    assert daemon.out("inspect", "-f", "{{.State.Pid}}", container) != str(embryo)
    assert gone(embryo)
    daemon.docker("rm", "-f", container)


def test_a_killed_embryo_costs_nothing(daemon: Daemon) -> None:
    _spare, embryo = waiting(daemon)
    os.kill(embryo, signal.SIGKILL)
    assert daemon.docker("run", "--rm", "busybox", "sh", "-c", "exit 7", check=False).returncode == 7


def test_an_embryo_ends_with_its_spare(daemon: Daemon) -> None:
    spare, embryo = waiting(daemon)
    os.kill(spare, signal.SIGKILL)
    assert gone(embryo)
    assert waiting(daemon)[1] != embryo


def test_the_init_of_an_embryo_has_what_any_other_has(daemon: Daemon) -> None:
    """Its descriptors, session, keyring, network and groups of control are no others than those of a cloned one."""
    show = "ls -l /proc/self/fd | wc -l; cat /proc/1/sessionid /proc/self/cgroup /proc/self/limits; ip addr show lo"
    waiting(daemon)
    hatched = daemon.out("run", "--rm", "--network=none", "--name=same", "busybox", "sh", "-c", show)
    _spare, embryo = waiting(daemon)
    os.kill(embryo, signal.SIGKILL)
    cloned = daemon.out("run", "--rm", "--network=none", "--name=same", "busybox", "sh", "-c", show)
    assert hatched == cloned
    assert "LOOPBACK,UP" in hatched


def test_a_large_plan_is_started_without_it(daemon: Daemon) -> None:
    _spare, embryo = waiting(daemon)
    words = [word for number in range(40) for word in ("-e", f"LARGE{number}={'x' * 4000}")]
    assert daemon.out("run", "--rm", *words, "busybox", "sh", "-c", "echo ${#LARGE39}") == "4000"
    assert gone(embryo)


AUTO = ("--annotation", "scow.userns=auto")


def waiting_with_user_namespace(daemon: Daemon) -> tuple[int, int]:
    """The pids of the embryo with a user namespace and of its servant, after a container that had one."""
    waiting(daemon)
    daemon.out("run", "--rm", *AUTO, "busybox", "true")
    host = os.readlink("/proc/self/ns/user")
    for _ in range(500):
        spare, _embryo = waiting(daemon)
        kinds = {}
        for pid in children(spare):
            try:
                user, pids = (os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "pid"))
            except FileNotFoundError:
                continue
            kinds[user == host, pids == os.readlink("/proc/self/ns/pid")] = pid
        if {(False, False), (True, True)} <= kinds.keys():
            return kinds[False, False], kinds[True, True]
        time.sleep(0.01)
    raise AssertionError("no embryo with a user namespace is there")


def test_after_a_container_with_a_user_namespace_an_embryo_has_one(daemon: Daemon) -> None:
    embryo, servant = waiting_with_user_namespace(daemon)
    container = daemon.out("run", "-d", *AUTO, "busybox", "sleep", "60")
    assert daemon.out("inspect", "-f", "{{.State.Pid}}", container) == str(embryo)
    assert daemon.out("exec", container, "id", "-u") == "0" and gone(servant)
    daemon.docker("rm", "-f", container)


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_embryo_with_a_user_namespace_or_its_servant_costs_nothing(daemon: Daemon, which: int) -> None:
    os.kill(waiting_with_user_namespace(daemon)[which], signal.SIGKILL)
    assert daemon.docker("run", "--rm", *AUTO, "busybox", "sh", "-c", "exit 7", check=False).returncode == 7


def test_the_init_of_an_embryo_with_a_user_namespace_has_what_any_other_has(daemon: Daemon) -> None:
    show = "ls -l /proc/self/fd | wc -l; cat /proc/1/sessionid /proc/self/cgroup /proc/self/limits; ip addr show lo; id"
    words = ("run", "--rm", *AUTO, "--network=none", "--name=same", "busybox", "sh", "-c", f"{show}; mount | wc -l")
    embryo, _servant = waiting_with_user_namespace(daemon)
    hatched = daemon.out(*words)
    embryo, _servant = waiting_with_user_namespace(daemon)
    os.kill(embryo, signal.SIGKILL)
    assert hatched == daemon.out(*words)


def test_all_that_waits_for_a_user_namespace_ends_with_its_spare(daemon: Daemon) -> None:
    embryo, servant = waiting_with_user_namespace(daemon)
    spare, _embryo = waiting(daemon)
    os.kill(spare, signal.SIGKILL)
    assert gone(embryo) and gone(servant)
