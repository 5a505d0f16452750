"""Clients that send nonsense, too much, or all at once: each is answered, and the daemon goes on with nothing lost."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def connect(daemon: Daemon) -> socket.socket:
    directory = os.open(daemon.socket.parent, os.O_PATH)
    try:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(f"/proc/self/fd/{directory}/{daemon.socket.name}")
        return sock
    finally:
        os.close(directory)


def post(daemon: Daemon, path: str, body: bytes) -> int:
    """The status that the raw *body* is answered with."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with connect(daemon) as sock:
        sock.sendall(head.encode() + body)
        return int(sock.recv(4096).split(b" ", 2)[1])


def create(daemon: Daemon, host: dict[str, Any], **config: Any) -> tuple[int, Any]:
    body = {"Image": "busybox", "Cmd": ["true"], **config, "HostConfig": {"NetworkMode": "none", **host}}
    return daemon.api("POST", "/containers/create", body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000 + b"]" * 200_000,
        b'{"Labels":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"Image":"busybox","ExposedPorts":' + b'{"80/tcp":' * 900 + b"1" + b"}" * 901,
        b'{"Image":"\xff\xfe"}',
        b'{"Image":"busybox","Cmd":["\\ud800"]}',
        b'{"Image":NaN}',
        b"[]",
        b"\x00",
    ],
    ids=["deep-list", "deep-object", "deep-value", "not-utf-8", "half-surrogate", "nan", "list", "nul"],
)
def test_a_body_that_is_no_request_is_refused(daemon: Daemon, body: bytes) -> None:
    assert post(daemon, "/containers/create", body) == 400


@pytest.mark.parametrize(
    "config",
    [
        {"Env": ["A=b\0c"]},
        {"Cmd": ["echo", "a\0b"]},
        {"WorkingDir": "/a\0/../.."},
        {"User": "0\0"},
        {"Volumes": {"/proc\0x": {}}},
        {"HostConfig": {"Binds": ["/tmp:/proc\0x"]}},
        {"HostConfig": {"Sysctls": {"net.x\0": "1"}}},
        {"Hostname": "a\n"},
        {"Hostname": "a b"},
        {"WorkingDir": "../.."},
        {"Volumes": {"/": {}}},
        {"HostConfig": {"Binds": ["../x:/x"]}},
        {"HostConfig": {"Binds": ["/a:b:/x"]}},
        {"HostConfig": {"VolumeDriver": "../x", "Binds": ["v:/x"]}},
        {"HostConfig": {"Runtime": "../../x"}},
        {"HostConfig": {"LogConfig": {"Type": "../x"}}},
        {"HostConfig": {"LogConfig": {"Type": "local", "Config": {"max-size": "-1"}}}},
        {"HostConfig": {"LogConfig": {"Type": "local", "Config": {"max-file": "0"}}}},
        {"HostConfig": {"LogConfig": {"Type": "local", "Config": {"path": "/etc"}}}},
        {"HostConfig": {"Sysctls": {"net/../kernel/core_pattern": "x"}}},
        {"HostConfig": {"Sysctls": {"kernel.core_pattern": "x"}}},
        {"HostConfig": {"SecurityOpt": ["seccomp=" + "[" * 100_000]}},
        {"HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "1.2.3.4; drop", "HostPort": "80"}]}}},
        {"HostConfig": {"Memory": 1 << 64}},
        {"HostConfig": {"NanoCpus": 1 << 63}},
        {"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": -5, "Hard": -9}]}},
    ],
    ids=lambda config: json.dumps(config)[:60],
)
def test_a_hostile_value_is_a_400_and_nothing_is_made(daemon: Daemon, config: dict[str, Any]) -> None:
    host = config.pop("HostConfig", {})
    status, answer = create(daemon, host, **config)
    config["HostConfig"] = host
    left = daemon.out("ps", "-aq").split()
    if left:
        daemon.docker("rm", "-f", *left)
    assert (status, left) == (400, []), answer


@pytest.mark.parametrize("name", ["..", "../x", "a%2f..%2fb", "a%0ab", "a%00b", "%2f..", "-x", "a%3brm"])
def test_a_name_that_could_be_a_path_is_refused(daemon: Daemon, name: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"]}
    assert daemon.api("POST", f"/containers/create?name={name}", body)[0] == 400
    assert daemon.api("GET", f"/containers/{name}/json")[0] == 404
    assert daemon.api("GET", f"/volumes/{name}")[0] == 404
    assert daemon.api("GET", f"/images/{name}/json")[0] == 404


def test_a_cgroup_parent_that_climbs_stays_in_the_hierarchy(daemon: Daemon) -> None:
    parent = f"../../../{daemon.config['cgroup_parent']}-climbs"
    status, answer = create(daemon, {"CgroupParent": parent}, Cmd=["sleep", "60"])
    assert status == 201
    try:
        assert daemon.api("POST", f"/containers/{answer['Id']}/start")[0] == 204
        assert not list(Path("/").glob("*-climbs"))
        assert not list(Path("/sys/fs").glob("*-climbs"))
    finally:
        daemon.docker("rm", "-f", answer["Id"])
        for folder in [*Path("/sys/fs/cgroup").glob("*-climbs"), *Path("/sys/fs/cgroup").glob("*/*-climbs")]:
            folder.rmdir()


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /images/create HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 0\r\n\r\nGET /",
        b"POST /containers/x/attach HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nx",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["length-and-chunked", "two-lengths", "attach", "negative", "huge", "nul", "tls"],
)
def test_a_request_with_two_meanings_is_refused_and_its_connection_closed(daemon: Daemon, request_: bytes) -> None:
    with connect(daemon) as sock:
        sock.sendall(request_)
        received = b""
        while data := sock.recv(65536):
            received += data
    assert received.split(b" ", 2)[1] == b"400"
    assert received.count(b"HTTP/1.") == 1


def test_hundreds_of_half_open_connections_hold_nobody_up(daemon: Daemon) -> None:
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    starts = (
        b"",
        b"GET / HT",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        b"POST /containers/x/att",
    )
    held = []
    try:
        for number in range(400):
            sock = connect(daemon)
            sock.sendall(starts[number % len(starts)])
            held.append(sock)
        assert daemon.out("run", "--rm", "--network", "none", "busybox", "echo", "served") == "served"
    finally:
        for sock in held:
            sock.close()
    _settles(daemon, before)


def test_an_attach_storm_leaves_no_descriptor(daemon: Daemon) -> None:
    id = daemon.out("run", "-d", "--network", "none", "busybox", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    request = f"POST /containers/{id}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n\r\n".encode()
    socks = []
    try:
        for _ in range(100):
            sock = connect(daemon)
            sock.sendall(request)
            socks.append(sock)
        assert all(sock.recv(9) == b"HTTP/1.1 " for sock in socks)
    finally:
        for sock in socks:
            sock.close()
        _settles(daemon, before)
        daemon.docker("rm", "-f", id)


def _settles(daemon: Daemon, descriptors: int) -> None:
    deadline = time.monotonic() + 5
    while len(os.listdir(f"/proc/{daemon.pid}/fd")) > descriptors + 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) <= descriptors + 3


def test_execs_that_end_while_others_are_attached_hang_nobody(daemon: Daemon) -> None:
    """The end of one is told on the connection on which another's attach waits for its answer."""
    daemon.out("run", "-d", "--name", "busy", "--network", "none", "busybox", "sleep", "60")
    try:
        with ThreadPoolExecutor(8) as pool:
            done = pool.map(
                lambda _: daemon.docker("exec", "busy", "sh", "-c", "exit 3", check=False, timeout_s=30), range(80)
            )
            assert [exec.returncode for exec in done] == [3] * 80
    finally:
        daemon.out("rm", "-f", "busy")


def test_clients_that_race_over_one_container_break_nothing(daemon: Daemon) -> None:
    failures: list[Any] = []
    request = {"Image": "busybox", "Cmd": ["sleep", "9"], "HostConfig": {"NetworkMode": "none"}}
    steps = (
        ("POST", "/containers/create?name=racy", request),
        ("POST", "/containers/racy/start", None),
        ("POST", "/containers/racy/rename?name=racier", None),
        ("POST", "/containers/racier/kill", None),
        ("POST", "/containers/racier/rename?name=racy", None),
        ("POST", "/containers/racy/restart?t=0", None),
        ("POST", "/containers/racy/update", {"CpuShares": 512}),
        ("DELETE", "/containers/racy?force=1&v=1", None),
        ("DELETE", "/containers/racier?force=1", None),
    )  # fmt: skip

    def client() -> None:
        for _ in range(6):
            for method, path, body in steps:
                status, answer = daemon.api(method, path, body)
                if status >= 500:
                    failures.append((path, status, answer))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    unexplained = [failure for failure in failures if "internal error" in str(failure)]
    assert unexplained == []
    left = daemon.out("ps", "-aq").split()
    if left:
        daemon.docker("rm", "-f", *left)
    daemon.stop()
    daemon.start()
    assert daemon.out("ps", "-aq") == ""  # what was removed did not come back


def test_the_socket_and_what_holds_secrets_is_for_root_and_its_group_only(daemon: Daemon) -> None:
    assert stat.S_IMODE(os.stat(daemon.socket).st_mode) == 0o660
    data = Path(daemon.config["data_root"])
    assert stat.S_IMODE((data / "scow.db").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((Path(daemon.config["run_root"]) / "m").stat().st_mode) == 0o700


def test_passwords_are_neither_logged_nor_stored_nor_shown(daemon: Daemon) -> None:
    secret = "Xk9-very-secret-77"
    closed = "127.0.0.1:9"
    auth = {"username": "joe", "password": secret, "serveraddress": closed}
    status, answer = daemon.api("POST", "/auth", auth)
    assert status >= 400
    header = base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()
    with connect(daemon) as sock:
        sock.sendall(
            f"POST /images/create?fromImage={closed}/a/b&tag=1 HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: {header}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        received = b""
        while data := sock.recv(65536):
            received += data
    needles = [text.encode() for text in (secret, header, base64.b64encode(f"joe:{secret}".encode()).decode())]
    assert not any(needle in received or needle in json.dumps(answer).encode() for needle in needles)
    files = [
        daemon.log,
        *Path(daemon.config["run_root"]).rglob("*"),
        *Path(daemon.config["data_root"]).glob("scow.db*"),
    ]
    texts = [path.read_bytes() for path in files if path.is_file()]
    children = subprocess.run(
        ["pgrep", "-P", str(daemon.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for pid in [str(daemon.pid), *children]:
        texts += [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert not any(needle in text for needle in needles for text in texts)
