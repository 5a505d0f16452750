"""A container that may trace (CAP_SYS_PTRACE) lies in wait for processes that enter it: what it catches between their
birth and their execve must have nothing that it does not have itself (CVE-2016-9962, CVE-2019-5736, CVE-2024-21626)."""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon
from tests.integration.hostile import HAVE_PYTHON, PRELUDE, PYTHON, with_python

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


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An engine that gives each container a user namespace."""
    daemon = Daemon(tmp_path_factory.mktemp("mapped"), userns="auto").start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


_AMBUSH = """
ATTACH, DETACH = 16, 17

def ptrace(request, pid):
    return libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, None)

def status(pid):
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in open(f"/proc/{pid}/status")}

def link(path):
    try:
        return os.readlink(path)
    except OSError as error:
        return errno.errorcode[error.errno]

def place(path):
    try:
        has = os.stat(path)
        return [has.st_dev, has.st_ino]
    except OSError as error:
        return errno.errorcode[error.errno]

def look(pid):
    fields = status(pid)
    spaces = os.listdir("/proc/self/ns")
    return {
        "comm": fields["Name"],
        "caps": [int(fields[name], 16) & ~int(own[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh")],
        "seccomp": fields["Seccomp"] == own["Seccomp"],
        "uids": fields["Uid"].split(),
        "groups": fields["Groups"].split(),
        "namespaces": [n for n in spaces if link(f"/proc/{pid}/ns/{n}") != link(f"/proc/self/ns/{n}")],
        "root": place(f"/proc/{pid}/root") == place("/"),
        "cwd": link(f"/proc/{pid}/cwd"),
        "fds": {n: link(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd") if int(n) > 2},
        "exe": [link(f"/proc/{pid}/exe"), attempt(f"/proc/{pid}/exe", os.O_WRONLY, b"x")],
        "writable": [
            name for name in os.listdir(f"/proc/{pid}/map_files")
            if attempt(f"/proc/{pid}/map_files/{name}", os.O_RDWR) not in ("EROFS", "ETXTBSY", "EPERM", "ENOENT")
        ],
        "environ": open(f"/proc/{pid}/environ", "rb").read().decode(errors="replace").strip("\\0"),
    }

own = status("self")
caught, traced, turns, last, end = [], 0, 0, os.getpid(), time.time() + SECONDS
print("waiting", flush=True)
while time.time() < end or (PATIENCE and not caught and time.time() < end + PATIENCE):
    turns += 1
    if turns % 2000 == 0:  # those who came and went unseen have moved the numbers on
        last = os.fork() or os._exit(0)
        os.waitpid(last, 0)
    for pid in range(last + 1, last + 5):
        if ptrace(ATTACH, pid) < 0:
            continue
        last, traced = pid, traced + 1
        try:
            os.waitpid(pid, 0x40000000)
            exe = link(f"/proc/{pid}/exe")
            if "memfd" in exe or ".prepared" in exe or status(pid)["Name"].startswith("scow"):
                caught.append(look(pid))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH, errno.ECHILD):
                raise
        finally:
            ptrace(DETACH, pid)
        break
print(json.dumps([traced, caught]))
"""


def ambushing(seconds: int, patience: int = 40) -> str:
    """The program of the attacker, who lies in wait for some seconds, and for *patience* more until he has caught
    somebody before the execve: that is short, and a matter of luck on a busy machine."""
    return PRELUDE + _AMBUSH.replace("SECONDS", str(seconds)).replace("PATIENCE", str(patience))


def found(output: str) -> list[dict[str, Any]]:
    """What the attacker has caught before its execve, who has caught something."""
    traced, caught = json.loads(output.splitlines()[-1])
    assert traced, "nothing was traced at all"
    return list(caught)


def ambush(
    daemon: Daemon, name: str, *options: str, victim: Sequence[str] = (), seconds: int = 6, patience: int = 40
) -> list[dict[str, Any]]:
    """What a container *name* catches in some seconds in which *victim* is run again and again (an exec in it)."""
    program = ambushing(seconds, patience)
    words = with_python("--cap-add", "SYS_PTRACE", *options)
    daemon.out("run", "-d", "--name", name, *words, "busybox", PYTHON, "-c", program)
    over = threading.Event()

    def come() -> None:
        while not over.is_set():
            daemon.docker(*(victim or ("exec", name, "true")), check=False)

    threads = [threading.Thread(target=come) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        assert daemon.out("wait", name) == "0", daemon.docker("logs", name).stderr
        return found(daemon.out("logs", name))
    finally:
        over.set()
        for thread in threads:
            thread.join()
        daemon.out("rm", "-f", name)


def check(caught: list[dict[str, Any]], foreign: Sequence[str] = (), fifos: tuple[str, ...] = ("pipe:[",)) -> None:
    """*foreign*: the namespaces in which what was caught may be another than the tracer; *fifos*: what it has open
    for its start and its status."""
    assert caught, "nothing was caught before its execve"
    for process in caught:
        assert process["caps"] == [0, 0, 0, 0]
        assert set(process["namespaces"]) <= set(foreign)
        assert process["seccomp"]
        assert process["root"] or "mnt" in foreign
        assert process["cwd"] == "/"
        assert all(any(name in link for name in fifos) for link in process["fds"].values()), process["fds"]
        assert "memfd" in process["exe"][0] or ".prepared" in process["exe"][0]
        assert process["exe"][1] in ("ETXTBSY", "EPERM", "EACCES", "EROFS")
        assert process["writable"] == []
        assert process["environ"] == ""


def test_what_a_tracer_catches_of_an_exec_has_no_more_than_the_tracer(daemon: Daemon) -> None:
    check(ambush(daemon, "ambush"))


def test_an_exec_of_another_user_has_that_users_ids_when_it_is_caught(daemon: Daemon) -> None:
    caught = ambush(daemon, "users", victim=("exec", "-u", "mail", "users", "true"))
    check(caught)
    assert all(process["uids"] == ["8"] * 4 and process["groups"] == ["12", "77"] for process in caught)


def test_a_container_that_comes_into_anothers_pid_namespace_has_nothing_of_the_host(daemon: Daemon) -> None:
    victim = ("run", "--rm", "--network", "none", "--pid", "container:joined", "busybox", "true")
    check(ambush(daemon, "joined", victim=victim), foreign=("mnt", "uts", "ipc", "net", "cgroup"))


@pytest.mark.parametrize("join", [False, True], ids=["exec", "joined"])
def test_a_tracer_with_a_user_namespace_catches_nobody_before_the_execve(mapped: Daemon, join: bool) -> None:
    """Its rights do not count over the memory of who has not executed a program in that namespace yet."""
    comes = ("run", "--rm", "--network", "none", "--pid", "container:ids", "busybox") if join else ("exec", "ids")
    assert ambush(mapped, "ids", victim=(*comes, "sleep", "0.1"), seconds=4, patience=0) == []


def test_the_hosts_libraries_are_not_within_reach_of_one_who_may_open_what_is_mapped(daemon: Daemon) -> None:
    check(ambush(daemon, "mapped", "--cap-add", "CHECKPOINT_RESTORE"))


def test_nothing_that_monitors_have_mapped_can_be_opened_for_writing(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60")
    try:
        init = int(daemon.out("inspect", "-f", "{{.State.Pid}}", "box"))
        monitor = int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])
        opened = []
        for link in Path(f"/proc/{monitor}/map_files").iterdir():
            try:
                os.close(os.open(link, os.O_RDWR))
            except OSError as error:
                assert error.errno in (errno.EROFS, errno.ETXTBSY, errno.EPERM)
            else:
                opened.append(os.readlink(link))
        assert opened == []
    finally:
        daemon.out("rm", "-f", "box")
