"""The docker CLI, edge by edge: what it prints and ends with is what Docker documents."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.daemon import DOCKER, Daemon
from tests.registry import HAVE_REGISTRY, running_registry

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]
NONE = ("--network", "none")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def box(daemon: Daemon) -> Iterator[str]:
    """A container that runs and ends with 7 when it is asked to stop."""
    script = "trap 'exit 7' TERM; while :; do sleep 0.05; done"
    daemon.out("run", "-d", "--name", "box", *NONE, "busybox", "sh", "-c", script)
    yield "box"
    daemon.docker("rm", "-f", "-v", "box", check=False)


def refused(daemon: Daemon, *words: str) -> tuple[int, str]:
    """The exit code and the error of a command that must not succeed."""
    done = daemon.docker(*words, check=False)
    assert done.returncode, done.stdout
    return done.returncode, done.stderr


# ------------------------------------------------------------------ run


def test_attaching_to_one_stream_shows_only_that(daemon: Daemon) -> None:
    both = ("--rm", *NONE, "busybox", "sh", "-c", "echo out; echo err >&2")
    done = daemon.docker("run", "-a", "stdout", *both)
    assert (done.stdout, done.stderr) == ("out\n", "")
    done = daemon.docker("run", "-a", "stderr", *both)
    assert (done.stdout, done.stderr) == ("", "err\n")
    fed = daemon.docker("run", "-i", "-a", "stdin", "-a", "stdout", "--rm", *NONE, "busybox", "cat", input=b"in\n")
    assert fed.stdout == "in\n"


def test_a_terminal_without_input_and_input_without_a_terminal(daemon: Daemon) -> None:
    assert daemon.docker("run", "--rm", "-t", *NONE, "busybox", "echo", "x").stdout == "x\r\n"
    done = daemon.docker("run", "--rm", "-i", *NONE, "busybox", "sh", "-c", "cat; tty", input=b"fed\n", check=False)
    assert done.stdout == "fed\nnot a tty\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--memory", "5m"), 125, "Minimum memory limit allowed is 6MB"),
        (("--memory", "20m", "--memory-swap", "10m"), 125, "Minimum memoryswap limit should be larger than memory"),
        (("--cpus", "4000"), 125, "range of CPUs is from 0.01 to"),
        (("--cap-add", "FOO"), 125, 'unknown capability: "CAP_FOO"'),
        (("--stop-signal", "FOO"), 125, "invalid signal: FOO"),
        (("--log-driver", "foo"), 125, "logger: no log driver named 'foo' is registered"),
        (("--log-opt", "foo=bar"), 125, "unknown log opt 'foo' for"),
        (("--network", "nosuch"), 125, "network nosuch not found"),
        (("--volumes-from", "nosuch"), 125, "No such container: nosuch"),
        (("-v", "/a:/b:foo"), 125, "invalid mode: foo"),
        (("-v", "rel/x:/b"), 125, "includes invalid characters for a local volume name"),
        (("--mount", "type=bind,src=/nosuch,dst=/x"), 125, "bind source path does not exist: /nosuch"),
        (("-w", "rel"), 125, "the working directory 'rel' is invalid"),
        (("-u", "nosuch"), 125, "unable to find user nosuch: no matching entries in passwd file"),
        (("--name", "bad name"), 125, "Invalid container name (bad name)"),
        (("--isolation", "hyperv"), 125, "invalid isolation 'hyperv' on linux"),
        (("--gpus", "all"), 125, 'could not select device driver "" with capabilities: [[gpu]]'),
        (("--storage-opt", "size=1G"), 125, "storage options (size) are not supported"),
        (("--link", "other"), 125, "links are not supported"),
        (("--device", "/dev/nosuch"), 127, "error gathering device information while adding custom device"),
    ],
)
def test_what_cannot_run_is_refused_in_dockers_words(
    daemon: Daemon, words: tuple[str, ...], code: int, message: str
) -> None:
    found, told = refused(daemon, "run", "--rm", "--pull", "never", *words, "busybox", "true")
    assert message in told
    assert found == code
    assert daemon.out("ps", "-aq") == ""


def test_the_healthcheck_warning_is_printed(daemon: Daemon) -> None:
    done = daemon.docker("run", "--rm", *NONE, "--health-cmd", "true", "busybox", "true")
    assert "WARNING: The healthcheck is not run" in done.stderr


# ------------------------------------------------------------------ lists


def test_filters_of_ps(daemon: Daemon) -> None:
    daemon.out(
        "run", "-d", "--name", "web1", "-p", "127.0.0.1::80", "--expose", "99", "-l", "k=v", "busybox", "sleep", "60"
    )
    daemon.out("create", "--name", "web2", "-v", "kept:/data", *NONE, "busybox", "true")
    daemon.docker("run", "--name", "job", *NONE, "busybox", "sh", "-c", "exit 3", check=False)
    port = daemon.out("port", "web1", "80").rpartition(":")[2]
    try:

        def found(*filters: str) -> str:
            words = [word for text in filters for word in ("-f", text)]
            return " ".join(daemon.out("ps", "-a", "--format", "{{.Names}}", *words).split())

        for filters, names in {
            ("name=web",): "web2 web1",
            ("name=^/web1$",): "web1",
            ("name=^web.$", "label=k=v"): "web1",
            ("label=k=other",): "",
            ("exited=3",): "job",
            ("status=created",): "web2",
            ("status=running", "status=exited"): "job web1",
            ("before=job",): "web2 web1",
            ("since=web1",): "job web2",
            ("volume=kept",): "web2",
            ("volume=/data",): "web2",
            ("network=bridge",): "web1",
            (f"publish={port}",): "web1",
            ("publish=80",): "",  # that is the container's port
            ("expose=80",): "web1",
            ("expose=90-100/tcp",): "web1",
            ("ancestor=busybox", "name=job"): "job",
        }.items():
            assert found(*filters) == names, filters
        assert refused(daemon, "ps", "-f", "colour=red")[1].startswith("Error response from daemon: invalid filter")
        assert daemon.out("ps", "-l", "--format", "{{.Names}}") == "job"
        assert daemon.out("ps", "-n", "2", "--format", "{{.Names}}").split() == ["job", "web2"]
        line = json.loads(daemon.out("ps", "-s", "--format", "json"))
        assert (line["Names"], line["State"], line["Labels"]) == ("web1", "running", "k=v")
        assert line["Size"].startswith("0B (virtual ")
    finally:
        daemon.docker("rm", "-f", "-v", "web1", "web2", "job", check=False)
        daemon.docker("volume", "rm", "kept", check=False)


def test_images_shows_only_the_names_asked_for(daemon: Daemon) -> None:
    daemon.out("tag", "busybox", "other/name:1")
    try:
        assert daemon.out("images", "--format", "{{.Repository}}:{{.Tag}}", "other/name") == "other/name:1"
        assert daemon.out("images", "--format", "{{.Repository}}", "-f", "reference=busy*") == "busybox"
        assert daemon.out("images", "-q", "-f", "dangling=true") == ""
        assert "No such image: nosuch" in refused(daemon, "images", "-f", "since=nosuch")[1]
    finally:
        assert daemon.out("rmi", "other/name:1") == "Untagged: other/name:1"


def test_volumes_and_networks(daemon: Daemon) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", anonymous := daemon.out("volume", "create"))
    assert daemon.out("volume", "create", "--label", "a=b", "data1") == "data1"
    try:
        assert daemon.out("volume", "ls", "-q", "-f", "name=^data.$", "-f", "label=a") == "data1"
        assert set(daemon.out("volume", "ls", "-q", "-f", "dangling=true").split()) == {anonymous, "data1"}
        daemon.out("create", "--name", "user", "-v", "data1:/v", *NONE, "busybox")
        assert "volume is in use" in refused(daemon, "volume", "rm", "data1")[1]
        daemon.out("rm", "user")
        assert daemon.out("volume", "rm", "-f", "nosuch") == "nosuch"
        assert "no such volume" in refused(daemon, "volume", "inspect", "nosuch")[1]
    finally:
        daemon.docker("volume", "rm", "data1", anonymous)
    rows = daemon.out("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").splitlines()
    assert rows == ["bridge bridge local", "host host local", "none null local"]
    assert daemon.out("network", "ls", "-q", "-f", "type=custom") == ""
    assert daemon.out("network", "ls", "--format", "{{.Name}}", "-f", "driver=null") == "none"
    assert "invalid filter" in refused(daemon, "network", "ls", "-f", "type=foo")[1]
    assert "network nosuch not found" in refused(daemon, "network", "inspect", "nosuch")[1]


# ------------------------------------------------------------------ operations


def test_several_containers_are_stopped_at_the_same_time(daemon: Daemon) -> None:
    names = ["s1", "s2", "s3", "s4"]
    for name in names:
        daemon.out("run", "-d", "--name", name, *NONE, "busybox", "sleep", "60")  # as pid 1 it ignores TERM
    begun = time.monotonic()
    assert daemon.out("stop", "-t", "1", *names).split() == names
    assert time.monotonic() - begun < 3
    assert daemon.out("wait", *names).split() == ["137"] * 4
    done = daemon.docker("rm", "nosuch", *names, check=False)
    assert done.stdout.split() == names
    assert (done.returncode, "No such container: nosuch" in done.stderr) == (1, True)


def test_restart_keeps_anonymous_volumes_fixed_ports_and_the_log(daemon: Daemon) -> None:
    script = "echo run; exec sleep 60"
    daemon.out(
        "run", "-d", "--name", "keep", "-v", "/data", "-p", "127.0.0.1:18099:80/udp", "busybox", "sh", "-c", script
    )
    try:
        form = "{{range .Mounts}}{{.Name}}{{end}}"
        volume = daemon.out("inspect", "-f", form, "keep")
        daemon.out("exec", "keep", "touch", "/data/mine")
        for _ in range(3):
            daemon.out("restart", "-t", "0", "keep")
        assert daemon.out("inspect", "-f", form, "keep") == volume
        assert daemon.out("exec", "keep", "ls", "/data") == "mine"
        assert daemon.out("port", "keep") == "80/udp -> 127.0.0.1:18099"
        assert daemon.out("logs", "keep").split() == ["run"] * 4
        assert daemon.out("rm", "-f", "-v", "keep") == "keep"
        assert volume not in daemon.out("volume", "ls", "-q")
    finally:
        daemon.docker("rm", "-f", "-v", "keep", check=False)


def test_operations_on_a_container_in_the_wrong_state(daemon: Daemon, box: str) -> None:
    assert "is running: stop the container before removing or force remove" in refused(daemon, "rm", box)[1]
    assert "is not paused" in refused(daemon, "unpause", box)[1]
    daemon.out("pause", box)
    assert "is already paused" in refused(daemon, "pause", box)[1]
    assert "is paused and must be unpaused first" in refused(daemon, "rm", box)[1]
    daemon.out("unpause", box)
    assert "invalid signal: USR9" in refused(daemon, "kill", "-s", "USR9", box)[1]
    daemon.out("stop", box)
    assert daemon.out("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", box) == "7 exited"
    assert "is not running" in refused(daemon, "kill", box)[1]
    assert "is not running" in refused(daemon, "exec", box, "true")[1]
    assert "is not running" in refused(daemon, "top", box)[1]
    assert "Renaming a container with the same name" in refused(daemon, "rename", box, box)[1]


def test_an_exec_that_cannot_start_has_dockers_exit_codes(daemon: Daemon, box: str) -> None:
    for words, code in {
        ("-u", "nosuch", box, "true"): 126,
        ("-w", "/nosuch", box, "true"): 126,
        (box, "/etc/passwd"): 126,
        (box, "nosuch"): 127,
        (box, "sh", "-c", "exit 4"): 4,
    }.items():
        for _ in range(3):
            assert daemon.docker("exec", *words, check=False).returncode == code, words


def test_top_takes_the_options_of_ps(daemon: Daemon, box: str) -> None:
    assert daemon.out("top", box).split()[:8] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert daemon.out("top", box, "-o", "pid,args").splitlines()[0].split() == ["PID", "COMMAND"]
    assert "Couldn't find PID field" in refused(daemon, "top", box, "-o", "args")[1]


def test_update_and_stats(daemon: Daemon, box: str) -> None:
    daemon.out("update", "--memory", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--restart", "on-failure:3", box)
    form = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}"
    assert daemon.out("inspect", "-f", form, box) == f"{64 << 20} 500000000 3"
    assert "Minimum memory limit" in refused(daemon, "update", "--memory", "1m", box)[1]
    form = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}"
    name, cpu, memory, pids = daemon.out("stats", "--no-stream", "--format", form, box).split("|")
    assert name == box
    assert 0 <= float(cpu.rstrip("%")) <= 60
    assert memory.endswith("/ 64MiB")
    assert int(pids) in (1, 2)


def test_logs_by_time_number_and_stream(daemon: Daemon) -> None:
    daemon.docker("run", "--name", "lines", *NONE, "busybox", "sh", "-c", "echo 1; echo 2 >&2; sleep 0.3; echo 3")
    try:
        stamped = daemon.docker("logs", "-t", "lines").stdout.splitlines()
        moments = [line.split()[0] for line in stamped]
        assert [line.split()[1] for line in stamped] == ["1", "3"]
        assert daemon.out("logs", "--since", moments[1], "lines") == "3"
        assert daemon.out("logs", "--until", moments[0], "lines") == "1"
        assert daemon.docker("logs", "-n", "2", "lines").stderr == "2\n"
        assert daemon.out("logs", "--tail", "0", "lines") == ""
        assert daemon.out("logs", "-f", "-n", "1", "lines") == "3"
        assert "No such container: nosuch" in refused(daemon, "logs", "nosuch")[1]
    finally:
        daemon.out("rm", "lines")


def test_inspect_finds_objects_of_every_kind(daemon: Daemon, box: str) -> None:
    assert daemon.out("inspect", "-f", "{{.Name}}", box, "bridge").split() == ["/box", "bridge"]
    assert daemon.out("inspect", "-f", "{{.RepoTags}}", "busybox") == "[busybox:latest]"
    size, root = daemon.out("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", box).split()
    assert 0 <= int(size) < int(root)
    done = daemon.docker("inspect", "-f", "{{.Name}}", box, "nosuch", check=False)
    assert (done.returncode, done.stdout) == (1, "/box\n")
    assert "No such object: nosuch" in done.stderr


def test_events_with_filters_and_formats(daemon: Daemon) -> None:
    since = f"{time.time():.6f}"
    daemon.out("run", "--rm", "--name", "told", "-l", "k=v", "busybox", "true")
    until = f"{time.time() + 0.3:.6f}"

    def events(*words: str) -> list[str]:
        return daemon.out("events", "--since", since, "--until", until, *words).splitlines()

    assert events("-f", "event=die", "-f", "label=k=v", "--format", "{{.Actor.Attributes.exitCode}}") == ["0"]
    assert events("-f", "type=network", "--format", "{{.Action}} {{.Actor.Attributes.type}}") == [
        "connect bridge",
        "disconnect bridge",
    ]
    told = json.loads(events("-f", "image=busybox", "-f", "event=start", "--format", "json")[0])
    assert (told["Type"], told["Actor"]["Attributes"]["name"], told["scope"]) == ("container", "told", "local")


def test_info_and_version_formats(daemon: Daemon) -> None:
    assert daemon.out("info", "-f", "{{.OSType}} {{.Swarm.LocalNodeState}}") == "linux inactive"
    assert json.loads(daemon.out("system", "info", "-f", "{{json .Plugins}}"))["Log"] == ["json-file", "local", "none"]
    assert daemon.out("version", "-f", "{{.Server.MinAPIVersion}}") == "1.24"


@pytest.mark.parametrize("version", ["1.24", "1.40", "1.44"])
def test_older_clients(daemon: Daemon, box: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", version)
    assert daemon.out("run", "--rm", *NONE, "busybox", "echo", "old") == "old"
    assert daemon.out("ps", "--format", "{{.Names}} {{.Image}}") == "box busybox"
    assert daemon.out("exec", box, "echo", "in") == "in"
    assert daemon.docker("exec", box, "sh", "-c", "exit 3", check=False).returncode == 3
    assert daemon.out("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}").startswith("busybox:latest ")
    assert daemon.out("inspect", "-f", "{{.State.Status}}", box) == "running"
    assert daemon.out("version", "-f", "{{.Client.APIVersion}}") == version


@pytest.mark.parametrize(("version", "message"), [("1.12", "is too old. Minimum supported"), ("1.99", "is too new")])
def test_a_version_that_is_not_spoken_is_refused(
    daemon: Daemon, version: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", version)
    assert message in refused(daemon, "ps")[1]


@pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry")
def test_pull_and_push_by_tag_digest_and_all(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        name = f"{registry.host}/a/b"
        daemon.out("tag", "busybox", f"{name}:1")
        daemon.out("tag", "busybox", f"{name}:2")
        daemon.out("push", "-a", name)
        assert daemon.out("push", "-q", f"{name}:1") == f"{name}:1"
        digest = daemon.out("image", "inspect", "-f", "{{index .RepoDigests 0}}", f"{name}:1")
        daemon.out("rmi", f"{name}:1", f"{name}:2")
        assert f"Digest: {digest.partition('@')[2]}" in daemon.out("pull", digest)
        assert daemon.out("run", "--rm", *NONE, digest, "echo", "by digest") == "by digest"
        assert daemon.out("rmi", digest) == f"Untagged: {digest}"
        assert daemon.out("pull", "-a", name).splitlines()[-1] == name
        assert daemon.out("pull", "-q", f"{name}:2") == f"{name}:2"
        for missing in (f"{name}:nosuch", f"{registry.host}/nosuch/x"):
            code, told = refused(daemon, "pull", missing)
            assert (code, told.startswith("Error response from daemon: manifest for")) == (1, True)
        assert "An image does not exist locally with the tag" in refused(daemon, "push", f"{name}:nosuch")[1]
        daemon.out("rmi", f"{name}:1", f"{name}:2")


@pytest.mark.parametrize(
    "words",
    [
        ("cp", "box:/etc/passwd", "-"),
        ("diff", "box"),
        ("network", "create", "n1"),
        ("swarm", "init"),
        ("plugin", "ls"),
    ],
)
def test_what_comes_later_says_so(daemon: Daemon, box: str, words: tuple[str, ...]) -> None:
    assert "is not supported by this version of scow" in refused(daemon, *words)[1]
