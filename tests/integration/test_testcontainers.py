"""testcontainers-python starts services on a scowd of our own: an exposed port, and waiting for a line of the log."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.daemon import BUSYBOX, Daemon

pytest.importorskip("testcontainers", reason="needs testcontainers: pip install testcontainers")
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def test_a_service_with_an_exposed_port_is_waited_for_and_reached(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon.socket}")
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    config = pytest.importorskip("testcontainers.core.config").testcontainers_config
    container = pytest.importorskip("testcontainers.core.container").DockerContainer
    strategy = pytest.importorskip("testcontainers.core.wait_strategies").LogMessageWaitStrategy
    monkeypatch.setattr(config, "ryuk_disabled", True)
    script = "mkdir -p /www; echo page > /www/index.html; echo is ready; exec httpd -f -p 80 -h /www"
    service = container("busybox").with_command(["sh", "-c", script]).with_exposed_ports(80).with_env("A", "b")
    with service.waiting_for(strategy("is ready")) as running:
        address = running.get_container_host_ip(), int(running.get_exposed_port(80))
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.endswith(b"page\n")
        assert b"is ready\n" in running.get_logs()[0]
        assert "A=b" in running.exec("env").output.decode().split()
    assert daemon.out("ps", "-aq") == ""
