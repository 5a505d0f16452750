"""Credentials for ECR: whose hosts, whose token, and for how long."""

from __future__ import annotations

import base64
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument, Unauthorized, Unavailable
from scow.ports import DriverContext
from scow.ports.registry import Credentials
from scow_registry_ecr import EcrCredentials
from scow_registry_ecr.places import Place
from scow_registry_ecr.tokens import Tokens
from tests.unit.aws_server import Amazon, aws_environment, running_moto, serving_amazon, serving_role

HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
PRIVATE = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
PUBLIC = "SpencerFrontendService.GetAuthorizationToken"


def plugin(folder: Path, **options: Any) -> EcrCredentials:
    return EcrCredentials(DriverContext("ecr", folder, folder, options))


@pytest.fixture
def amazon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with serving_amazon() as server:
        aws_environment(monkeypatch, tmp_path, server.url)
        yield server


@pytest.fixture
def moto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with running_moto() as url:
        aws_environment(monkeypatch, tmp_path, url)
        yield url


def test_a_private_registry_gets_the_token_of_moto(moto: str, tmp_path: Path) -> None:
    assert plugin(tmp_path).scow_registry_credentials(HOST) == Credentials("AWS", "123456789012-auth-token")


def test_a_role_of_another_account_is_taken_on_first(moto: str, tmp_path: Path) -> None:
    role = {"role_arn": "arn:aws:iam::210987654321:role/puller", "external_id": "scow"}
    asked = plugin(tmp_path, hosts={HOST: role}).scow_registry_credentials(HOST)
    assert asked == Credentials("AWS", "210987654321-auth-token")


def test_a_profile_of_the_aws_config_takes_on_its_role(moto: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile base]\nregion = eu-west-1\n"
        "[profile other]\nrole_arn = arn:aws:iam::210987654321:role/puller\nsource_profile = base\nregion = eu-west-1\n"
    )
    (tmp_path / "credentials").write_text("[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = s3cret\n")
    asked = plugin(tmp_path, hosts={"registry.example.com": {"profile": "other"}})
    assert asked.scow_registry_credentials("registry.example.com") == Credentials("AWS", "210987654321-auth-token")


def test_a_role_of_the_container_is_asked_for_at_its_endpoint(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with serving_role("ASIAROLE") as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        assert plugin(tmp_path).scow_registry_credentials(HOST) == Credentials("AWS", "123456789012-auth-token")


def test_tokens_and_signed_requests_are_not_logged_at_any_level(
    amazon: Amazon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert plugin(tmp_path).scow_registry_credentials(HOST) == Credentials("AWS", "token-1")
    for secret in ("token-1", base64.b64encode(b"AWS:token-1").decode(), "s3cret", "Signature"):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    ("host", "service", "region"),
    [
        (HOST, "ecr", "eu-west-1"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "ecr", "us-gov-west-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr", "cn-north-1"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "ecr", "eu-west-1"),
        ("public.ecr.aws", "ecr-public", "us-east-1"),
    ],
)
def test_the_token_is_asked_for_in_the_region_of_the_host(
    amazon: Amazon, tmp_path: Path, host: str, service: str, region: str
) -> None:
    assert plugin(tmp_path).scow_registry_credentials(host) == Credentials("AWS", "token-1")
    target = PUBLIC if service == "ecr-public" else PRIVATE
    assert amazon.asked == [(target, service, region, "AKIAEXAMPLE")]


@pytest.mark.parametrize(
    "host",
    [
        "docker.io",
        "ecr.eu-west-1.amazonaws.com",
        f"{HOST}.example.com",
        f"{HOST}:443",
        "x123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "12345678901x.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil",
        "evil.public.ecr.aws",
    ],
)
def test_no_other_host_is_told_a_token(amazon: Amazon, tmp_path: Path, host: str) -> None:
    assert plugin(tmp_path).scow_registry_credentials(host) is None
    assert amazon.asked == []


def test_a_token_is_kept_until_it_is_about_to_expire(amazon: Amazon) -> None:
    now = [time.time()]
    tokens = Tokens(clock=lambda: now[0])
    place = Place(region="eu-west-1")
    assert tokens.get(place) == tokens.get(place) == Credentials("AWS", "token-1")
    now[0] += 43200 - 1800 - 60
    assert tokens.get(place) == Credentials("AWS", "token-1")
    now[0] += 120
    assert tokens.get(place) == Credentials("AWS", "token-2")


def test_accounts_of_one_region_share_a_token_and_askers_one_request(amazon: Amazon, tmp_path: Path) -> None:
    asked = plugin(tmp_path)
    hosts = [f"{account}.dkr.ecr.eu-west-1.amazonaws.com" for account in range(123456789000, 123456789008)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(asked.scow_registry_credentials, hosts)) == {Credentials("AWS", "token-1")}
    assert len(amazon.asked) == 1


def test_other_credentials_in_the_file_count_at_once(
    amazon: Amazon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    asked, file = plugin(tmp_path), tmp_path / "credentials"
    for n, key in enumerate(("AKIAFIRST", "AKIASECOND")):
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s3cret\n")
        os.utime(file, ns=(n, n))
        asked.scow_registry_credentials(HOST)
    assert [key for *_, key in amazon.asked] == ["AKIAFIRST", "AKIASECOND"]


def test_without_an_account_a_private_registry_is_an_error_and_the_public_one_is_not(
    amazon: Amazon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    asked = plugin(tmp_path)
    with pytest.raises(Unauthorized, match="no credentials for aws") as caught:
        asked.scow_registry_credentials(HOST)
    assert caught.value.hint
    with caplog.at_level(logging.WARNING):
        assert asked.scow_registry_credentials("public.ecr.aws") is None
        assert asked.scow_registry_credentials("public.ecr.aws") is None
    assert caplog.text.count("without an account") == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "UnrecognizedClientException", Unauthorized),
        (400, "AccessDeniedException", Unauthorized),
        (400, "ThrottlingException", Unavailable),
        (500, "ServerException", Unavailable),
    ],
)
def test_a_refusal_is_told_with_amazons_words(
    amazon: Amazon, tmp_path: Path, status: int, code: str, error: type[Exception]
) -> None:
    amazon.refusal = status, code
    asked = plugin(tmp_path)
    with pytest.raises(error, match=f"{code}: no, and here is why") as caught:
        asked.scow_registry_credentials(HOST)
    assert "s3cret" not in repr(caught.value)
    amazon.refusal = None
    assert asked.scow_registry_credentials(HOST) is not None


def test_amazon_out_of_reach_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amazon: Amazon, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot reach aws"):
        plugin(tmp_path).scow_registry_credentials(HOST)


def test_a_profile_that_is_not_there_is_named(amazon: Amazon, tmp_path: Path) -> None:
    with pytest.raises(Unauthorized, match="nowhere"):
        plugin(tmp_path, hosts={HOST: {"profile": "nowhere"}}).scow_registry_credentials(HOST)


def test_a_host_of_any_name_needs_a_region(amazon: Amazon, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no aws region"):
        plugin(tmp_path, hosts={"registry.example.com": {}}).scow_registry_credentials("registry.example.com")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regions": []}, "unknown option 'regions'"),
        ({"hosts": ["x"]}, "expected a mapping"),
        ({"hosts": {"x": {"role": "y"}}}, "unknown key 'hosts.x.role'"),
        ({"hosts": {"x": {"region": 1}}}, "expected a mapping of text"),
    ],
)
def test_options_are_checked_when_the_plugin_is_loaded(tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        plugin(tmp_path, **options)
