"""Whom the distribution client believes and what it answers: challenges, endpoints, certificates."""

from __future__ import annotations

import timeit
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.errors import Unavailable
from scow_registry_dockerhub.challenge import Challenge, parse_challenges
from scow_registry_dockerhub.endpoints import Endpoints, is_loopback, login_host
from scow_registry_dockerhub.targets import target_of
from scow_registry_dockerhub.transport import retry_after_s
from tests.properties import properties


def test_a_bearer_challenge_is_read_with_commas_in_its_scope() -> None:
    header = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
    assert parse_challenges(header) == [
        Challenge(
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:a/b:pull,push",
            },
        )
    ]


@pytest.mark.parametrize(
    "header",
    ['Basic realm="a \\"b\\"", Bearer realm="c",error="x"', 'BASIC realm="a \\"b\\"",bearer Realm=c , error=x'],
)
def test_several_challenges_in_one_header_are_told_apart(header: str) -> None:
    basic, bearer = parse_challenges(header)
    assert basic == Challenge("basic", {"realm": 'a "b"'})
    assert bearer == Challenge("bearer", {"realm": "c", "error": "x"})


@pytest.mark.parametrize("header", ["", ",,,", '"""', "=", 'realm="x"', "Negotiate", "Bearer"])
def test_nonsense_is_no_challenge_with_parameters(header: str) -> None:
    assert all(not challenge.parameters for challenge in parse_challenges(header))


@properties(200)
@given(st.text() | st.text(alphabet=' \t,="\\aB', max_size=80))
def test_a_challenge_is_read_whatever_it_is(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower() != ""


@pytest.mark.parametrize("piece", [" ", ",", " ,", "a= ", 'a="', "\\", '"', "a", "a ", '="', 'a="\\'])
def test_a_challenge_is_read_in_linear_time(piece: str) -> None:
    short, long = (
        min(timeit.repeat(lambda text=text: parse_challenges(text), number=1, repeat=3))  # type: ignore[misc]
        for text in ("Basic x=" + piece * 500, "Basic x=" + piece * 4000)
    )
    assert long < 40 * short + 0.05  # eight times as long; cubic was 512 times


@properties(200)
@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]\d+", fullmatch=True))
def test_a_wait_is_a_number_of_seconds_or_nothing(value: str) -> None:
    found = retry_after_s(value)
    assert found is None or found >= 0


@properties(200)
@given(st.text(), st.text())
def test_an_address_is_a_url_or_refused(before: str, named: str) -> None:
    try:
        url = target_of("registry.example.com", f"https://registry.example.com/{before}", named)
    except Unavailable:
        return
    assert url.isascii() and url.isprintable()
    assert urlsplit(url).port != 0


def test_docker_io_is_reached_where_it_is_served() -> None:
    endpoint = Endpoints({}).registry("docker.io")
    assert (endpoint.netloc, endpoint.plain) == ("registry-1.docker.io", False)
    assert endpoint.trust.verify


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"])
def test_loopback_hosts_may_be_spoken_to_in_the_clear(host: str) -> None:
    assert is_loopback(host)
    assert Endpoints({}).registry(host).plain


@pytest.mark.parametrize("host", ["localhost.example.com", "127.example.com", "10.0.0.1:5000", "[::2]:1", ""])
def test_other_hosts_may_not(host: str) -> None:
    assert not is_loopback(host)
    assert not Endpoints({}).plain_allowed(host)


def test_insecure_in_the_config_allows_both_plain_http_and_any_certificate() -> None:
    endpoint = Endpoints({"10.0.0.1:5000": {"insecure": True}}).registry("10.0.0.1:5000")
    assert (endpoint.plain, endpoint.trust.verify) == (True, False)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("", "docker.io"),
        ("registry.example.com:5000", "registry.example.com:5000"),
        ("https://registry.example.com/v2/", "registry.example.com"),
    ],
)
def test_login_addresses_are_hosts(address: str, host: str) -> None:
    assert login_host(address) == host


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_s("") is None
    assert retry_after_s("soon") is None
