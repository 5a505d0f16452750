"""What every runtime promises. Derive from `RuntimeContract` and say how your driver is made::

    class TestNative(RuntimeContract):
        @pytest.fixture
        def runtime(self, tmp_path):
            return NativeRuntime(DriverContext("native", tmp_path, tmp_path, engine="test"))

The containers are real: the tests need root and a static busybox, and run nothing but that. `Lab` is of use to a
driver's own tests as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scow.engine import spec as specs
from scow.engine.id_ranges import IdRange
from scow.engine.model import Container, MountPoint
from scow.errors import InvalidArgument, NotFound
from scow.ports import Mount
from scow.types import ContainerConfig, CreateRequest, ExecRequest, HostConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scow.ports.runtime import Runtime

BUSYBOX = "/bin/busybox"
_APPLETS = (
    "cat", "chmod", "dd", "echo", "env", "false", "find", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls",
    "mkdir", "mknod", "mount", "ps", "readlink", "sh", "sleep", "stat", "sysctl", "test", "touch", "true", "tty",
    "umount", "unshare", "wc",
)  # fmt: skip


def make_root(directory: Path) -> Path:
    """*directory* is a small root filesystem around busybox, with two users."""
    for name in ("bin", "etc", "tmp", "root", "proc", "sys", "dev"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for applet in _APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nwheel:x:10:root,web\nweb:x:34:\n")
    return directory


class Running:
    """One container: its plan, and the worker that is parent to its processes."""

    def __init__(self, runtime: Runtime, id: str, spec: dict[str, Any], plan: dict[str, Any]) -> None:
        self.runtime, self.id, self.spec, self.plan = runtime, id, spec, plan
        self.pid = 0
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "scow.testing.runtime_worker", runtime.child_module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, op: str, **more: Any) -> Any:
        """The worker's answer to one request."""
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.stdin.write(json.dumps({"op": op, **more}) + "\n")
        self._worker.stdin.flush()
        return json.loads(self._worker.stdout.readline())

    def create(self, tty: bool = False) -> Any:
        """The init is cloned; its status once it is set up or has failed."""
        answer = self.ask("create", plan=self.plan, tty=tty)
        self.pid = answer["pid"]
        return answer["status"]

    def start(self) -> Any:
        """None after a successful execve, else the status that says why not."""
        answer = self.ask("start")
        self.pid = answer["pid"]
        return answer["status"]

    def wait(self) -> tuple[int, str]:
        """Exit code (negative: the signal) and output."""
        answer = self.ask("wait")
        return answer["code"], answer["output"]

    def exec(self, *cmd: str, tty: bool = False, **request: Any) -> Any:
        """One more process, run to its end: {"status", "code", "output"}."""
        container = record(self.id, cmd)
        process = specs.exec_process(container, ExecRequest(cmd=list(cmd), tty=tty, **request), self.spec)
        return self.ask("exec", plan=self.runtime.exec(self.id, self.spec, process), tty=tty)

    def close(self) -> None:
        """Its processes, its cgroup and its worker are gone."""
        self.runtime.delete(self.id)
        assert self._worker.stdin is not None and self._worker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._worker.stdin.close()
        self._worker.wait(30)
        self._worker.stdout.close()


def record(
    id: str,
    cmd: Sequence[str],
    config: ContainerConfig | None = None,
    host: HostConfig | None = None,
    mounts: Sequence[MountPoint] = (),
    ids: IdRange | None = None,
) -> Container:
    """A container's record as the engine would have it."""
    return Container(
        id=id,
        name="test",
        created_ns=0,
        request=CreateRequest(),
        config=config or ContainerConfig(),
        host_config=host or HostConfig(),
        image_id="",
        image_ref="",
        chain_id=None,
        path=cmd[0],
        args=tuple(cmd[1:]),
        platform="linux",
        storage_driver="overlay",
        runtime="native",
        ids=ids,
        mounts=tuple(mounts),
    )


class Lab:
    """Makes containers of *runtime* below *directory*, each with a writable copy of one busybox root."""

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        self.runtime = runtime
        self.directory = directory
        self.lower = make_root(directory / "lower")
        self._made: list[Running] = []

    def make(
        self,
        *cmd: str,
        config: ContainerConfig | None = None,
        host: HostConfig | None = None,
        mounts: Sequence[MountPoint] = (),
        joined: dict[str, int] | None = None,
        ids: IdRange | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> Running:
        """A container that is planned, with its cgroup, and not cloned yet. *change* may edit its OCI configuration."""
        id = uuid.uuid4().hex * 2
        bundle = self.directory / id[:12]
        for name in ("rootfs", "upper", "work"):
            (bundle / name).mkdir(parents=True)
        for name in ("hosts", "hostname", "resolv.conf"):
            (bundle / name).write_text(f"# {name}\n")
        container = record(id, cmd, config, host, mounts, ids)
        spec = specs.build(container, directory=bundle, joined=joined)
        if change is not None:
            change(spec)
        options: tuple[str, ...] = (f"lowerdir={self.lower}", f"upperdir={bundle}/upper", f"workdir={bundle}/work")
        if ids is not None:
            options += ("idmap",)
        plan = self.runtime.create(id, spec, [Mount("overlay", "overlay", "", options)], bundle)
        running = Running(self.runtime, id, spec, json.loads(json.dumps(plan)))
        self._made.append(running)
        return running

    def up(self, *cmd: str, tty: bool = False, **more: Any) -> Running:
        """A container whose program runs; fails the test where it does not."""
        running = self.make(*(cmd or ("sleep", "60")), **more)
        status = running.create(tty)
        assert status == {"ready": True}, status
        status = running.start()
        assert status is None, status
        return running

    def run(self, *cmd: str, **more: Any) -> tuple[int, str]:
        """A container, run to its end: exit code and output."""
        running = self.up(*cmd, **more)
        result = running.wait()
        self.runtime.delete(running.id)
        return result

    def sh(self, script: str, **more: Any) -> str:
        """The output of a shell script in a container of its own; it must end with 0."""
        code, output = self.run("sh", "-ec", script, **more)
        assert code == 0, output
        return output

    def refused(self, *cmd: str, **more: Any) -> Any:
        """The status of a container that cannot be set up or started."""
        running = self.make(*cmd, **more)
        status = running.create()
        return running.start() if status == {"ready": True} else status

    def close(self) -> None:
        """Nothing is left of the containers."""
        for running in reversed(self._made):
            running.close()
        self.runtime.close()


def eventually(condition: Any, timeout_s: float = 10.0) -> bool:
    """Whether *condition* came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def cpu_ticks(pid: int) -> int:
    """The CPU time that *pid* has used, in clock ticks (fields 14 and 15 of /proc/<pid>/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _hook(script: str) -> dict[str, Any]:
    """The ``hooks`` of a spec: one ``createRuntime`` hook, a shell script."""
    return {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]}


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)")
class RuntimeContract:
    """The promises of `scow.ports.runtime`, one test each."""

    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Runtime:
        """The driver under test."""
        raise NotImplementedError("override the runtime fixture")

    @pytest.fixture
    def has_limits(self) -> bool:
        """Whether memory and processes can be limited on this host."""
        return True

    @pytest.fixture
    def runs_hooks(self) -> bool:
        """Whether the OCI hooks of a spec run, by the runtime itself or by the monitor for it."""
        return True

    @pytest.fixture
    def lab(self, runtime: Runtime, tmp_path: Path) -> Iterator[Lab]:
        """Containers that are gone after the test."""
        runtime.check()
        lab = Lab(runtime, tmp_path)
        try:
            yield lab
        finally:
            lab.close()

    def test_a_program_ends_with_its_own_exit_code_and_output(self, lab: Lab) -> None:
        assert lab.run("sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\nerr\n")

    def test_nothing_is_executed_before_the_start(self, lab: Lab) -> None:
        running = lab.make("sh", "-c", "echo started")
        assert running.create() == {"ready": True}
        assert os.readlink(f"/proc/{running.pid}/exe") != f"{lab.directory}/lower/bin/busybox"
        assert running.start() is None
        assert running.wait() == (0, "started\n")

    def test_a_start_pipe_that_is_closed_unwritten_ends_the_process(self, lab: Lab) -> None:
        running = lab.make("sh", "-c", "echo started")
        assert running.create() == {"ready": True}
        running.ask("cancel")
        assert running.wait()[1] == ""

    def test_a_missing_program_is_not_found(self, lab: Lab) -> None:
        status = lab.refused("no-such-program")
        assert status["kind"] == "not_found" and "no-such-program" in status["error"]

    def test_a_program_that_is_not_executable_cannot_run(self, lab: Lab) -> None:
        status = lab.refused("/etc/passwd")
        assert status["kind"] == "cannot_run" and "permission denied" in status["error"]

    def test_a_spec_that_cannot_be_run_leaves_no_cgroup(self, lab: Lab) -> None:
        with pytest.raises(InvalidArgument):
            lab.make("true", config=ContainerConfig(working_dir="relative"))
        assert lab.runtime.list() == []

    def test_the_cgroup_knows_the_processes_and_lists_the_container(self, lab: Lab) -> None:
        running = lab.up("sh", "-c", "sleep 60 & sleep 60 & wait")
        assert eventually(lambda: len(lab.runtime.processes(running.id)) == 3)
        assert running.pid in lab.runtime.processes(running.id)
        assert lab.runtime.list() == [running.id]

    def test_a_signal_reaches_every_process(self, lab: Lab) -> None:
        running = lab.up("sh", "-c", "sleep 60 & sleep 60")
        lab.runtime.signal_all(running.id, signal.SIGKILL)
        assert running.wait()[0] == -signal.SIGKILL
        assert eventually(lambda: not lab.runtime.processes(running.id))

    def test_delete_kills_and_may_be_repeated(self, lab: Lab) -> None:
        running = lab.up()
        lab.runtime.delete(running.id)
        assert running.wait()[0] == -signal.SIGKILL
        lab.runtime.delete(running.id)
        assert lab.runtime.list() == [] and lab.runtime.processes(running.id) == []

    def test_a_paused_container_does_nothing_until_it_is_resumed(self, lab: Lab) -> None:
        running = lab.up("sh", "-c", "while :; do :; done")
        lab.runtime.pause(running.id)
        before = cpu_ticks(running.pid)
        time.sleep(0.1)
        assert cpu_ticks(running.pid) == before
        lab.runtime.resume(running.id)
        assert eventually(lambda: cpu_ticks(running.pid) > before)

    def test_statistics_have_dockers_keys(self, lab: Lab) -> None:
        sample = lab.runtime.stats(lab.up().id)
        assert set(sample) == {"cpu_stats", "memory_stats", "pids_stats", "blkio_stats"}
        assert sample["cpu_stats"]["cpu_usage"]["total_usage"] >= 0 and sample["cpu_stats"]["system_cpu_usage"] > 0

    def test_statistics_of_no_container_are_not_found(self, lab: Lab) -> None:
        with pytest.raises(NotFound):
            lab.runtime.stats("f" * 64)

    def test_an_exec_is_in_the_container(self, lab: Lab) -> None:
        running = lab.up(config=ContainerConfig(env=["A=1"]))
        result = running.exec("sh", "-c", "echo $A; ps | grep -c ' sleep 60$'; exit 3")
        assert (result["status"], result["code"], result["output"]) == (None, 3, "1\n1\n")

    def test_an_exec_of_a_missing_program_says_so_and_leaves_the_container_alone(self, lab: Lab) -> None:
        running = lab.up()
        assert running.exec("no-such-program")["status"]["kind"] == "not_found"
        assert running.exec("true")["code"] == 0

    def test_an_exec_may_have_another_user_and_directory(self, lab: Lab) -> None:
        result = lab.up().exec("sh", "-c", "id -u; pwd", user="web", working_dir="/tmp")
        assert result["output"] == "33\n/tmp\n"

    def test_hooks_of_create_have_run_before_the_container_is_ready(
        self, lab: Lab, tmp_path: Path, runs_hooks: bool
    ) -> None:
        if not runs_hooks:
            pytest.skip("this runtime runs no OCI hooks")
        running = lab.make("true", change=lambda spec: spec.update(hooks=_hook(f"cat > {tmp_path}/hooked")))
        assert running.create() == {"ready": True}
        state = json.loads((tmp_path / "hooked").read_text())
        assert state["id"] == running.id and state["pid"] > 0
        assert state["status"] in ("creating", "created")  # the spec's word, and crun's up to 1.8 at least
        assert running.start() is None and running.wait()[0] == 0

    def test_a_failed_hook_is_told_with_its_status_and_nothing_is_run(self, lab: Lab, runs_hooks: bool) -> None:
        if not runs_hooks:
            pytest.skip("this runtime runs no OCI hooks")
        running = lab.make("echo", "ran", change=lambda spec: spec.update(hooks=_hook("echo no bridge >&2; exit 3")))
        status = running.create()
        assert status["kind"] == "setup" and "hook" in status["error"] and "3" in status["error"]
        assert "ran" not in running.wait()[1]

    def test_limits_hold_and_can_be_changed_live(self, lab: Lab, has_limits: bool) -> None:
        if not has_limits:
            pytest.skip("this host cannot limit memory and processes")
        running = lab.up(host=HostConfig(memory=64 << 20, pids_limit=20))
        first = lab.runtime.stats(running.id)
        lab.runtime.update(running.id, {"memory": {"limit": 32 << 20}, "pids": {"limit": 10}})
        second = lab.runtime.stats(running.id)
        assert [sample["memory_stats"].get("limit") for sample in (first, second)] == [64 << 20, 32 << 20]
        assert [sample["pids_stats"].get("limit") for sample in (first, second)] == [20, 10]

    def test_user_namespaces_are_the_containers_own_and_owners_on_disk_stay(self, lab: Lab, tmp_path: Path) -> None:
        if not lab.runtime.info().features.get("user_namespaces"):
            pytest.skip("the runtime does not declare user_namespaces")
        (tmp_path / "shared").mkdir()
        point = MountPoint(type="bind", destination="/shared", source=f"{tmp_path}/shared", mode="idmap")
        running = lab.up(ids=IdRange(uid=300000, gid=400000, size=65536), mounts=[point])
        maps = [Path(f"/proc/{running.pid}/{kind}_map").read_text().split() for kind in ("uid", "gid")]
        assert maps == [["0", "300000", "65536"], ["0", "400000", "65536"]]
        script = "id -u; stat -c '%u %g' /bin/busybox; touch /shared/made; chown 33:34 /shared/made"
        assert running.exec("sh", "-ec", script)["output"].split() == ["0", "0", "0"]
        made = (tmp_path / "shared/made").stat()
        assert (made.st_uid, made.st_gid) == (33, 34)

    def test_a_kill_for_want_of_memory_is_known(self, lab: Lab, has_limits: bool) -> None:
        if not has_limits:
            pytest.skip("this host cannot limit memory and processes")
        running = lab.up("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", host=HostConfig(memory=8 << 20))
        assert running.wait()[0] == -signal.SIGKILL
        assert lab.runtime.oom_killed(running.id) and running.ask("oom", plan=running.plan)["killed"]
        lab.runtime.delete(running.id)
        assert not lab.runtime.oom_killed(running.id)
