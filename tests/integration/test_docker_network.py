"""The default bridge and published ports through the real docker CLI."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.daemon import DOCKER, Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI")]

SERVE = "mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


def fetch(address: tuple[str, int]) -> str:
    deadline = time.monotonic() + 5
    while True:
        try:
            with socket.create_connection(address, 2) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: sock.recv(4096), b"")).decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_published_port_is_reached_and_shown(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "web", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", SERVE)
    try:
        shown = daemon.out("port", "web", "80")
        host, port = shown.rsplit(":", 1)
        assert host == "127.0.0.1"
        assert "page" in fetch((host, int(port)))
        address = daemon.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
        assert "page" in fetch((address, 80))
        assert f"{shown}->80/tcp" in daemon.out("ps", "--format", "{{.Ports}}")
        again = daemon.docker(
            "run", "-d", "--name", "web2", "-p", f"127.0.0.1:{port}:80", "busybox", "true", check=False
        )
        assert "port is already allocated" in again.stderr
    finally:
        daemon.docker("rm", "-f", "web", "web2", check=False)


def test_containers_reach_each_other_and_have_their_files(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "peer", "busybox", "sh", "-c", SERVE)
    try:
        address = daemon.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "peer")
        out = daemon.out(
            "run",
            "--rm",
            "--hostname",
            "me",
            "--dns",
            "192.0.2.1",
            "--dns-search",
            "example.org",
            "--add-host",
            "other:192.0.2.7",
            "busybox",
            "sh",
            "-c",
            f"wget -qO- http://{address}/; cat /etc/resolv.conf /etc/hosts; hostname",
        )
        assert "page" in out
        assert "nameserver 192.0.2.1" in out
        assert "search example.org" in out
        assert "192.0.2.7\tother" in out
        assert out.splitlines()[-1] == "me"
    finally:
        daemon.out("rm", "-f", "peer")


def test_a_container_joins_anothers_network(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "owner", "busybox", "sh", "-c", SERVE)
    try:
        out = daemon.out("run", "--rm", "--network", "container:owner", "busybox", "wget", "-qO-", "http://127.0.0.1/")
        assert out == "page"
    finally:
        daemon.out("rm", "-f", "owner")


ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 9))
print("bound", flush=True)
while True:
    data, peer = sock.recvfrom(100)
    sock.sendto(data, peer)
"""


def test_udp_is_published(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "udp", "-p", "127.0.0.1:0:9/udp", "busybox", "sleep", "60")
    pid = daemon.out("inspect", "-f", "{{.State.Pid}}", "udp")
    command = ["nsenter", "-t", pid, "-n", sys.executable, "-c", ECHO]  # busybox's nc knows no UDP
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"bound\n"
            host, port = daemon.out("port", "udp", "9/udp").rsplit(":", 1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(3)
                sock.sendto(b"ping", (host, int(port)))
                assert sock.recv(100) == b"ping"
        finally:
            server.kill()
            daemon.out("rm", "-f", "udp")


def test_networks_are_listed_and_inspected(daemon: Daemon) -> None:
    names = daemon.out("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").splitlines()
    assert sorted(names) == ["bridge bridge local", "host host local", "none null local"]
    daemon.out("run", "-d", "--name", "in", "busybox", "sleep", "60")
    try:
        shown = json.loads(daemon.out("network", "inspect", "bridge"))[0]
        assert [c["Name"] for c in shown["Containers"].values()] == ["in"]
        assert shown["IPAM"]["Config"][0]["Subnet"] == daemon.config["subnet_pool"]
    finally:
        daemon.out("rm", "-f", "in")


def test_publish_all_and_a_range_of_host_ports(daemon: Daemon) -> None:
    daemon.out("run", "-d", "--name", "all", "-P", "--expose", "81", "--expose", "82/udp", "busybox", "sleep", "60")
    try:
        shown = daemon.out("port", "all").splitlines()
        assert sorted(line.split(" -> ")[0] for line in shown) == ["81/tcp", "82/udp"]
    finally:
        daemon.out("rm", "-f", "all")


def test_ports_and_addresses_are_free_again(daemon: Daemon) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    for _ in range(3):
        daemon.out("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
