"""``scow-runtime``: the life of a container as runtime.md tells it, through runc's grammar."""

from __future__ import annotations

import array
import errno
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime_command import PROGRAM, Bench

pytestmark = pytest.mark.root

_FOREVER = ("sleep", "1000")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_the_life_of_a_container(bench: Bench) -> None:
    bench.configure("sh", "-c", "echo runs; exec sleep 1000", annotations={"a": "b"})
    bench.create("c", "--pid-file", "pid")
    state = json.loads(bench("state", "c").stdout)
    assert state["status"] == "created" and state["id"] == "c" and state["annotations"] == {"a": "b"}
    assert state["bundle"] == str(bench.bundle) and state["ociVersion"] == "1.2.0"
    assert state["pid"] == int((bench.bundle / "pid").read_text()) > 0
    assert bench.output() == ""
    bench("start", "c", check=True)
    assert bench.status("c") == "running"
    refused = bench("delete", "c")
    assert refused.returncode == 1 and "cannot delete container c that is not stopped: running" in refused.stderr
    bench("kill", "c", "KILL", check=True)
    bench.wait("c", "stopped")
    assert bench.output() == "runs\n"
    bench("delete", "c", check=True)
    assert "does not exist" in bench("state", "c").stderr


def test_run_answers_the_exit_code_and_leaves_nothing(bench: Bench) -> None:
    bench.configure("sh", "-c", "echo out; echo err >&2; exit 7")
    done = bench("run", "c")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert bench("list", "-q").stdout == ""
    bench.configure("sh", "-c", "kill -9 $$")  # the init of a PID namespace does not die of its own signal
    assert bench("run", "c").returncode == 0


def test_stdin_reaches_the_program(bench: Bench) -> None:
    bench.configure("cat")
    assert bench("run", "c", input=b"through\n").stdout == "through\n"


def test_a_caller_that_blocks_signals_is_told_of_the_end(bench: Bench) -> None:
    bench.configure("grep", "SigBlk", "/proc/self/status")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        done = bench("run", "c")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (done.returncode, done.stdout) == (0, "SigBlk:\t0000000000000000\n")


@pytest.mark.parametrize("closing", ["<&- 2>&-", "<&-", "2>&-", ">&- 2>&-"])
def test_what_the_caller_has_closed_is_the_null_device(bench: Bench, closing: str) -> None:
    bench.configure("sh", "-c", "echo out; echo err >&2; readlink /proc/self/fd/0; exit 5")
    words = [str(PROGRAM), "--root", str(bench.root), "run", "c"]
    closed = ["sh", "-c", f'exec "$@" {closing}', "sh", *words]
    done = subprocess.run(closed, cwd=bench.bundle, input="", capture_output=True, text=True, timeout=60)
    said = "" if ">&- 2" in closing else "out\n" + ("/dev/null\n" if "<&-" in closing else done.stdout[4:])
    assert (done.returncode, done.stdout, done.stderr) == (5, said, "" if "2>&-" in closing else "err\n")


def test_keep_keeps_a_container_that_ended(bench: Bench) -> None:
    bench.configure("true")
    bench("run", "--keep", "c", check=True)
    assert bench.status("c") == "stopped"


def test_each_command_refuses_the_wrong_state(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    assert "cannot start" not in bench("start", "c", check=True).stderr
    assert "cannot start an already running container" in bench("start", "c").stderr
    assert "container with id exists" in bench("create", "c").stderr
    assert "not paused" in bench("resume", "c").stderr
    bench("kill", "c", "9", check=True)
    bench.wait("c", "stopped")
    for words in (
        ["start", "c"],
        ["kill", "c", "TERM"],
        ["exec", "c", "true"],
        ["pause", "c"],
        ["events", "--stats", "c"],
    ):
        done = bench(*words)
        assert done.returncode == (255 if words[0] == "exec" else 1), words
        assert "stopped" in done.stderr, words


def test_a_created_container_can_be_deleted_and_one_that_is_not_there_with_force_only(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    bench("delete", "c", check=True)
    assert bench("delete", "c").returncode == 1
    bench("delete", "--force", "c", check=True)


def test_an_init_that_was_killed_is_stopped(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    os.kill(json.loads(bench("state", "c").stdout)["pid"], 9)
    bench.wait("c", "stopped")
    assert "cannot start a container that has stopped" in bench("start", "c").stderr
    bench("delete", "c", check=True)


def test_exec_in_a_running_container(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    bench("start", "c", check=True)
    done = bench(
        "exec", "-e", "A=b", "--cwd", "/tmp", "-u", "8:12", "-g", "77", "c", "sh", "-c", "echo $A; pwd; id; exit 3"
    )
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["b", "/tmp", "uid=8(mail) gid=12(mail) groups=77(extra)"]
    missing = bench("exec", "c", "nothere")
    assert missing.returncode == 255 and "executable file not found in $PATH" in missing.stderr
    process = {"args": ["sh", "-c", "echo from file"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    (bench.bundle / "process.json").write_text(json.dumps(process))
    assert bench("exec", "--process", "process.json", "c").stdout == "from file\n"
    process["args"] = ["grep", "Cap", "/proc/self/status"]
    (bench.bundle / "process.json").write_text(json.dumps(process))
    assert bench("exec", "--process", "process.json", "c").stdout == bench("exec", "c", *process["args"]).stdout
    with open(os.devnull, "w") as null:
        words = [str(PROGRAM), "--root", str(bench.root), "exec", "-d", "--pid-file", "exec.pid", "c", "sleep", "1000"]
        subprocess.run(words, cwd=bench.bundle, stdout=null, stderr=null, check=True)
    assert int((bench.bundle / "exec.pid").read_text()) in json.loads(bench("ps", "-f", "json", "c").stdout)


def test_a_bundle_without_device_rules_has_the_default_devices_only(bench: Bench) -> None:
    spec = bench.configure("sh", "-c", "echo >/dev/null && mknod /dev/made c 1 1 && cat /dev/made 2>&1")
    spec["linux"]["resources"] = {}
    for kind in ("bounding", "effective", "permitted"):
        spec["process"]["capabilities"][kind].append("CAP_MKNOD")
    bench.write(spec)
    done = bench("run", "c")
    assert (done.returncode, done.stdout) == (1, "cat: can't open '/dev/made': Operation not permitted\n")


def test_a_created_container_that_is_paused_says_so_and_is_created_when_it_is_resumed(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    bench("pause", "c", check=True)
    assert bench.status("c") == "paused"
    bench("resume", "c", check=True)
    assert bench.status("c") == "created"


def test_pause_limits_and_statistics(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    bench("start", "c", check=True)
    bench("pause", "c", check=True)
    assert bench.status("c") == "paused"
    assert "paused" in bench("exec", "c", "true").stderr
    assert re.search(r"^c .*paused", bench("list").stdout, re.MULTILINE)
    bench("resume", "c", check=True)
    bench("update", "--memory", "64m", "--pids-limit", "20", "c", check=True)
    bench("update", "--resources", "-", "c", input=b'{"cpu": {"shares": 512}}', check=True)
    event = json.loads(bench("events", "--stats", "c").stdout)
    assert event["type"] == "stats" and event["id"] == "c"
    assert event["data"]["memory"]["usage"]["limit"] == 64 << 20 and event["data"]["pids"]["limit"] == 20
    bench("pause", "c", check=True)
    bench("kill", "c", "KILL", check=True)  # thaws it
    bench.wait("c", "stopped")


def test_the_master_of_the_terminal_goes_to_the_console_socket(bench: Bench, tmp_path: Path) -> None:
    spec = bench.configure("sh", "-c", "tty; stty size")
    spec["process"].update(terminal=True, consoleSize={"height": 11, "width": 22})
    bench.write(spec)
    assert "console socket" in bench("create", "c").stderr
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        bench.create("c", "--console-socket", str(tmp_path / "console"))
        connection, _ = listener.accept()
    with connection:
        _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    bench("start", "c", check=True)
    text = b""
    with open(fds[0], "rb", buffering=0) as master:
        while text.count(b"\n") < 2:
            text += master.read(100)
    assert text == b"/dev/pts/0\r\n11 22\r\n"


def test_a_program_that_is_missing_fails_at_create_and_leaves_nothing(bench: Bench) -> None:
    bench.configure("nothere")
    done = bench("create", "c")
    assert done.returncode == 1 and 'exec: "nothere": executable file not found in $PATH' in done.stderr
    assert "does not exist" in bench("state", "c").stderr
    assert bench("run", "c").returncode == 1


def test_errors_go_to_the_log_as_containerd_parses_them(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    done = bench("--log", str(log), "--log-format", "json", "start", "nothere")
    record = json.loads(log.read_text())
    assert done.returncode == 1 and record["level"] == "error" and "does not exist" in record["msg"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["time"])


@pytest.mark.parametrize("id", [".a", "a/b", "..", "a b", "", "x" * 1100])
def test_bad_ids_are_refused(bench: Bench, id: str) -> None:
    bench.configure("true")
    done = bench("create", id)
    assert done.returncode == 1 and "container id" in done.stderr


def test_bad_bundles_are_refused(bench: Bench) -> None:
    assert "config.json not found" in bench("create", "c").stderr
    bench.configure("true", ociVersion="2.0.0")
    assert "version 2.0.0" in bench("create", "c").stderr
    bench.configure("true", root={"path": "nowhere"})
    assert "does not exist" in bench("create", "c").stderr
    bench.configure("true", mounts="no list")
    assert "not valid" in bench("create", "c").stderr
    (bench.bundle / "config.json").write_text("{")
    assert "is not JSON" in bench("create", "c").stderr
    assert bench("list", "-q").stdout == ""


def test_what_is_changed_in_the_bundle_after_create_changes_nothing(bench: Bench) -> None:
    spec = bench.configure("echo", "as it was", annotations={"a": "b"})
    spec["process"]["env"].append("WORD=old")
    spec["process"]["args"] = ["sh", "-c", "echo $WORD; exec sleep 1000"]
    bench.write(spec)
    bench.create("c")
    bench.configure("echo", "changed", annotations={"a": "changed"})
    bench("start", "c", check=True)
    assert bench("exec", "c", "sh", "-c", "echo $WORD").stdout == "old\n"
    assert json.loads(bench("state", "c").stdout)["annotations"] == {"a": "b"}
    bench("delete", "--force", "c", check=True)
    assert bench.output() == "old\n"


def test_delete_leaves_what_others_made(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    spec = bench.configure("touch", "/data/file")
    spec["mounts"].append({"destination": "/data", "source": str(tmp_path / "data"), "options": ["bind"]})
    bench.write(spec)
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        path = f"/proc/{holder.pid}/ns/net"
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "network", "path": path}]
        del spec["hostname"]
        bench.write(spec)
        before = os.readlink(path)
        done = bench("run", "c")
        after, alive = os.readlink(path), holder.poll() is None
        holder.kill()
    assert (done.returncode, after, alive) == (0, before, True)
    assert (tmp_path / "data/file").exists() and (bench.bundle / "rootfs/bin/busybox").exists()


def test_of_two_creates_of_one_id_one_wins(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    words = [str(PROGRAM), "--root", str(bench.root), "create", "c"]
    with open(os.devnull, "w") as null:
        both = [subprocess.Popen(words, cwd=bench.bundle, stdin=null, stdout=null, stderr=null) for _ in range(2)]
        assert sorted(process.wait(60) for process in both) == [0, 1]
    assert bench.status("c") == "created"


def test_what_a_killed_create_left_is_deleted(bench: Bench) -> None:
    (bench.root / "c").mkdir(parents=True)
    assert bench.status("c") == "stopped"
    bench("delete", "c", check=True)
    (bench.root / "d").mkdir()
    (bench.root / "d" / "state.json").write_text("{")
    assert "damaged" in bench("delete", "d").stderr
    bench("delete", "--force", "d", check=True)


def test_a_root_that_cannot_be_written_is_named(bench: Bench) -> None:
    bench.configure("true")
    done = bench("--root", "/proc/nowhere", "create", "c")
    assert done.returncode == 1 and "/proc/nowhere" in done.stderr and "--root" in done.stderr


def test_a_cgroup_that_others_use_is_refused(bench: Bench) -> None:
    spec = bench.configure(*_FOREVER)
    spec["linux"]["cgroupsPath"] = f"/scow-runtime-shared-{os.getpid()}"
    bench.write(spec)
    bench.create("c")
    assert "is not empty" in bench("create", "d").stderr
    assert bench.status("c") == "created"


def test_what_it_does_not_offer_is_refused_clearly(bench: Bench) -> None:
    bench.configure("true")
    assert "cgroupfs" in bench("--systemd-cgroup", "run", "c").stderr
    assert "root" in bench("--rootless", "true", "run", "c").stderr
    assert "pivot_root" in bench("run", "--no-pivot", "c").stderr
    assert "--preserve-fds" in bench("run", "--preserve-fds", "2", "c").stderr
    for command in ("checkpoint", "restore"):
        assert "no checkpoints" in bench(command, "c").stderr


def test_the_interpreter_that_makes_processes_is_a_sealed_copy(bench: Bench) -> None:
    bench.configure(*_FOREVER)
    bench.create("c")
    pid = json.loads(bench("state", "c").stdout)["pid"]
    with pytest.raises(OSError) as refused:
        os.open(f"/proc/{pid}/exe", os.O_RDWR)
    assert refused.value.errno in (errno.EROFS, errno.ETXTBSY, errno.EPERM)


def test_spec_writes_a_bundle_that_runs(bench: Bench) -> None:
    bench("spec", check=True)
    assert "exists" in bench("spec").stderr
    spec = json.loads((bench.bundle / "config.json").read_text())
    spec["process"].update(terminal=False, args=["sh", "-c", "hostname"])
    bench.write(spec)
    assert bench("run", "c").stdout == "scow\n"


def test_features_and_version(bench: Bench) -> None:
    document = json.loads(bench("features", check=True).stdout)
    assert document["ociVersionMax"] == "1.2.0" and "pid" in document["linux"]["namespaces"]
    assert bench("--version", check=True).stdout.startswith("scow-runtime version ")


def _hooks(folder: Path, failing: str = "") -> dict[str, object]:
    """A hook of each kind that notes its own name in *folder*; *failing* ends with 3."""

    def note(kind: str) -> list[dict[str, object]]:
        script = f"echo {kind} >> {folder}/order" if kind != "startContainer" else "echo startContainer"
        script += "; cat > /dev/null" + ("; echo why >&2; exit 3" if kind == failing else "")
        return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]

    kinds = ("poststop", "poststart", "startContainer", "createContainer", "createRuntime", "prestart")
    return {"hooks": {kind: note(kind) for kind in kinds}}


def test_hooks_run_at_their_moments(bench: Bench, tmp_path: Path) -> None:
    bench.configure(*_FOREVER, **_hooks(tmp_path))
    bench.create("c")
    assert (tmp_path / "order").read_text().split() == ["prestart", "createRuntime", "createContainer"]
    bench("start", "c", check=True)
    assert (tmp_path / "order").read_text().split()[3:] == ["poststart"]
    bench("delete", "--force", "c", check=True)
    assert (tmp_path / "order").read_text().split()[4:] == ["poststop"]
    bench.configure("true", **_hooks(tmp_path))
    assert bench("run", "d").returncode == 0
    assert len((tmp_path / "order").read_text().split()) == 10


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failed_hook_stops_the_container_and_leaves_nothing(bench: Bench, tmp_path: Path, kind: str) -> None:
    bench.configure(*_FOREVER, **_hooks(tmp_path, kind))
    done = bench("run", "c")
    assert done.returncode == 1
    assert f"error running {kind} hook #0 (/bin/sh): exit status 3: " in done.stderr and "why" in done.stderr
    assert bench("list", "-q").stdout == "" and (tmp_path / "order").read_text().split()[-1] == "poststop"


def test_a_failed_poststop_hook_is_a_warning(bench: Bench, tmp_path: Path) -> None:
    bench.configure("true", **_hooks(tmp_path, "poststop"))
    done = bench("run", "c")
    assert done.returncode == 0 and "warning: error running poststop hook #0" in done.stderr
    assert bench("list", "-q").stdout == ""
