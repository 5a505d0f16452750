"""OCI hooks with the native runtime: where each runs, and that a failed one leaves nothing. Those that the monitor runs
after the start have their own tests (tests/unit/test_monitor_hooks.py); here they come through the engine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.testing.runtime import BUSYBOX, Lab
from scow.types import ContainerConfig, HostConfig
from tests.daemon import DOCKER, Daemon
from tests.integration import hook_plugin
from tests.integration.hook_plugin import shell, with_hooks

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]


def hooks(**kinds: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec.update(
        hooks={kind: given if isinstance(given, list) else [given] for kind, given in kinds.items()},
        annotations={"org.example": "yes"},
    )


def test_create_runtime_hooks_run_on_the_host_when_the_root_is_made_but_not_entered(lab: Lab, tmp_path: Path) -> None:
    script = f"""
        state=$(cat); echo "$state" > {tmp_path}/said
        pid=$(echo "$state" | sed 's/.*"pid": *\\([0-9]*\\).*/\\1/')
        readlink /proc/self/ns/net /proc/$pid/ns/net > {tmp_path}/namespaces
        bundle=$(echo "$state" | sed 's/.*"bundle": *"\\([^"]*\\)".*/\\1/')
        ls /proc/$pid/root$bundle/rootfs > {tmp_path}/root
        grep -c " $bundle/rootfs/proc " /proc/$pid/mountinfo > {tmp_path}/mounted
    """
    running = lab.make("true", change=hooks(createRuntime=shell(script)))
    assert running.create() == {"ready": True} and running.start() is None
    assert running.wait()[0] == 0
    said = json.loads((tmp_path / "said").read_text())
    assert said == {
        "ociVersion": "1.2.0",
        "id": running.id,
        "status": "creating",
        "pid": running.pid,
        "bundle": str(lab.directory / running.id[:12]),
        "annotations": {"org.example": "yes"},
    }
    ours, theirs = (tmp_path / "namespaces").read_text().split()
    assert ours == os.readlink("/proc/self/ns/net") != theirs
    assert "busybox" not in (tmp_path / "root").read_text().split() and "bin" in (tmp_path / "root").read_text().split()
    assert (tmp_path / "mounted").read_text() == "1\n"


def test_prestart_comes_before_create_runtime_and_create_container_after(lab: Lab, tmp_path: Path) -> None:
    kinds = ("createContainer", "createRuntime", "prestart")
    lab.run("true", change=hooks(**{kind: shell(f"echo {kind} >> {tmp_path}/order") for kind in kinds}))
    assert (tmp_path / "order").read_text().split() == ["prestart", "createRuntime", "createContainer"]


def test_create_container_hooks_run_in_the_namespaces_with_the_hosts_root(lab: Lab, tmp_path: Path) -> None:
    script = f"cat > {tmp_path}/said; pwd > {tmp_path}/cwd; hostname > {tmp_path}/name; echo $PPID > {tmp_path}/parent"
    running = lab.make("true", config=ContainerConfig(hostname="inside"), change=hooks(createContainer=shell(script)))
    assert running.create() == {"ready": True}
    said = json.loads((tmp_path / "said").read_text())
    assert (said["status"], said["pid"]) == ("creating", 1)
    assert (tmp_path / "name").read_text() == "inside\n" and (tmp_path / "parent").read_text() == "1\n"
    assert (tmp_path / "cwd").read_text() == f"{lab.directory}/{running.id[:12]}/rootfs\n"


def test_a_create_container_hook_with_the_hosts_root_is_no_process_of_another_container(
    lab: Lab, tmp_path: Path
) -> None:
    first = lab.up()
    more: dict[str, Any] = {"host": HostConfig(pid_mode=f"container:{first.id}"), "joined": {"pid": first.pid}}
    change = hooks(createContainer=shell(f"readlink /proc/self/ns/pid > {tmp_path}/hook"))
    running = lab.up(change=change, **more)
    assert (tmp_path / "hook").read_text().strip() == os.readlink("/proc/self/ns/pid")
    assert os.readlink(f"/proc/{running.pid}/ns/pid") == os.readlink(f"/proc/{first.pid}/ns/pid")


def test_what_a_create_container_hook_mounts_is_in_the_container_and_not_on_the_host(lab: Lab) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    change = hooks(createContainer=shell("mkdir -p mnt && mount -t tmpfs hooked mnt && echo found > mnt/file"))
    assert lab.sh("cat /mnt/file", change=change) == "found\n"
    assert Path("/proc/self/mountinfo").read_text() == before


def test_start_container_hooks_run_in_the_root_after_the_start_as_the_containers_user(lab: Lab) -> None:
    script = "cat > /tmp/state; id -u >> /tmp/state; echo $PPID $MARK >> /tmp/state"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin", "MARK=mine"]}
    (lab.lower / "tmp").chmod(0o777)
    running = lab.make(
        "sh", "-c", "ls /proc/1/fd; cat /tmp/state", config=ContainerConfig(user="web"),
        change=hooks(startContainer=hook),
    )  # fmt: skip
    assert running.create() == {"ready": True}
    assert not (lab.directory / running.id[:12] / "upper/tmp/state").exists()
    assert running.start() is None
    code, output = running.wait()
    assert code == 0, output
    assert '"status":"created","pid":1}33\n1 mine\n' in output
    assert output.split()[:3] == ["0", "1", "2"]


def test_a_start_container_hook_without_an_environment_has_the_programs(lab: Lab) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo $A > /tmp/seen"]}
    config = ContainerConfig(env=["A=from the program"])
    assert lab.sh("cat /tmp/seen", config=config, change=hooks(startContainer=hook)) == "from the program\n"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_failed_hook_is_named_and_nothing_is_left(lab: Lab, kind: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    hook = [shell("true"), shell("echo cannot do that >&2; exit 3")]
    running = lab.make("sh", "-c", "echo ran", change=hooks(**{kind: hook}))
    status = running.create()
    if kind == "startContainer":
        assert status == {"ready": True}
        status = running.start()
    assert status["error"] == f"error running {kind} hook #1 (/bin/sh): exit status 3: cannot do that"
    assert status["kind"] == "setup"
    assert "ran" not in running.wait()[1].split()
    lab.runtime.delete(running.id)
    assert lab.runtime.list() == [] and Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_hangs_is_killed_at_its_timeout(lab: Lab, kind: str) -> None:
    failure = lab.refused("true", change=hooks(**{kind: shell("sleep 60", timeout=1)}))
    assert failure["error"] == (
        f"error running {kind} hook #0 (/bin/sh): it ran past its timeout of 1 s and was killed"
    )


# ---------------------------------------------------------------- through the engine, from a plugin

needs_docker = pytest.mark.skipif(DOCKER is None, reason="the docker command line is not installed")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An engine with a plugin that takes hooks from an annotation."""
    root = tmp_path_factory.mktemp("hooks")
    with hook_plugin.installed(root):
        daemon = Daemon(root / "engine").start()
    daemon.import_busybox()
    try:
        yield daemon
    finally:
        daemon.cleanup()


@needs_docker
def test_a_plugin_adds_hooks_that_find_the_bundle(daemon: Daemon, tmp_path: Path) -> None:
    read = f"""
        cat > {tmp_path}/said
        bundle=$(sed 's/.*"bundle": *"\\([^"]*\\)".*/\\1/' {tmp_path}/said)
        cat "$bundle/config.json" > {tmp_path}/config
    """
    stop = shell(f"touch {tmp_path}/stopped")
    words = with_hooks("--rm", "busybox", "echo", "ran", createRuntime=shell(read), poststop=stop)
    assert daemon.out(*words) == "ran"
    said, config = (json.loads((tmp_path / name).read_text()) for name in ("said", "config"))
    assert config["process"]["args"] == ["echo", "ran"] and list(config["hooks"]) == ["createRuntime", "poststop"]
    assert said["status"] == "creating" and said["annotations"]["org.example.hooks"]
    assert (tmp_path / "stopped").exists()


@needs_docker
@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer", "poststart"])
def test_docker_run_says_which_hook_failed_and_nothing_runs(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    words = with_hooks("--rm", "busybox", "sleep", "60", **{kind: shell("echo not today >&2; exit 9")})
    done = daemon.docker(*words, check=False)
    assert done.returncode == 125
    assert f"error running {kind} hook #0 (/bin/sh): exit status 9: not today" in done.stderr
    assert daemon.out("ps", "-aq") == ""
    assert not _cgroups(daemon)


def _cgroups(daemon: Daemon) -> list[Path]:
    """The containers' cgroups of the engine, when what is being removed is gone."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        parents = Path("/sys/fs/cgroup").glob(f"**/{daemon.config['cgroup_parent']}/*/*/cgroup.procs")
        found = [path.parent for path in parents]
        if not found:
            break
        time.sleep(0.05)
    return found


@needs_docker
def test_a_container_whose_hook_hangs_can_be_removed(daemon: Daemon, tmp_path: Path) -> None:
    hang = shell(f"touch {tmp_path}/hangs; sleep 600")
    name = "hangs"
    words = with_hooks("-d", "--name", name, "busybox", "sleep", "60", createRuntime={**hang, "timeout": 2})
    done = daemon.docker(*words, check=False)
    assert done.returncode == 125 and "it ran past its timeout of 2 s" in done.stderr
    assert (tmp_path / "hangs").exists()
    assert json.loads(daemon.out("inspect", name))[0]["State"]["Status"] == "created"
    daemon.out("rm", name)
