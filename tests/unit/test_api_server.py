"""The API's frame: versions, routes, errors, readiness, sockets."""

from __future__ import annotations

import asyncio
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scow.api.call import Call
from scow.api.routing import Route, Router
from scow.api.server import listen, routes, serve
from scow.api.versions import split_version
from scow.config import TlsConfig
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError, Unsupported
from scow.testing.fakes_daemon import FakeDaemon
from scow.testing.fakes_engine import FakeEngine
from tests.unit.api_client import UPGRADE, Client

SPEC = Path(__file__).parents[3] / "shared" / "specs" / "docker-engine-api.yaml"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_tells_what_clients_need_before_their_first_request(client: Client, method: str) -> None:
    reply = client.call(method, "/_ping")
    assert reply.status == 200
    assert reply.body == (b"OK" if method == "GET" else b"")
    wanted = {"api-version": "1.56", "builder-version": "1", "docker-experimental": "false", "ostype": "linux"}
    assert wanted.items() <= reply.headers.items()
    assert reply.headers["cache-control"] == "no-cache, no-store, must-revalidate"


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.41", "/v1.56"])
def test_every_supported_version_and_none_is_served(client: Client, prefix: str) -> None:
    assert client.get(f"{prefix}/containers/json").json == []


def test_a_client_that_is_too_old_is_told_so_in_docker_s_words(client: Client) -> None:
    reply = client.get("/v1.23/containers/json")
    assert reply.status == 400
    assert reply.json["message"].startswith("client version 1.23 is too old. Minimum supported API version is 1.24")


def test_a_client_that_is_too_new_is_told_so_in_docker_s_words(client: Client) -> None:
    reply = client.get("/v1.57/containers/json")
    assert reply.status == 400
    assert reply.json == {"message": "client version 1.57 is too new. Maximum supported API version is 1.56"}


def test_a_path_that_only_looks_like_a_version_is_not_one() -> None:
    assert split_version("/v1.50x/info")[1] == "/v1.50x/info"


@pytest.mark.parametrize("request_", [("GET", "/nothing"), ("POST", "/info"), ("GET", "/"), ("PATCH", "/info")])
def test_an_unknown_route_is_page_not_found(client: Client, request_: tuple[str, str]) -> None:
    reply = client.call(*request_)
    assert (reply.status, reply.json) == (404, {"message": "page not found"})


def test_a_route_that_is_not_built_says_so(client: Client) -> None:
    reply = client.post("/v1.50/build?t=x")
    assert reply.status == 501
    assert reply.json["message"] == "POST /v1.50/build is not supported by this version of scow"


def test_every_route_of_the_specification_is_known() -> None:
    if not SPEC.exists():
        pytest.skip(f"the specification is not at {SPEC}")
    known = {(route.method, re.sub(r"\{\w+(\.\.\.)?\}", "{}", route.path)) for route in routes()}
    wanted, path = set(), ""
    for line in SPEC.read_text().partition("\npaths:")[2].splitlines():
        if match := re.match(r"  (/\S*):", line):
            path = re.sub(r"\{\w+\}", "{}", match[1])
        elif match := re.match(r"    (get|post|put|delete|head):", line):
            wanted.add((match[1].upper(), path))
    assert len(wanted) > 90
    assert sorted(wanted - known) == []


def test_names_of_images_may_hold_slashes() -> None:
    async def handler(call: Call) -> None: ...

    router = Router.of([Route("GET", "/images/{name...}/json", handler), Route("GET", "/x/{id}/y", handler)])  # type: ignore[arg-type]
    assert router.find("GET", "/images/localhost:5000/a/b/json")[1] == {"name": "localhost:5000/a/b"}
    assert router.find("GET", "/x/1/y")[1] == {"id": "1"}
    with pytest.raises(NotFound):
        router.find("GET", "/x/1/2/y")


def test_the_hint_of_an_error_is_on_a_line_of_its_own(client: Client) -> None:
    client.run("sleep", "60", name="busy")
    reply = client.call("DELETE", "/containers/busy")
    assert reply.status == 409
    assert reply.json["message"].splitlines() == [
        "cannot remove container 'busy': container is running",
        "stop the container before removing or force remove",
    ]


def test_a_fault_of_the_engine_is_a_500_and_the_daemon_goes_on(
    client: Client, daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("really")

    daemon.engine.system.info = broken  # type: ignore[assignment,method-assign]
    reply = client.get("/info")
    assert (reply.status, reply.json) == (500, {"message": "internal error: ZeroDivisionError: really"})
    assert "GET /info failed" in caplog.text
    assert client.get("/_ping").status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "invalid JSON"),
        (b'{"Cmd": "text"}', "$.Cmd"),
        (b'{"HostConfig": {"Memory": "much"}}', "$.HostConfig.Memory"),
    ],
)
def test_a_malformed_body_names_the_field(client: Client, body: bytes, message: str) -> None:
    reply = client.post("/containers/create", body)
    assert reply.status == 400
    assert message in reply.json["message"]


def test_a_body_that_is_not_declared_as_json_is_refused(client: Client) -> None:
    reply = client.post("/containers/create", {"Image": "busybox"}, {"Content-Type": "text/plain"})
    assert reply.status == 400
    assert "must be 'application/json'" in reply.json["message"]


def test_a_client_that_waits_for_the_continue_gets_it(client: Client) -> None:
    body = b'{"Image": "busybox"}'
    with client.connected() as sock:
        head = f"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(head.encode() + b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(4096).startswith(b"HTTP/1.1 201 Created\r\n")


def test_the_end_of_the_daemon_ends_streams_at_once_and_removes_the_socket(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path) as daemon:
        client = Client(daemon)
        container = client.run("sleep", "60")
        requests = (
            ("POST", f"/containers/{container}/wait", None),
            ("GET", "/events", None),
            ("POST", f"/containers/{container}/attach?stream=1&stdout=1", UPGRADE),
        )
        stack = ExitStack()
        opened = [stack.enter_context(client.opened(method, path, None, more)) for method, path, more in requests]
        begun = time.monotonic()
    with stack:
        assert time.monotonic() - begun < 1
        assert [sock.recv(100) for _, sock in opened] == [b"", b"", b""]
    assert not (tmp_path / "scow.sock").exists()


def test_the_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path):
        (tmp_path / "scow.sock").unlink()
        listen(f"unix://{tmp_path}/scow.sock").close()
    assert (tmp_path / "scow.sock").is_socket()


def test_tls_that_is_configured_is_not_served_as_plain_tcp(tmp_path: Path) -> None:
    class Secured(FakeDaemon):
        async def _open(self) -> FakeEngine:
            engine = FakeEngine(tmp_path)
            engine.config = replace(engine.config, tls=TlsConfig(ca=tmp_path / "ca.pem"))
            self._runners = []
            await serve(engine.typed, ["tcp://127.0.0.1:0"])
            return engine

    daemon = Secured(tmp_path)
    with pytest.raises(Unsupported, match="TLS is not served"):
        daemon.__enter__()
    daemon.__exit__()


def test_nulls_in_a_body_stand_for_the_default(client: Client) -> None:
    body = {"Image": "busybox", "Cmd": ["cat"], "Entrypoint": None, "HostConfig": {"Binds": None, "Memory": None}}
    assert client.post("/containers/create", body).status == 201


def test_a_body_beyond_the_limit_is_refused(client: Client) -> None:
    reply = client.post("/containers/create", b" " * (17 << 20))
    assert reply.status == 413
    assert reply.json == {"message": "request entity too large"}


def test_requests_wait_until_the_engine_is_ready_but_ping_does_not(client: Client, daemon: FakeDaemon) -> None:
    daemon.engine.ready.clear()
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(client.get("/containers/json").status))
    waiting.start()
    time.sleep(0.1)
    assert client.get("/_ping").status == 200
    assert answers == []

    async def ready() -> None:
        daemon.engine.ready.set()

    daemon.run(ready())
    waiting.join(5)
    assert answers == [200]


def test_two_requests_on_one_connection(client: Client) -> None:
    with client.connected() as sock:
        for _ in range(2):
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            assert sock.recv(4096).endswith(b"\r\n\r\nOK")


def test_the_socket_is_for_root_and_its_group_only(daemon: FakeDaemon) -> None:
    mode = Path(daemon.host.removeprefix("unix://")).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    for _ in range(2):
        listen(f"unix://{path}").close()
    assert path.is_socket()


def test_the_socket_of_a_live_daemon_is_left_alone(daemon: FakeDaemon) -> None:
    with pytest.raises(Conflict, match="in use by another process"):
        listen(daemon.host)


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Conflict, match="not a socket"):
        listen(f"unix://{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_longer_than_a_socket_address_is_served(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    listen(f"unix://{directory}/s.sock").close()
    assert (directory / "s.sock").is_socket()


def test_a_tcp_address_that_others_can_reach_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="refusing to listen on tcp://0.0.0.0:2375"):
        listen("tcp://0.0.0.0:2375")


@pytest.mark.parametrize("host", ["http://x", "/run/x.sock", "unix://", "npipe:////x", "tcp://example.org:1"])
def test_an_address_of_another_form_is_refused(host: str) -> None:
    with pytest.raises(InvalidArgument):
        listen(host)


def test_loopback_is_served_over_tcp() -> None:
    with listen("tcp://127.0.0.1:0") as sock:
        assert sock.family is socket.AF_INET
        assert sock.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_a_conflict() -> None:
    with listen("tcp://localhost:0") as sock:
        sock.listen()
        with pytest.raises(Conflict, match="in use"):
            listen(f"tcp://127.0.0.1:{sock.getsockname()[1]}")


def test_a_change_is_finished_although_its_client_went_away(client: Client, daemon: FakeDaemon) -> None:
    container = client.create("cat", OpenStdin=True)
    original = daemon.engine.containers.start
    begun = threading.Event()

    async def slow(ref: str) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        await original(ref)

    daemon.engine.containers.start = slow  # type: ignore[method-assign]
    with client.connected() as sock:
        sock.sendall(f"POST /containers/{container}/start HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        assert begun.wait(5)
    time.sleep(0.4)
    assert client.get(f"/containers/{container}/json").json["State"]["Running"]


def test_an_error_without_a_hint_is_one_line(client: Client) -> None:
    assert client.get("/containers/none/json").json == {"message": "No such container: none"}
    assert ScowError("x").hint is None
