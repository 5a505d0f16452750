"""The same ambush in a container of ``scow-runtime``: nothing that it makes shows a tracer the rights of the host."""

from __future__ import annotations

import json
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow_runtime_native.command.template import configuration
from tests.integration.hostile import FOLDERS, HAVE_PYTHON, PYTHON
from tests.integration.test_escapes_by_tracing import ambushing, check, found
from tests.runtime_command import PROGRAM, Bench

_CAPABILITIES = configuration()["process"]["capabilities"]["bounding"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not HAVE_PYTHON, reason=f"needs {PYTHON}"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks name system calls by x86-64 numbers"),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def namespaces(pid: int) -> list[dict[str, str]]:
    """Those of a container that shares the processes of *pid*."""
    given: list[dict[str, str]] = configuration()["linux"]["namespaces"]
    return [{**each, "path": f"/proc/{pid}/ns/pid"} if each["type"] == "pid" else each for each in given]


def ambush(bench: Bench, victim: Callable[[int], None], seconds: int = 5) -> list[dict[str, Any]]:
    """What the container ``ambush`` catches while *victim* is called again and again, with the pid of its init."""
    spec = bench.configure(PYTHON, "-c", ambushing(seconds))
    for kind in ("bounding", "effective", "permitted"):
        spec["process"]["capabilities"][kind] = [*_CAPABILITIES, "CAP_SYS_PTRACE"]
    spec["mounts"] += [
        {"destination": folder, "type": "bind", "source": folder, "options": ["rbind", "ro"]} for folder in FOLDERS
    ]
    bench.write(spec)
    command = [str(PROGRAM), "--root", str(bench.root), "run", "--pid-file", "pid", "ambush"]
    with subprocess.Popen(command, cwd=bench.bundle, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "waiting\n"
        init, over = int((bench.bundle / "pid").read_text()), threading.Event()

        def come() -> None:
            while not over.is_set():
                victim(init)

        thread = threading.Thread(target=come)
        thread.start()
        try:
            output = attacker.stdout.read()
        finally:
            over.set()
            thread.join()
    assert attacker.returncode == 0
    return found(output)


def test_what_a_tracer_catches_of_an_exec_of_the_command_has_no_more_than_the_tracer(bench: Bench) -> None:
    def come(_init: int) -> None:
        bench("exec", "ambush", "true")

    check(ambush(bench, come, seconds=8))


def test_what_waits_for_its_start_in_anothers_pid_namespace_has_nothing_of_the_host(bench: Bench) -> None:
    numbers = iter(range(10**6))

    def come(init: int) -> None:
        name = f"c{next(numbers)}"
        bench.configure("true", linux={**configuration()["linux"], "namespaces": namespaces(init)})
        done = bench("create", name)
        if done.returncode == 0:
            time.sleep(0.2)
            bench("delete", "--force", name)

    caught = ambush(bench, come)
    check(caught, foreign=("mnt", "uts", "ipc", "net", "cgroup"), fifos=("/exec.start", "/exec.status"))


def test_a_container_in_anothers_pid_namespace_has_the_pid_that_create_tells(bench: Bench) -> None:
    bench.configure("sleep", "1000")
    bench.create("first")
    bench("start", "first", check=True)
    init = json.loads(bench("state", "first").stdout)["pid"]
    bench.configure("sh", "-c", "sleep 321", linux={**configuration()["linux"], "namespaces": namespaces(init)})
    bench.create("second", "--pid-file", "pid")
    pid = int((bench.bundle / "pid").read_text())
    assert json.loads(bench("state", "second").stdout)["pid"] == pid and bench.status("second") == "created"
    assert Path(f"/proc/{pid}/ns/pid").readlink() == Path(f"/proc/{init}/ns/pid").readlink()
    bench("start", "second", check=True)
    assert "sleep 321" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    assert "sleep 321" in bench("exec", "first", "ps", "-o", "args").stdout
    bench("kill", "second", "KILL", check=True)
    bench.wait("second", "stopped")


def test_an_exec_that_is_detached_tells_its_pid(bench: Bench) -> None:
    bench.configure("sleep", "1000")
    bench.create("c")
    bench("start", "c", check=True)
    bench("exec", "-d", "--pid-file", "pid", "c", "sh", "-c", "exec >&- 2>&-; exec sleep 77", check=True)
    pid = int((bench.bundle / "pid").read_text())
    assert Path(f"/proc/{pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    assert bench("exec", "--pid-file", "none", "c", "no-such").returncode == 255
    assert not (bench.bundle / "none").exists()
