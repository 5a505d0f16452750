"""docker-py against the API (on an engine in memory)."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.testing.fakes_daemon import FakeDaemon

docker = pytest.importorskip("docker")
# docker-py leaves the sockets of streams to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Any]:
    client = docker.DockerClient(base_url=daemon.host)
    yield client
    client.close()
    del client
    gc.collect()  # the sockets that docker-py left open, here and not in somebody else's test


def test_it_negotiates_a_version(client: Any) -> None:
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.56"
    assert client.info()["OSType"] == "linux"


def test_run_answers_the_output(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["exit", "4"])
    assert caught.value.exit_status == 4


def test_a_container_s_life(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "60"], detach=True, name="c", ports={"80/tcp": 8080})
    assert [found.name for found in client.containers.list()] == ["c"]
    container.reload()
    assert container.ports == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.resize(10, 20)
    assert container.update(mem_limit="64m") == {"Warnings": []}
    assert container.top()["Processes"][0][1] == "4242"
    container.kill("SIGTERM")
    assert container.wait() == {"StatusCode": 143}
    container.remove()
    with pytest.raises(docker.errors.NotFound, match="No such container: c"):
        client.containers.get("c")


def test_exec_in_each_of_its_forms(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "60"], detach=True)
    for _ in range(20):
        assert container.exec_run(["echo", "out"]) == (0, b"out\n")
    assert container.exec_run(["err", "oops"], demux=True).output == (None, b"oops\n")
    assert list(container.exec_run(["echo", "streamed"], stream=True).output) == [b"streamed\n"]
    assert container.exec_run(["exit", "7"]).exit_code == 7
    missing = container.exec_run(["nosuch"])
    assert missing.exit_code == 127
    assert b"executable file not found" in missing.output


def test_attached_sockets_pass_bytes_both_ways(client: Any) -> None:
    container = client.containers.run("busybox", ["cat"], detach=True, stdin_open=True, tty=True)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    sock._sock.sendall(b"abc")
    assert sock._sock.recv(3) == b"abc"
    sock._sock.close()
    sock.close()


def test_logs_stats_and_events(client: Any) -> None:
    container = client.containers.run("busybox", ["cat"], detach=True, stdin_open=True)
    samples = container.stats(decode=True)
    assert next(samples)["memory_stats"] == {"usage": 4096}
    samples.close()
    container.kill()
    container.wait()
    assert container.logs() == b""
    statuses = [event["status"] for event in client.events(since=0, until=int(time.time()) + 1, decode=True)]
    assert statuses == ["create", "start", "kill", "die"]


def test_images(client: Any, daemon: FakeDaemon) -> None:
    assert client.images.pull("alpine").tags == ["alpine:latest"]
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.pull("nothing")
    image = client.images.get("alpine")
    assert image.tag("localhost:5000/a", "b")
    assert "The push refers to" in client.images.push("localhost:5000/a", "b")
    assert client.api.import_image_from_data(b"tar", "imported", "1")
    assert daemon.engine.images.imported == b"tar"
    client.images.remove("alpine")


def test_networks_and_volumes(client: Any) -> None:
    assert client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"] == "172.29.0.0/16"
    assert client.volumes.create("v", labels={"a": "b"}).attrs["Labels"] == {"a": "b"}
    client.volumes.get("v").remove()
    with pytest.raises(docker.errors.NotFound):
        client.volumes.get("v")
