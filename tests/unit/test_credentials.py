"""X-Registry-Auth and its kin, as clients send them."""

from __future__ import annotations

import base64
import json

import pytest

from scow.credentials import (
    credentials_of,
    decode_registry_auth,
    decode_registry_config,
    registry_host,
    server_address_of,
)
from scow.errors import InvalidArgument
from scow.ports.registry import Credentials


def encode(value: object, *, padded: bool = True) -> str:
    text = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
    return text if padded else text.rstrip("=")


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", ["u", "us", "use", "user", "ü?>~"])
def test_a_password_is_decoded_with_and_without_padding(name: str, padded: bool) -> None:
    header = encode({"username": name, "password": "p", "serveraddress": "r.example.com"}, padded=padded)
    assert decode_registry_auth(header) == Credentials(name, "p")


def test_the_plain_alphabet_is_read_too() -> None:
    text = base64.b64encode(json.dumps({"username": "??>>", "password": "~~~?"}).encode()).decode()
    assert decode_registry_auth(text) == Credentials("??>>", "~~~?")


def test_an_identity_token_stands_alone() -> None:
    assert decode_registry_auth(encode({"identitytoken": "t"})) == Credentials("", "", "t")


def test_auth_counts_where_there_is_no_username() -> None:
    auth = base64.b64encode(b"user:pass:word").decode()
    assert decode_registry_auth(encode({"auth": auth})) == Credentials("user", "pass:word")


@pytest.mark.parametrize("header", [None, "", " ", encode({}), encode(None), encode({"username": "", "password": ""})])
def test_nobody_is_none(header: str | None) -> None:
    assert decode_registry_auth(header) is None


@pytest.mark.parametrize(
    "header",
    [
        "%%%",
        encode([]),
        encode("x"),
        encode({"username": 1}),
        base64.b64encode(b"{hunter2").decode(),
        "A" * (2 << 20),
        encode({"registrytoken": "t"}),
    ],
)
def test_what_cannot_be_read_is_refused_and_not_quoted(header: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_registry_auth(header)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_builds_config_is_by_host() -> None:
    header = encode({"https://index.docker.io/v1/": {"username": "u", "password": "p"}, "r.example.com": {}})
    assert decode_registry_config(header) == {"docker.io": Credentials("u", "p")}


@pytest.mark.parametrize(
    ("address", "host"),
    [("https://index.docker.io/v1/", "docker.io"), ("", "docker.io"), ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000")],
)
def test_server_addresses_are_hosts(address: str, host: str) -> None:
    assert registry_host(address) == server_address_of({"serveraddress": address}) == host


def test_secrets_are_not_in_the_repr() -> None:
    found = credentials_of({"username": "u", "password": "hunter2", "identitytoken": "t0ken"})
    assert "hunter2" not in repr(found)
    assert "t0ken" not in repr(found)
