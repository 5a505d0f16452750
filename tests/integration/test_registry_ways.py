"""scowd on its way to a registry: Docker Hub's names by a mirror, and a registry behind an HTTP proxy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scow.testing.fakes_registry import make_image
from tests.certificates import Authority
from tests.daemon import DOCKER, Daemon
from tests.faulty_registry import Fault, serving, spoilt
from tests.proxy import Proxy
from tests.registry import HAVE_REGISTRY, RunningRegistry, running_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry"),
]
HOST = "registry.test"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def filled(registry: RunningRegistry, daemon: Daemon, repository: str) -> str:
    """*repository* of *registry* has busybox; answers its image ID, which *daemon* has no more."""
    name = f"{registry.host}/{repository}:latest"
    daemon.import_busybox("seed")
    daemon.out("tag", "seed", name)
    daemon.out("push", name)
    id = daemon.out("image", "inspect", "-f", "{{.Id}}", name)
    daemon.out("rmi", "-f", id)
    return id


def test_a_name_of_docker_hub_comes_from_its_mirror(tmp_path: Path, stack: ExitStack) -> None:
    registry = stack.enter_context(running_registry(tmp_path))
    registries = {"docker.io": {"mirrors": ["127.0.0.1:9", f"{registry.host}/hub"]}}
    daemon = Daemon(tmp_path / "engine", registries=registries).start()
    stack.callback(daemon.cleanup)
    id = filled(registry, daemon, "hub/library/web")
    daemon.out("pull", "web")
    assert daemon.out("image", "inspect", "-f", "{{.Id}} {{.RepoTags}}", "web") == f"{id} [web:latest]"
    assert f"{registry.host}/hub" in daemon.out("info", "-f", "{{.RegistryConfig.Mirrors}}")


def test_a_mirror_with_wrong_blobs_spoils_no_pull(tmp_path: Path, stack: ExitStack) -> None:
    registry = stack.enter_context(running_registry(tmp_path))
    mirror = stack.enter_context(serving())
    image = make_image({"etc/": None, "etc/motd": "hello"}, {"data": os.urandom(100_000)})
    registry.put("team/app", "1", image)
    mirror.add("team/app", "1", image)
    mirror.faults = [Fault("/blobs/", change=spoilt, times=99)]
    daemon = Daemon(tmp_path / "engine", registries={registry.host: {"mirrors": [mirror.host]}}).start()
    stack.callback(daemon.cleanup)
    daemon.out("pull", f"{registry.host}/team/app:1")
    assert daemon.out("image", "inspect", "-f", "{{.Id}}", f"{registry.host}/team/app:1") == image.id
    assert mirror.count("/blobs/") == 3


def test_a_registry_is_reached_through_the_proxy_of_the_config(tmp_path: Path, stack: ExitStack) -> None:
    authority = Authority(tmp_path, HOST)
    registry = stack.enter_context(running_registry(tmp_path, authority=authority))
    proxy = stack.enter_context(Proxy(registry.host, "user:s3cret"))
    for host in (HOST, registry.host):
        authority.trust(tmp_path / "certs.d", host)
    settings = {"certs_dir": str(tmp_path / "certs.d"), "proxy": {"https": f"http://user:s3cret@{proxy.address}"}}
    daemon = Daemon(tmp_path / "engine", **settings).start()
    stack.callback(daemon.cleanup)
    id = filled(registry, daemon, "team/web")
    assert proxy.heard == []  # loopback needs none
    daemon.out("pull", f"{HOST}/team/web")
    assert daemon.out("image", "inspect", "-f", "{{.Id}}", f"{HOST}/team/web") == id
    assert any(line.startswith(f"CONNECT {HOST}:443") for line in proxy.heard)
    assert daemon.out("info", "-f", "{{.HTTPSProxy}}") == f"http://xxxxx:xxxxx@{proxy.address}"
    assert "s3cret" not in daemon.log.read_text()


def test_a_registry_is_reached_through_the_proxy_of_the_environment(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, HOST)
    registry = stack.enter_context(running_registry(tmp_path, authority=authority))
    proxy = stack.enter_context(Proxy(registry.host))
    for host in (HOST, registry.host):
        authority.trust(tmp_path / "certs.d", host)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("https_proxy", proxy.address)
    daemon = Daemon(tmp_path / "engine", certs_dir=str(tmp_path / "certs.d")).start()
    stack.callback(daemon.cleanup)
    id = filled(registry, daemon, "team/web")
    daemon.out("pull", f"{HOST}/team/web")
    assert daemon.out("image", "inspect", "-f", "{{.Id}}", f"{HOST}/team/web") == id
