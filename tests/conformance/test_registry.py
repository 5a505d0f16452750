"""The registry kit on the fake, on the distribution client with a real registry, and on apt.local's busybox."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scow.errors import DriverUnusable
from scow.ports import DriverContext
from scow.ports.registry import Credentials
from scow.reference import Reference
from scow.testing.fakes_registry import FakeRegistry, make_image
from scow.testing.registry import RegistryContract
from scow_registry_apt import AptBackend
from scow_registry_dockerhub import DistributionBackend
from tests.certificates import Authority
from tests.registry import HAVE_REGISTRY, RunningRegistry, running_registry
from tests.token_server import token_server

IMAGE = make_image({"bin/": None, "bin/sh": b"#" * 300_000}, {"etc/": None, "etc/motd": "hello"})


class TestFake(RegistryContract):
    @pytest.fixture
    def backend(self) -> FakeRegistry:
        fake = FakeRegistry()
        fake.add("library/app", "1", IMAGE)
        return fake

    @pytest.fixture
    def stocked(self) -> Reference:
        return Reference.parse("registry.test/library/app:1")

    @pytest.fixture
    def writable(self) -> Reference:
        return Reference.parse("registry.test/new/app:2")


USERS = {"tester": "a secret"}


@pytest.fixture(scope="module", params=["open", "password", "tokens", "certificates"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    folder = tmp_path_factory.mktemp("registry")
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if request.param == "tokens":
            options["tokens"] = stack.enter_context(token_server(folder, USERS))
        if request.param == "certificates":
            options["authority"] = options["clients"] = Authority(folder)
        users = USERS if request.param == "password" else None
        running = stack.enter_context(running_registry(folder, users, **options))
        if request.param == "certificates":
            options["authority"].trust(folder / "certs.d", running.host)
            options["authority"].identify(folder / "certs.d", running.host)
        running.put("library/app", "1", IMAGE)
        yield running


@pytest.mark.skipif(not HAVE_REGISTRY, reason="docker-registry is not installed")
class TestDistribution(RegistryContract):
    @pytest.fixture
    def backend(self, tmp_path: Path, registry: RunningRegistry) -> Iterator[DistributionBackend]:
        options = {"certs_dir": registry.folder / "certs.d"}
        made = DistributionBackend(DriverContext("dockerhub", tmp_path, tmp_path, options))
        yield made
        made.close()

    @pytest.fixture
    def credentials(self, registry: RunningRegistry) -> Credentials | None:
        return Credentials(*next(iter(registry.users.items()))) if registry.users else None

    @pytest.fixture
    def stocked(self, registry: RunningRegistry) -> Reference:
        return Reference.parse(f"{registry.host}/library/app:1")

    @pytest.fixture
    def writable(self, registry: RunningRegistry, tmp_path: Path) -> Reference:
        return Reference.parse(f"{registry.host}/new/{tmp_path.name.replace('_', '').strip('-').lower()}:2")


class TestApt(RegistryContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[AptBackend]:
        made = AptBackend(DriverContext("apt", tmp_path, tmp_path))
        try:
            made.check()
        except DriverUnusable as error:
            pytest.skip(str(error))
        if shutil.which("busybox") is None:
            pytest.skip("busybox-static is not installed: the image would need the network")
        yield made
        made.close()

    @pytest.fixture
    def stocked(self) -> Reference:
        return Reference.parse("apt.local/busybox:latest")

    def test_a_tag_that_is_not_there_is_not_found_by_name(  # type: ignore[override]
        self, backend: AptBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        pytest.skip("whether a suite exists is the mirror's to say: tests/integration/test_apt_images.py")

    def test_a_repository_that_is_not_there_is_refused(  # type: ignore[override]
        self, backend: AptBackend, stocked: Reference, credentials: Credentials | None
    ) -> None:
        pytest.skip("whether a package exists is the mirror's to say: tests/integration/test_apt_images.py")
