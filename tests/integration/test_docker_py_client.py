"""docker-py's ``from_env()`` client against a scowd of its own."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import Daemon

docker = pytest.importorskip("docker")
pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What docker-py leaves open (the sockets of attach and exec) is collected here, not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon.socket}")
    with warnings.catch_warnings():
        client = docker.from_env()
    if not client.images.list("busybox"):
        daemon.import_busybox()
    yield client
    client.close()


def test_a_container_runs_and_its_output_comes_back(client: Any) -> None:
    assert client.containers.run("busybox", "echo hello", remove=True, network_mode="none") == b"hello\n"


def test_a_failing_container_raises_with_its_error_output(client: Any) -> None:
    with pytest.raises(docker.errors.ContainerError, match="oops"):
        client.containers.run("busybox", ["sh", "-c", "echo oops >&2; exit 3"], remove=True, network_mode="none")


def test_logs_exec_stats_and_stop(client: Any) -> None:
    container = client.containers.run(
        "busybox",
        ["sh", "-c", "echo started; exec sleep 60"],
        detach=True,
        name="py",
        labels={"a": "b"},
        mem_limit="32m",
        ports={"80/tcp": ("127.0.0.1", None)},
    )
    try:
        assert next(iter(container.logs(stream=True, follow=True))) == b"started\n"
        code, output = container.exec_run("echo inside")
        assert (code, output) == (0, b"inside\n")
        code, (out, err) = container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
        assert (code, out, err) == (4, b"o\n", b"e\n")
        container.reload()
        assert container.status == "running"
        assert container.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
        assert client.containers.list(filters={"label": "a=b"})[0].id == container.id
        assert container.stats(stream=False)["memory_stats"]["limit"] == 32 << 20
        assert any("sleep" in " ".join(process) for process in container.top()["Processes"])
        container.pause()
        container.unpause()
        container.stop(timeout=1)
        assert container.wait()["StatusCode"] in (137, 143)
    finally:
        container.remove(force=True)


def test_errors_have_their_types(client: Any) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nosuch")
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nosuch")
    with pytest.raises(docker.errors.APIError, match="Invalid container name"):
        client.containers.create("busybox", name="bad name")


def test_volumes_images_and_networks(client: Any) -> None:
    volume = client.volumes.create("data", labels={"x": "y"})
    out = client.containers.run(
        "busybox",
        ["sh", "-c", "echo kept > /v/f; cat /v/f"],
        remove=True,
        volumes={"data": {"bind": "/v", "mode": "rw"}},
        network_mode="none",
    )
    assert out == b"kept\n"
    assert [v.name for v in client.volumes.list(filters={"label": "x=y"})] == ["data"]
    volume.remove()
    image = client.images.get("busybox")
    assert image.tag("other/name", "v1")
    assert "other/name:v1" in client.images.get("other/name:v1").tags
    client.images.remove("other/name:v1")
    assert {n.name for n in client.networks.list()} == {"bridge", "host", "none"}
