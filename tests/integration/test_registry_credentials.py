"""Who asks a registry: the client's credentials, a plugin's (ECR by moto, Google by a stand-in), or nobody. With
Debian's docker-registry, the docker command line, docker-py and ``scow``."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest

from scow.oci import OCI_INDEX, OCI_MANIFEST
from scow.testing.fakes_registry import make_image
from tests.daemon import DOCKER, Daemon
from tests.faulty_registry import serving
from tests.registry import HAVE_REGISTRY, RunningRegistry, running_registry
from tests.unit.aws_server import aws_environment, running_moto
from tests.unit.google_server import serving_google

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(DOCKER is None, reason="needs the docker CLI"),
    pytest.mark.skipif(not HAVE_REGISTRY, reason="needs docker-registry"),
]


BROKEN = "127.0.0.1:1"  # a host whose AWS profile does not exist


class Kit:
    """A daemon whose plugins know two registries, and a third that only its reader knows."""

    def __init__(self, folder: Path, environ: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.folder = folder
        aws_environment(environ, folder, stack.enter_context(running_moto()))
        google = stack.enter_context(serving_google())

        def registry(name: str, users: dict[str, str]) -> RunningRegistry:
            (folder / name).mkdir()
            return stack.enter_context(running_registry(folder / name, users=users))

        self.ecr = registry("ecr", {"AWS": "123456789012-auth-token"})  # moto's
        self.google = registry("google", {"oauth2accesstoken": "ya29.1"})
        self.private = registry("private", {"reader": "s3cret"})
        self.daemon = Daemon(
            folder / "engine",
            options={
                "plugin.ecr": {"hosts": {self.ecr.host: {"region": "eu-west-1"}, BROKEN: {"profile": "nobody-here"}}},
                "plugin.gcr": {
                    "hosts": [self.google.host],
                    "key_file": str(google.write_key(folder / "key.json")),
                },
            },
        ).start()
        self.daemon.import_busybox()

    def scow(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """``scow`` of a user who has no docker config yet."""
        program = "from scow.cli.main import main; raise SystemExit(main())"
        command = [sys.executable, "-c", program, "-H", f"unix://{self.daemon.socket}", *words]
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder / "docker")}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environ, timeout=60)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environ:
        kit = Kit(tmp_path_factory.mktemp("credentials"), environ, stack)
        yield kit
        kit.daemon.cleanup()


@pytest.fixture
def client(kit: Kit) -> Iterator[Any]:
    client = docker.DockerClient(base_url=f"unix://{kit.daemon.socket}")
    yield client
    client.close()


@pytest.mark.parametrize("which", ["ecr", "google"])
def test_nobody_logs_in_where_a_plugin_knows_the_registry(kit: Kit, which: str, tmp_path: Path) -> None:
    name = f"{getattr(kit, which).host}/team/box:1"
    config = ["--config", str(tmp_path)]
    kit.daemon.out("tag", "busybox", name)
    assert "1: digest: sha256:" in kit.daemon.out(*config, "push", name)
    kit.daemon.out("rmi", name)
    assert "Downloaded newer image" in kit.daemon.out(*config, "pull", name)
    kit.daemon.out("rmi", name)
    log = kit.daemon.log.read_text()  # at level DEBUG
    token = "AWS:123456789012-auth-token"
    for secret in (token, base64.b64encode(token.encode()).decode(), "authorizationToken", "AKIAEXAMPLE", "ya29."):
        assert secret not in log


def test_a_plugin_that_finds_no_identity_says_why(kit: Kit) -> None:
    done = kit.daemon.docker("pull", f"{BROKEN}/team/box:1", check=False)
    assert done.returncode == 1
    assert "no credentials for aws: The config profile (nobody-here) could not be found" in done.stderr
    assert "options.plugin.ecr" in done.stderr  # the hint


def test_what_the_client_sends_goes_before_what_a_plugin_knows(kit: Kit, client: Any) -> None:
    name = f"{kit.ecr.host}/team/own"
    kit.daemon.out("tag", "busybox", name)
    kit.daemon.out("push", name)
    with pytest.raises(docker.errors.APIError):
        client.images.pull(name, tag="latest", auth_config={"username": "AWS", "password": "of another account"})
    assert client.images.pull(name, tag="latest").tags
    kit.daemon.out("rmi", name)


def test_scow_logs_in_pushes_pulls_and_logs_out(kit: Kit) -> None:
    name = f"{kit.private.host}/team/box:1"
    kit.daemon.out("tag", "busybox", name)
    assert kit.scow("push", name).returncode == 1
    wrong = kit.scow("login", "-u", "reader", "--password-stdin", kit.private.host, stdin="wr0ng")
    assert (wrong.returncode, "unauthorized" in wrong.stderr.lower()) == (1, True)
    done = kit.scow("login", "-u", "reader", "--password-stdin", kit.private.host, stdin="s3cret\n")
    assert (done.returncode, done.stdout) == (0, "Login Succeeded\n")
    file = kit.folder / "docker/config.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert kit.scow("push", name).returncode == 0
    kit.daemon.out("rmi", name)
    assert kit.scow("pull", name).returncode == 0
    docker_too = kit.daemon.out("--config", str(kit.folder / "docker"), "pull", name)
    assert "Image is up to date" in docker_too
    assert kit.scow("logout", kit.private.host).returncode == 0
    assert json.loads(file.read_text()) == {"auths": {}}
    assert kit.scow("pull", name).returncode == 1
    kit.daemon.out("rmi", name)
    log = kit.daemon.log.read_text()
    assert "s3cret" not in log
    assert "wr0ng" not in log


def test_a_token_server_gives_an_identity_token_that_is_kept_in_place_of_the_password(kit: Kit) -> None:
    with serving() as registry:
        registry.auth, registry.users, registry.refresh_token = "bearer", {"reader": "s3cret"}, "an-identity"
        registry.add("team/app", "1", make_image({"etc/": None, "etc/motd": "hello"}))
        name = f"{registry.host}/team/app:1"
        assert kit.scow("pull", name).returncode == 1
        assert kit.scow("login", "-u", "reader", "--password-stdin", registry.host, stdin="s3cret").returncode == 0
        file = kit.folder / "docker/config.json"
        assert json.loads(file.read_text())["auths"][registry.host]["identitytoken"] == "an-identity"
        assert "s3cret" not in file.read_text()
        registry.users = {"reader": "changed"}  # the token still counts
        for pull in (kit.scow("pull", name), kit.daemon.docker("--config", str(file.parent), "pull", name)):
            assert pull.returncode == 0, pull.stderr
        assert kit.scow("login", registry.host).stdout == "Login Succeeded\n"
        kit.scow("logout", registry.host)
        kit.daemon.out("rmi", name)
    assert "an-identity" not in kit.daemon.log.read_text()


def test_docker_py_inspects_what_is_not_pulled(kit: Kit, client: Any) -> None:
    name = f"{kit.private.host}/team/there"
    kit.daemon.out("tag", "busybox", f"{name}:2")
    secret = {"username": "reader", "password": "s3cret"}
    pushed = list(client.images.push(name, tag="2", auth_config=secret, stream=True, decode=True))
    digest = next(line["aux"]["Digest"] for line in pushed if "aux" in line)
    kit.daemon.out("rmi", f"{name}:2")
    data = client.images.get_registry_data(f"{name}:2", auth_config=secret)
    assert data.id == digest
    assert data.attrs["Descriptor"]["mediaType"] == OCI_MANIFEST
    assert data.has_platform("linux/amd64") or data.has_platform("linux/arm64")
    assert client.images.get_registry_data(f"{name}@{digest}", auth_config=secret).id == digest
    with pytest.raises(docker.errors.APIError) as caught:
        client.images.get_registry_data(f"{name}:2", auth_config={"username": "reader", "password": "wrong"})
    assert caught.value.status_code == 401
    with pytest.raises(docker.errors.NotFound):
        client.images.get_registry_data(f"{name}:3", auth_config=secret)
    assert client.images.list(name=name) == []


def test_docker_py_is_shown_the_platforms_of_an_index(kit: Kit, client: Any) -> None:
    members = [
        {"mediaType": OCI_MANIFEST, "digest": f"sha256:{n:064}", "size": 7, "platform": {"os": "linux", **platform}}
        for n, platform in enumerate(({"architecture": "s390x"}, {"architecture": "arm64", "variant": "v8"}))
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members}).encode()
    with serving() as registry:
        registry.add_manifest("team/many", "1", OCI_INDEX, index)
        data = client.images.get_registry_data(f"{registry.host}/team/many:1")
        assert [data.has_platform(text) for text in ("linux/s390x", "linux/arm64/v8", "linux/amd64")] == [
            True,
            True,
            False,
        ]


def test_a_registry_that_has_a_search_is_searched(kit: Kit, client: Any) -> None:
    with serving() as registry:
        registry.found = [
            {"name": "nginx", "description": "a server", "star_count": 3, "is_official": True},
            {"name": "me/nginx", "description": "", "star_count": 0},
        ]
        term = f"{registry.host}/nginx"
        assert kit.daemon.out("search", "--format", "{{.Name}} {{.StarCount}}", term) == "nginx 3\nme/nginx 0"
        assert kit.daemon.out("search", "--filter", "stars=1", "--format", "{{.Name}}", term) == "nginx"
        assert [found["name"] for found in client.images.search(term)] == ["nginx", "me/nginx"]
        assert kit.scow("search", term).stdout == kit.daemon.docker("search", term).stdout
    refused = kit.daemon.docker("search", f"{kit.ecr.host}/nginx", check=False)
    assert (refused.returncode, "has no search" in refused.stderr) == (1, True)
