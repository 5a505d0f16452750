"""How the distribution client proves who it is: tokens, passwords, and where neither may go."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import Unauthorized, Unavailable
from scow.ports.registry import Credentials
from scow_registry_dockerhub import DistributionBackend
from tests.faulty_registry import Fault, Registry, serving
from tests.unit.dockerhub_kit import IMAGE, USER, make_backend, read, reference, resolve


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as running:
        running.add("library/app", "1", IMAGE)
        yield running


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[DistributionBackend]:
    made = make_backend(tmp_path)
    yield made
    made.close()


def test_an_anonymous_token_is_fetched_once_and_used_again(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth = "bearer"
    resolve(backend, reference(registry))
    read(backend, reference(registry))
    assert registry.count("/token") == 1
    assert registry.count("GET /v2/library/app/") == 3  # only the first was refused


def test_a_token_is_asked_for_with_the_password_and_the_scope(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "bearer", {"tester": "hunter2"}
    assert resolve(backend, reference(registry), USER) == IMAGE.manifest.data
    asked = next(asked for asked in registry.asked if asked.path.startswith("/token"))
    assert "scope=repository%3Alibrary%2Fapp%3Apull" in asked.path
    assert "service=test" in asked.path
    assert asked.headers["Authorization"].startswith("Basic ")


def test_an_expired_token_is_renewed(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.expires_in = "bearer", 0.1
    resolve(backend, reference(registry))
    time.sleep(0.1)
    resolve(backend, reference(registry))
    assert registry.count("/token") == 2


def test_a_token_that_is_refused_early_is_replaced(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth = "bearer"
    resolve(backend, reference(registry))
    registry.tokens.clear()
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data


def test_an_identity_token_is_posted_and_never_part_of_a_url(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.refresh_token = "bearer", "refresh-me"
    resolve(backend, reference(registry), Credentials("", "", "refresh-me"))
    asked = next(asked for asked in registry.asked if asked.path.startswith("/token"))
    assert asked.method == "POST"
    assert b"grant_type=refresh_token" in asked.body
    assert not any("refresh-me" in asked.path for asked in registry.asked)


def test_basic_is_answered_and_then_sent_at_once(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "basic", {"tester": "hunter2"}
    resolve(backend, reference(registry), USER)
    before = len(registry.asked)
    resolve(backend, reference(registry), USER)
    assert len(registry.asked) == before + 1


def test_nobody_is_told_to_log_in_as_docker_says_it(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "bearer", {"tester": "hunter2"}
    with pytest.raises(Unauthorized, match="pull access denied for .*/library/app, repository does not exist or may"):
        resolve(backend, reference(registry))


def test_a_wrong_password_is_not_quoted(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "bearer", {"tester": "other"}
    with pytest.raises(Unauthorized, match="incorrect username or password") as caught:
        resolve(backend, reference(registry), USER)
    assert "hunter2" not in repr(caught.value) + str(caught.value.hint)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_login_tells_good_credentials_from_bad(auth: str, registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = auth, {"tester": "hunter2"}
    assert backend.login(registry.host, USER)["Status"] == "Login Succeeded"
    with pytest.raises(Unauthorized):
        backend.login(f"http://{registry.host}/v2/", Credentials("tester", "wrong"))


def test_login_brings_a_refresh_token_where_there_is_one(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users, registry.refresh_token = "bearer", {"tester": "hunter2"}, "keep-me"
    assert backend.login(registry.host, USER)["IdentityToken"] == "keep-me"


def test_credentials_are_not_sent_to_a_token_server_without_tls(
    registry: Registry, backend: DistributionBackend
) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="http://tokens.example.com/token",service="x"'}
    registry.faults = [Fault("/v2/library", 401, challenge)]
    with pytest.raises(Unavailable, match=r"to be sent to tokens\.example\.com without TLS"):
        resolve(backend, reference(registry), USER)


def test_secrets_reach_no_log(
    registry: Registry, backend: DistributionBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    registry.auth, registry.users = "bearer", {"tester": "hunter2"}
    with serving() as other:
        other.blobs = registry.blobs
        registry.elsewhere = other.host
        registry.faults = [Fault("/manifests/", 503)]
        resolve(backend, reference(registry), USER)
        read(backend, reference(registry), who=USER)
    assert not any(secret in caplog.text for secret in ("hunter2", "token-", "s3cret"))


# redirects
