"""``scow demo`` against a fake engine: the steps it shows, the fallback where the Hub is away, and what it leaves."""

from __future__ import annotations

import http.server
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scow.cli import demo
from scow.cli.client import Client
from scow.cli.hosts import parse
from scow.cli.main import root
from tests.unit.cli_server import FakeEngine, Reply, Request, serve

ID = "d" * 64
TIMELINE = [
    {"step": "layers", "driver": "overlay", "detail": "on sha256:" + "a" * 64, "ms": 1.5},
    {"step": "network", "driver": "bridge", "detail": "", "ms": 2.25},
]


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html><title> Welcome! </title></html>")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def page_port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(tmp_path: Path, page_port: int) -> Iterator[FakeEngine]:
    def exec_start(request: Request) -> None:
        sock = request.take_over()
        sock.sendall(struct.pack(">BxxxL", 2, 14) + b"nginx version\n")
        sock.shutdown(socket.SHUT_RDWR)

    ports = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(page_port)}]}
    with serve(tmp_path / "s") as engine:
        engine.on("GET", "/version", {"Version": "1", "ApiVersion": "1.56"})
        engine.on("GET", "/images/nginx/json", {"Id": "sha256:" + "1" * 64})
        engine.on("POST", "/containers/create", Reply(201, {"Id": ID}))
        engine.on("POST", f"/containers/{ID}/(start|stop)", Reply(204))
        engine.on("GET", f"/scow/v1/containers/{ID}/timeline", TIMELINE)
        engine.on("GET", f"/containers/{ID}/json", {"NetworkSettings": {"Ports": ports}, "State": {"ExitCode": 0}})
        engine.on("POST", f"/containers/{ID}/exec", Reply(201, {"Id": "e"}))
        engine.on("POST", "/exec/e/start", exec_start)
        engine.on("GET", "/exec/e/json", {"ExitCode": 0})
        engine.on("GET", f"/containers/{ID}/logs", Reply(chunks=[struct.pack(">BxxxL", 1, 6) + b"GET / "]))
        engine.on("DELETE", f"/containers/{ID}", Reply(204))
        yield engine


def run(engine: FakeEngine) -> Result:
    return CliRunner().invoke(root, ["-H", engine.host, "demo"], standalone_mode=False)


def test_the_demo_shows_every_step_and_leaves_nothing(engine: FakeEngine) -> None:
    result = run(engine)
    assert result.return_value == 0, result.output
    assert "1.5 ms  layers                   overlay            on sha256:" + "a" * 12 + "\n" in result.output
    for words in ("2.2 ms  network", "Welcome!", "nginx version", "GET /", "exit code 0"):
        assert words in result.output
    assert engine.sent("DELETE", f"/containers/{ID}")


def test_an_engine_without_timelines_is_shown_all_the_same(engine: FakeEngine) -> None:
    engine.on("GET", ".*/timeline", Reply(404, {"message": "page not found"}))
    assert run(engine).return_value == 0


def test_a_container_that_fails_is_removed(engine: FakeEngine) -> None:
    engine.on("POST", f"/containers/{ID}/start", Reply(500, {"message": "no more bridges"}))
    assert "no more bridges" in str(run(engine).exception)
    assert engine.sent("DELETE", f"/containers/{ID}")[0].query["force"] == "1"


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_hub_that_refuses_or_is_silent_is_unreachable() -> None:
    assert demo.hub_unreachable(("127.0.0.1", closed_port()), 3.0) == "connection refused"


def test_a_hub_that_listens_is_reachable(page_port: int) -> None:
    assert demo.hub_unreachable(("127.0.0.1", page_port), 3.0) == ""


@pytest.mark.parametrize("reachable", [False, True])
def test_nginx_is_built_from_packages_where_the_hub_does_not_serve(
    engine: FakeEngine,
    page_port: int,
    reachable: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pull(request: Request) -> Reply:
        lines = [{"status": f"Pulling from {request.query['fromImage']}", "id": "latest"}]
        if request.query["fromImage"] == "nginx":
            lines.append({"error": "cannot reach the registry"})
        return Reply(chunks=[json.dumps(line).encode() + b"\n" for line in lines])

    engine.on("GET", "/images/.*/json", Reply(404, {"message": "No such image"}))
    engine.on("POST", "/images/create", pull)
    monkeypatch.setattr(demo, "HUB", ("127.0.0.1", page_port if reachable else closed_port()))
    client = Client(parse(engine.host, "--host"))
    assert demo.obtain_image(client, demo.Screen(), None) == "apt.local/nginx"
    client.close()
    assert "taking apt.local/nginx instead" in capsys.readouterr().out
    assert len(engine.sent("POST", "/images/create")) == (2 if reachable else 1)
