"""The real docker CLI runs containers on a scowd of its own (network none and host; bridge has a file of its own)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
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


def test_output_and_exit_code_are_the_programs(daemon: Daemon) -> None:
    done = daemon.docker(
        "run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_program_that_is_missing_gives_127_and_nothing_stays(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--network", "none", "busybox", "nonsense", check=False)
    assert done.returncode == 127
    assert "executable file not found in $PATH" in done.stderr
    assert daemon.out("ps", "-aq") == ""


def test_a_program_that_cannot_be_executed_gives_126(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--network", "none", "busybox", "/etc/passwd", check=False)
    assert done.returncode == 126
    assert "permission denied" in done.stderr


def test_an_unknown_image_gives_125_and_names_it(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", "--pull", "never", "nosuchimage", "true", check=False)
    assert done.returncode == 125
    assert "No such image: nosuchimage" in done.stderr


def test_input_is_half_closed(daemon: Daemon) -> None:
    done = daemon.docker(
        "run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo end", input=b"one\ntwo\n"
    )
    assert done.stdout == "one\ntwo\nend\n"


def test_a_tty_has_the_clients_size_and_one_stream(daemon: Daemon) -> None:
    script = f"docker -H unix://{daemon.socket} run --rm -it --network none busybox sh -c 'tty; stty size'"
    done = subprocess.run(
        ["script", "-qec", f"stty rows 33 cols 99; {script}", "/dev/null"],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert "/dev/pts/0" in done.stdout
    assert "33 99" in done.stdout


def test_environment_user_workdir_and_hostname(daemon: Daemon, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("FROM_FILE=yes\n")
    out = run(
        daemon,
        "-e",
        "A=b c",
        "--env-file",
        str(env_file),
        "-w",
        "/var",
        "--hostname",
        "box",
        "-u",
        "mail",
        "--group-add",
        "77",
        "busybox",
        "sh",
        "-c",
        "echo $A $FROM_FILE; pwd; hostname; id; echo $HOME",
    )
    assert out.splitlines() == [
        "b c yes",
        "/var",
        "box",
        "uid=8(mail) gid=12(mail) groups=12(mail),77(extra)",
        "/home",
    ]


def test_labels_names_and_inspect(daemon: Daemon) -> None:
    daemon.out("create", "--name", "named", "-l", "a=b", "--network", "none", "busybox", "true")
    try:
        found = daemon.out("inspect", "-f", "{{.Name}} {{.Config.Labels.a}} {{.State.Status}} {{.Path}}", "named")
        assert found == "/named b created true"
        taken = daemon.docker("create", "--name", "named", "busybox", check=False)
        assert 'The container name "/named" is already in use' in taken.stderr
        daemon.out("rename", "named", "other")
        assert daemon.out("ps", "-a", "--filter", "name=other", "--format", "{{.Names}} {{.Status}}") == "other Created"
    finally:
        daemon.docker("rm", "-f", "named", "other", check=False)


def test_volumes_binds_and_tmpfs(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    out = run(
        daemon,
        "-v",
        f"{tmp_path}:/bind:ro",
        "-v",
        "vol1:/etc",
        "--tmpfs",
        "/t:size=1m",
        "--mount",
        "type=tmpfs,target=/t2",
        "--shm-size",
        "3m",
        "busybox",
        "sh",
        "-c",
        "cat /bind/file; echo; touch /bind/x; ls /etc; df -k /t | tail -1 | awk '{print $2}';"
        "df -k /dev/shm | tail -1 | awk '{print $2}'",
    )
    assert out.split() == ["hello", "group", "hostname", "hosts", "passwd", "resolv.conf", "1024", "3072"]
    assert daemon.out("volume", "ls", "-q") == "vol1"
    assert (Path(daemon.out("volume", "inspect", "-f", "{{.Mountpoint}}", "vol1")) / "passwd").exists()
    daemon.out("volume", "rm", "vol1")


def test_an_anonymous_volume_goes_with_rm(daemon: Daemon) -> None:
    run(daemon, "-v", "/data", "busybox", "touch", "/data/x")
    assert daemon.out("volume", "ls", "-q") == ""


def test_detached_logs_exec_top_and_stop(daemon: Daemon) -> None:
    daemon.out(
        "run",
        "-d",
        "--name",
        "job",
        "--network",
        "none",
        "--stop-timeout",
        "5",
        "busybox",
        "sh",
        "-c",
        "trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.1; done",
    )
    try:
        deadline = time.monotonic() + 5
        while daemon.out("logs", "job") != "started" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert daemon.out("exec", "job", "echo", "inside") == "inside"
        assert daemon.docker("exec", "job", "sh", "-c", "exit 9", check=False).returncode == 9
        assert daemon.docker("exec", "-i", "job", "cat", input=b"fed").stdout == "fed"
        assert daemon.docker("exec", "job", "nonsense", check=False).returncode == 127
        assert "uid=8(mail)" in daemon.out(
            "exec", "-u", "mail", "-w", "/tmp", "-e", "X=1", "job", "sh", "-c", "id; test $PWD = /tmp && test $X = 1"
        )
        daemon.out("exec", "-d", "job", "touch", "/tmp/detached")
        assert "sleep" in daemon.out("top", "job") or "sh" in daemon.out("top", "job")
        daemon.out("stop", "job")
        assert daemon.out("wait", "job") == "3"
        assert daemon.out("logs", "--tail", "1", "job") == "bye"
        assert re.match(r"\d{4}-\d\d-\d\dT\S+Z bye$", daemon.out("logs", "-t", "--tail", "1", "job"))
        daemon.out("start", "job")
        daemon.out("kill", "job")
        assert daemon.out("inspect", "-f", "{{.State.ExitCode}}", "job") == "137"
    finally:
        daemon.out("rm", "-f", "job")


def test_logs_follow_until_the_end(daemon: Daemon) -> None:
    daemon.out(
        "run",
        "-d",
        "--name",
        "counter",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done",
    )
    try:
        assert daemon.out("logs", "-f", "counter").split() == ["1", "2", "3", "4", "5"]
    finally:
        daemon.out("rm", "-f", "counter")


def test_pause_and_unpause(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "frozen", "--network", "none", "busybox", "sleep", "60")
    try:
        daemon.out("pause", "frozen")
        assert "(Paused)" in daemon.out("ps", "--format", "{{.Status}}", "--filter", "name=frozen")
        assert "is paused" in daemon.docker("exec", "frozen", "true", check=False).stderr
        daemon.out("unpause", "frozen")
        assert daemon.out("exec", "frozen", "echo", "ok") == "ok"
    finally:
        daemon.out("rm", "-f", "frozen")


def test_restart_policy_on_failure_stops_after_its_count(daemon: Daemon) -> None:
    daemon.out(
        "run",
        "-d",
        "--name",
        "again",
        "--network",
        "none",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "echo run; exit 1",
    )
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            state = daemon.out("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "again")
            if state == "exited 2":
                break
            time.sleep(0.1)
        assert state == "exited 2"
        assert daemon.out("logs", "again").split() == ["run"] * 3
    finally:
        daemon.out("rm", "-f", "again")


def test_attach_gets_output_and_gives_input(daemon: Daemon) -> None:
    daemon.out("run", "-di", "--name", "talk", "--network", "none", "busybox", "sh", "-c", "read x; echo got $x")
    try:
        assert daemon.docker("attach", "talk", input=b"word\n").stdout == "got word\n"
    finally:
        daemon.out("rm", "-f", "talk")


def test_host_network_and_entrypoint(daemon: Daemon) -> None:
    out = daemon.out("run", "--rm", "--network", "host", "--entrypoint", "readlink", "busybox", "/proc/self/ns/net")
    assert out == os.readlink("/proc/self/ns/net")


def test_events_tell_the_life_of_a_container(daemon: Daemon) -> None:
    since = str(time.time())
    daemon.out("run", "--rm", "--name", "evt", "--network", "none", "busybox", "true")
    until = str(time.time() + 0.5)
    lines = daemon.out(
        "events", "--since", since, "--until", until, "--filter", "container=evt", "--format", "{{.Action}}"
    )
    assert [line for line in lines.split() if line in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


def test_wait_and_ps_filters(daemon: Daemon) -> None:
    id = daemon.out("run", "-d", "--network", "none", "busybox", "sleep", "0.3")
    assert daemon.out("ps", "-q", "--no-trunc") == id
    assert daemon.out("wait", id) == "0"
    assert daemon.out("ps", "-aq", "--no-trunc", "--filter", "status=exited", "--filter", "exited=0") == id
    daemon.out("rm", id)
    assert daemon.docker("inspect", id, check=False).returncode == 1


def test_a_signal_to_the_client_reaches_the_program(daemon: Daemon) -> None:
    assert DOCKER is not None
    client = subprocess.Popen(
        [
            DOCKER,
            "-H",
            f"unix://{daemon.socket}",
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "trap 'echo caught; exit 4' USR1; echo ready; while :; do sleep 0.1; done",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    client.send_signal(signal.SIGUSR1)
    assert client.stdout.read() == "caught\n"
    client.stdout.close()
    assert client.wait(10) == 4


def test_many_clients_at_once(daemon: Daemon) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(run(daemon, "busybox", "echo", str(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [str(n) for n in range(8)]
