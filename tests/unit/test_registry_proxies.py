"""Proxies on the way to a registry: from the config or the environment, with a password, and which hosts need none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.config import ProxyConfig
from scow.errors import Unavailable
from scow.reference import Reference
from scow_registry_dockerhub.proxies import Proxies
from tests.certificates import Authority
from tests.faulty_registry import serving
from tests.proxy import Proxy
from tests.unit.dockerhub_kit import BLOB, IMAGE, make_backend, push, read, resolve

HOST = "registry.test"
REF = Reference.parse(f"{HOST}/library/app:1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), HOST)


@pytest.fixture
def certs_dir(authority: Authority, tmp_path: Path) -> Iterator[Path]:
    authority.trust(tmp_path / "certs.d", HOST)
    yield tmp_path / "certs.d"


def test_a_registry_is_reached_through_a_tunnel_that_sees_its_name_only(
    authority: Authority, certs_dir: Path, tmp_path: Path
) -> None:
    with serving(authority.server()) as registry, Proxy(registry.host) as proxy:
        registry.add("library/app", "1", IMAGE)
        backend = make_backend(tmp_path, certs_dir=certs_dir, proxy={"https": f"http://{proxy.address}"})
        assert resolve(backend, REF) == IMAGE.manifest.data
        assert read(backend, REF) == BLOB
        assert push(backend, Reference.parse(f"{HOST}/new/app:1")) == (True, len(BLOB))
        assert {line[:-1] for line in proxy.heard if " HTTP/1." in line} == {f"CONNECT {HOST}:443 HTTP/1."}
        backend.close()


def test_a_proxy_that_wants_a_password_gets_it_and_nobody_else_does(
    authority: Authority, certs_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(authority.server()) as registry, Proxy(registry.host, "user:s3cret") as proxy:
        registry.add("library/app", "1", IMAGE)
        good = make_backend(tmp_path, certs_dir=certs_dir, proxy={"https": f"user:s3cret@{proxy.address}"})
        assert resolve(good, REF) == IMAGE.manifest.data
        assert not any("Proxy-Authorization" in asked.headers for asked in registry.asked)
        bad = make_backend(tmp_path, certs_dir=certs_dir, proxy={"https": f"user:other-s3cret@{proxy.address}"})
        with pytest.raises(Unavailable, match=f"{HOST} through the proxy: it answered 407 proxy authentication") as no:
            resolve(bad, REF)
        assert "s3cret" not in f"{no.value!r} {no.value.__cause__!r} {caplog.text}"
        good.close()
        bad.close()


def test_plain_http_is_spoken_through_a_proxy_too(tmp_path: Path) -> None:
    with serving() as registry, Proxy(registry.host) as proxy:
        registry.add("library/app", "1", IMAGE)
        options = {"registries": {HOST: {"insecure": True}}, "proxy": {"http": f"http://{proxy.address}"}}
        backend = make_backend(tmp_path, **options, retry_pause_s=0.01)
        backend._client().transport._schemes[HOST] = (
            "http",
            float("inf"),
        )  # the proxy would answer a probe with nothing
        assert resolve(backend, REF) == IMAGE.manifest.data
        assert f"GET http://{HOST}/v2/library/app/manifests/1 HTTP/1.1" in proxy.heard
        backend.close()


def test_a_proxy_that_is_down_is_told_from_a_registry_that_is(certs_dir: Path, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, certs_dir=certs_dir, proxy={"https": "http://user:s3cret@127.0.0.1:9"})
    with pytest.raises(Unavailable, match=f"cannot reach registry {HOST} through the proxy: ") as caught:
        resolve(backend, REF)
    assert "s3cret" not in str(caught.value)
    backend.close()


def test_a_registry_that_speaks_plain_http_is_told_from_one_that_fails(tmp_path: Path) -> None:
    with serving() as registry, Proxy(registry.host) as proxy:
        backend = make_backend(tmp_path, proxy=ProxyConfig(https=f"http://{proxy.address}"))
        with pytest.raises(Unavailable, match=f"cannot speak TLS with registry {HOST}") as caught:
            resolve(backend, REF)
        assert "insecure: true" in str(caught.value.hint)
        assert registry.asked == []
        backend.close()


def test_the_config_counts_more_than_the_environment() -> None:
    environ = {"HTTPS_PROXY": "http://other:1", "no_proxy": "*", "NO_PROXY": "unused"}
    assert Proxies(environ=environ).of("https://a.example.com/") == ""
    assert Proxies(https="http://mine:1", no_proxy=["b"], environ=environ).of("https://a/") == "http://mine:1"
    assert Proxies(no_proxy=["b"], environ=environ).of("https://a/") == "http://other:1"
    assert Proxies(no_proxy=["b"], environ=environ).of("http://a/") == ""
    assert Proxies(environ={"HTTPS_PROXY": "proxy:3128"}).of("https://a/") == "http://proxy:3128"


@pytest.mark.parametrize("url", ["https://127.0.0.1:5000/v2/", "https://localhost/", "https://[::1]:5000/"])
def test_this_machine_is_reached_without_a_proxy(url: str) -> None:
    assert Proxies(https="http://proxy:1", environ={}).of(url) == ""


@pytest.mark.parametrize(
    ("entry", "direct", "not_direct"),
    [
        ("*", ["https://a/"], []),
        ("example.com", ["https://example.com/", "https://a.b.EXAMPLE.com:5000/"], ["https://badexample.com/"]),
        (".example.com", ["https://a.example.com/"], ["https://example.com/"]),
        ("*.example.com", ["https://a.example.com/"], ["https://example.com/"]),
        ("example.com:5000", ["https://example.com:5000/"], ["https://example.com/"]),
        ("example.com:443", ["https://example.com/"], ["https://example.com:5000/"]),
        ("10.0.0.0/8", ["https://10.9.8.7:5000/"], ["https://11.0.0.1/", "https://ten.example.com/"]),
        ("10.1.2.3", ["https://10.1.2.3/"], ["https://10.1.2.30/"]),
        ("10.1.2.3:80", [], ["https://10.1.2.3/"]),
        ("fd00::/8", ["https://[fd00::1]:5000/"], ["https://[fe80::1]/"]),
    ],
)
def test_what_no_proxy_means(entry: str, direct: list[str], not_direct: list[str]) -> None:
    proxies = Proxies(https="http://proxy:1", environ={"NO_PROXY": f" other , {entry}"})
    assert [proxies.of(url) for url in direct] == [""] * len(direct)
    assert [proxies.of(url) for url in not_direct] == ["http://proxy:1"] * len(not_direct)
