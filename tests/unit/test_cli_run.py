"""``scow`` as a process against a fake engine: the order of requests, streams, exit codes, terminals, signals."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_server import FakeEngine, Reply, Request, serve

ID = "c" * 64
PATH = f"/containers/{ID}"


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


class Container:
    """The fake engine's one container: it *prints* after its start, echoes its input, and ends with *code*."""

    def __init__(self, engine: FakeEngine, *, prints: bytes = b"", code: int = 0, echo: bool = False) -> None:
        self.engine = engine
        self.prints, self.code, self.echo = prints, code, echo
        self.started, self.ended = threading.Event(), threading.Event()
        self.received = b""
        engine.on("POST", "/containers/create", Reply(201, {"Id": ID, "Warnings": []}))
        engine.on("POST", f"{PATH}/attach", self.attach)
        engine.on("POST", f"{PATH}/wait", self.wait)
        engine.on("POST", f"{PATH}/start", self.start)
        engine.on("POST", f"{PATH}/(kill|resize)", Reply(204))

    def attach(self, request: Request) -> None:
        sock = request.take_over()
        assert self.started.wait(5)
        sock.sendall(self.prints)
        if self.echo:
            while data := sock.recv(1000):
                self.received += data
                if b"\x10\x11" in self.received:
                    return
            sock.sendall(frame(1, b"got " + self.received))
        else:
            self.ended.wait(5)
        self.ended.set()
        sock.shutdown(socket.SHUT_RDWR)

    def wait(self, request: Request) -> None:
        out = request.handler.wfile
        out.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        out.flush()
        self.ended.wait(10)
        body = json.dumps({"StatusCode": self.code}).encode()
        try:
            out.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        except OSError:
            return

    def start(self, _: Request) -> Reply:
        self.started.set()
        if not self.echo:
            self.ended.set()
        return Reply(204)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with serve(tmp_path / "s") as running:
        yield running


def scow(engine: FakeEngine, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "scow.cli.main", "-H", engine.host, *words]
    return subprocess.run(command, capture_output=True, timeout=30, check=False, **options)


def order(engine: FakeEngine) -> list[str]:
    return [f"{request.method} {request.path.replace(ID, 'ID')}" for request in engine.requests]


def test_run_creates_attaches_waits_and_starts(engine: FakeEngine) -> None:
    Container(engine, prints=frame(1, b"out\n") + frame(2, b"err\n"), code=7)
    done = scow(engine, "run", "--rm", "nginx", "true")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    assert order(engine) == [
        "POST /containers/create",
        "POST /containers/ID/attach",
        "POST /containers/ID/wait",
        "POST /containers/ID/start",
    ]
    assert engine.requests[1].query == {"stream": "1", "stdout": "1", "stderr": "1"}
    assert engine.requests[2].query == {"condition": "removed"}


def test_input_reaches_the_container_and_its_end_too(engine: FakeEngine) -> None:
    container = Container(engine, echo=True)
    done = scow(engine, "run", "-i", "alpine", "cat", input=b"some input")
    assert (done.stdout, done.returncode) == (b"got some input", 0)
    assert container.received == b"some input"
    assert engine.requests[0].json["StdinOnce"] is True


def test_a_detached_run_prints_the_id(engine: FakeEngine) -> None:
    Container(engine)
    done = scow(engine, "run", "-d", "nginx")
    assert done.stdout == ID.encode() + b"\n"
    assert order(engine) == ["POST /containers/create", "POST /containers/ID/start"]


def test_a_missing_image_is_pulled(engine: FakeEngine) -> None:
    Container(engine, prints=frame(1, b"hi"))
    known = threading.Event()

    def create(_: Request) -> Reply:
        if known.is_set():
            return Reply(201, {"Id": ID, "Warnings": ["mind the gap"]})
        return Reply(404, {"message": "No such image: nginx:latest"})

    def pull(_: Request) -> Reply:
        known.set()
        lines = [
            {"status": "Pulling from library/nginx", "id": "latest"},
            {"status": "Downloading", "id": "abc", "progressDetail": {"current": 1, "total": 2}},
            {"status": "Pull complete", "id": "abc", "progressDetail": {}},
        ]
        return Reply(chunks=[json.dumps(line).encode() + b"\n" for line in lines])

    engine.on("POST", "/containers/create", create)
    engine.on("POST", "/images/create", pull)
    done = scow(engine, "run", "nginx")
    assert done.stdout == b"hi"
    assert done.stderr.decode().splitlines() == [
        "Unable to find image 'nginx:latest' locally",
        "latest: Pulling from library/nginx",
        "abc: Pull complete",
        "WARNING: mind the gap",
    ]
    assert engine.sent("POST", "/images/create")[0].query == {"fromImage": "nginx", "tag": "latest"}


def test_an_image_is_not_pulled_when_it_must_not(engine: FakeEngine) -> None:
    engine.on("POST", "/containers/create", Reply(404, {"message": "No such image: nginx:latest"}))
    done = scow(engine, "run", "--pull", "never", "nginx")
    assert (done.returncode, done.stderr) == (125, b"scow: No such image: nginx:latest\n")


def test_a_pull_that_fails_is_told(engine: FakeEngine) -> None:
    error = {"errorDetail": {"message": "denied\nlog in"}, "error": "denied\nlog in"}
    engine.on("POST", "/images/create", Reply(chunks=[json.dumps(error).encode()]))
    done = scow(engine, "pull", "private/thing")
    assert (done.returncode, done.stderr) == (1, b"scow: denied\nhint: log in\n")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "nope": executable file not found in $PATH', 127),
        ("exec /etc: permission denied", 126),
        ("port 80 is already allocated", 125),
    ],
)
def test_a_start_that_fails_has_dockers_exit_code(engine: FakeEngine, message: str, code: int) -> None:
    Container(engine)
    engine.on("POST", f"{PATH}/start", Reply(400, {"message": message}))
    done = scow(engine, "run", "-d", "nginx", "nope")
    assert (done.returncode, done.stderr.decode()) == (code, f"scow: {message}\n")


@pytest.mark.parametrize(
    "words", [["run"], ["run", "--nope", "x"], ["ps", "extra"], ["nope"], ["run", "-p", "x:y", "i"]]
)
def test_wrong_usage_ends_with_125(engine: FakeEngine, words: list[str]) -> None:
    assert scow(engine, *words).returncode == 125


def test_an_engine_error_of_another_command_ends_with_1(engine: FakeEngine) -> None:
    engine.on("DELETE", "/containers/.*", Reply(404, {"message": "No such container: x"}))
    done = scow(engine, "rm", "x", "y")
    assert (done.returncode, done.stderr) == (1, b"scow: No such container: x\n" * 2)


def test_the_cidfile_holds_the_id_and_is_never_overwritten(engine: FakeEngine, tmp_path: Path) -> None:
    Container(engine)
    path = tmp_path / "cid"
    assert scow(engine, "run", "-d", "--cidfile", str(path), "nginx").returncode == 0
    assert path.read_text() == ID
    again = scow(engine, "run", "-d", "--cidfile", str(path), "nginx")
    assert again.returncode == 125
    assert b"container ID file found" in again.stderr


def test_a_terminal_that_is_none_is_refused_before_anything_is_created(engine: FakeEngine) -> None:
    done = scow(engine, "run", "-it", "nginx", stdin=subprocess.DEVNULL)
    assert done.returncode == 125
    assert b"not a terminal" in done.stderr
    assert engine.requests == []


def in_terminal(engine: FakeEngine, *words: str) -> tuple[int, int]:
    """Starts ``scow`` on a terminal of 24 × 80; its pid and the terminal's other end."""
    pid, master = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        try:
            os.execv(sys.executable, [sys.executable, "-m", "scow.cli.main", "-H", engine.host, *words])
        finally:
            os._exit(99)
    import fcntl
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return pid, master


def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def drain(master: int) -> bytes:
    data = b""
    while select.select([master], [], [], 5)[0]:
        try:
            more = os.read(master, 1000)
        except OSError:
            break
        if not more:
            break
        data += more
    return data


def test_a_terminal_is_raw_sized_and_detached_by_its_keys(engine: FakeEngine) -> None:
    container = Container(engine, prints=b"$ ", echo=True)
    pid, master = in_terminal(engine, "run", "-it", "nginx")
    until(lambda: engine.sent("POST", f"{PATH}/resize"))
    os.write(master, b"\x03x")  # ctrl-c is a byte like any other
    until(lambda: container.received == b"\x03x")
    os.write(master, b"\x10\x11")
    output = drain(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(master)
    assert b"$ " in output
    assert engine.sent("POST", f"{PATH}/resize")[-1].query == {"h": "24", "w": "80"}
    container.ended.set()


def test_signals_reach_the_container(engine: FakeEngine) -> None:
    container = Container(engine, echo=True)
    command = [sys.executable, "-m", "scow.cli.main", "-H", engine.host, "run", "-i", "nginx"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until(container.started.is_set)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGUSR1)
        until(lambda: len(engine.sent("POST", f"{PATH}/kill")) == 2)
        process.communicate(b"bye")
    assert [request.query["signal"] for request in engine.sent("POST", f"{PATH}/kill")] == ["INT", "USR1"]
    assert process.returncode == 0


def exec_engine(engine: FakeEngine, code: int) -> None:
    def start(request: Request) -> None:
        sock = request.take_over()
        sock.sendall(frame(1, b"out") + frame(2, b"err"))
        sock.shutdown(socket.SHUT_RDWR)

    engine.on("POST", "/containers/web/exec", Reply(201, {"Id": "e1"}))
    engine.on("POST", "/exec/e1/start", start)
    engine.on("GET", "/exec/e1/json", {"ExitCode": code, "Running": False})


def test_exec_answers_output_and_exit_code(engine: FakeEngine) -> None:
    exec_engine(engine, 3)
    done = scow(engine, "exec", "-e", "A=1", "-w", "/srv", "web", "ls", "-l")
    assert (done.stdout, done.stderr, done.returncode) == (b"out", b"err", 3)
    body = engine.requests[0].json
    assert (body["Cmd"], body["Env"], body["WorkingDir"]) == (["ls", "-l"], ["A=1"], "/srv")


def test_logs_are_split_unless_the_container_has_a_terminal(engine: FakeEngine) -> None:
    engine.on("GET", "/containers/web/json", {"Config": {"Tty": False}})
    engine.on("GET", "/containers/web/logs", Reply(chunks=[frame(1, b"one\n"), frame(2, b"two\n")]))
    done = scow(engine, "logs", "--tail", "5", "-t", "web")
    assert (done.stdout, done.stderr) == (b"one\n", b"two\n")
    assert engine.requests[-1].query == {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": "5"}
    engine.on("GET", "/containers/web/json", {"Config": {"Tty": True}})
    engine.on("GET", "/containers/web/logs", Reply(chunks=[b"raw\x00bytes"]))
    assert scow(engine, "logs", "web").stdout == b"raw\x00bytes"


def test_start_with_attach_answers_the_exit_code(engine: FakeEngine) -> None:
    Container(engine, prints=frame(1, b"again"), code=4)
    config = {"Id": ID, "Config": {"Tty": False, "OpenStdin": False}, "HostConfig": {}, "State": {}}
    engine.on("GET", "/containers/web/json", config)
    done = scow(engine, "start", "-a", "web")
    assert (done.stdout, done.returncode) == (b"again", 4)


def test_inspect_looks_for_every_kind(engine: FakeEngine) -> None:
    engine.on("GET", "/networks/mine", {"Name": "mine", "Id": "n1"})
    done = scow(engine, "inspect", "-f", "{{.Id}}", "mine")
    assert done.stdout == b"n1\n"
    missing = scow(engine, "inspect", "nothing")
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, b"[]\n", b"scow: no such object: nothing\n")


def test_an_import_sends_the_archive(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on("POST", "/images/create", Reply(chunks=[b'{"status":"sha256:abc"}\n']))
    archive = tmp_path / "root.tar"
    archive.write_bytes(b"tar" * 1000)
    done = scow(engine, "import", "-c", "CMD sh", "-c", "ENV A=1", str(archive), "mine:1")
    (request,) = engine.sent("POST", "/images/create")
    assert done.stdout == b"sha256:abc\n"
    assert request.body == b"tar" * 1000
    assert (request.query["fromSrc"], request.query["repo"]) == ("-", "mine:1")
    assert "changes=CMD%20sh&changes=ENV%20A%3D1" in request.handler.path


def test_a_reader_that_goes_away_is_no_traceback(engine: FakeEngine) -> None:
    entry = {"Id": "a" * 64, "Names": ["/x"], "Created": 1, "Command": "x"}
    engine.on("GET", "/containers/json", [entry] * 5000)
    script = f"{sys.executable} -m scow.cli.main -H {engine.host} ps --no-trunc | head -1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=30, check=False)
    assert re.match(rb"CONTAINER ID", done.stdout)
    assert done.stderr == b""
