"""Whose certificates the distribution client believes, and which it shows: ``certs.d`` as Docker reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import InvalidArgument, Unavailable
from scow_registry_dockerhub import DistributionBackend
from scow_registry_dockerhub.endpoints import Endpoints
from scow_registry_dockerhub.trust import Trust, read_certs_dir
from tests.certificates import Authority
from tests.faulty_registry import Registry, serving
from tests.unit.dockerhub_kit import BLOB, IMAGE, make_backend, push, read, reference, resolve


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def registry(authority: Authority) -> Iterator[Registry]:
    with serving(authority.server()) as running:
        running.add("library/app", "1", IMAGE)
        yield running


@pytest.fixture
def strict(authority: Authority) -> Iterator[Registry]:
    """A registry that asks for client certificates."""
    with serving(authority.server(clients=authority)) as running:
        running.add("library/app", "1", IMAGE)
        yield running


@pytest.fixture
def certs_dir(tmp_path: Path) -> Path:
    return tmp_path / "certs.d"


@pytest.fixture
def backend(tmp_path: Path, certs_dir: Path) -> Iterator[DistributionBackend]:
    made = make_backend(tmp_path, certs_dir=certs_dir)
    yield made
    made.close()


def test_a_certificate_that_nobody_vouches_for_is_refused_even_on_loopback(
    registry: Registry, backend: DistributionBackend
) -> None:
    with pytest.raises(Unavailable, match="no valid certificate: unable to get local issuer") as caught:
        resolve(backend, reference(registry))
    assert f"{registry.host}/ca.crt in certs_dir" in str(caught.value.hint)
    assert registry.asked == []


def test_an_authority_in_certs_d_is_believed(
    registry: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path
) -> None:
    authority.trust(certs_dir, registry.host)
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    assert read(backend, reference(registry)) == BLOB


def test_the_authority_of_another_host_is_not(
    registry: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path
) -> None:
    authority.trust(certs_dir, "127.0.0.1")  # another port is another registry
    with pytest.raises(Unavailable, match="no valid certificate"):
        resolve(backend, reference(registry))


def test_what_is_put_into_certs_d_holds_at_once(
    registry: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    other.trust(certs_dir, registry.host)
    with pytest.raises(Unavailable, match="no valid certificate"):
        resolve(backend, reference(registry))
    authority.trust(certs_dir, registry.host)
    os.utime(certs_dir / registry.host / "ca.crt", ns=(1, 1))
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data


def test_a_client_certificate_in_certs_d_is_shown(
    strict: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path
) -> None:
    authority.trust(certs_dir, strict.host)
    authority.identify(certs_dir, strict.host)
    assert resolve(backend, reference(strict)) == IMAGE.manifest.data
    assert push(backend, reference(strict, "new/app:1")) == (True, len(BLOB))


def test_without_a_client_certificate_the_error_says_where_one_belongs(
    strict: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path
) -> None:
    authority.trust(certs_dir, strict.host)
    with pytest.raises(Unavailable, match="cannot speak TLS with registry .*certificate required") as caught:
        resolve(backend, reference(strict))
    assert f"{strict.host}/client.cert and client.key" in str(caught.value.hint)


def test_a_client_certificate_is_not_shown_to_whom_the_registry_redirects(
    registry: Registry, strict: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path
) -> None:
    authority.trust(certs_dir, registry.host)
    authority.identify(certs_dir, registry.host)
    registry.elsewhere = strict.host
    registry.elsewhere_scheme = "https"
    with pytest.raises(Unavailable, match="certificate required"):
        read(backend, reference(registry))


def test_whom_the_registry_redirects_to_its_authority_may_vouch_for(
    registry: Registry, backend: DistributionBackend, authority: Authority, certs_dir: Path
) -> None:
    authority.trust(certs_dir, registry.host)
    with serving(authority.server()) as other:
        other.blobs = registry.blobs
        registry.elsewhere, registry.elsewhere_scheme = other.host, "https"
        assert read(backend, reference(registry)) == BLOB


def test_the_authority_in_the_config_is_believed(registry: Registry, authority: Authority, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, registries={registry.host: {"ca": str(authority.folder / "ca.pem")}})
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    backend.close()


def test_an_insecure_registry_may_have_any_certificate(registry: Registry, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, registries={registry.host: {"insecure": True}})
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    backend.close()


def test_a_registry_that_changes_from_plain_http_to_tls_is_found_again(
    authority: Authority, backend: DistributionBackend, certs_dir: Path
) -> None:
    with serving() as plain:
        plain.add("library/app", "1", IMAGE)
        assert resolve(backend, reference(plain)) == IMAGE.manifest.data
        ref, port = reference(plain), int(plain.host.rpartition(":")[2])
    authority.trust(certs_dir, ref.host)
    with serving(authority.server(), port=port) as encrypted:
        encrypted.add("library/app", "1", IMAGE)
        with pytest.raises(Unavailable):
            resolve(backend, ref)
        assert resolve(backend, ref) == IMAGE.manifest.data


def test_half_a_pair_is_told_by_name(certs_dir: Path, authority: Authority) -> None:
    authority.identify(certs_dir, "registry.example.com")
    (certs_dir / "registry.example.com" / "client.key").unlink()
    with pytest.raises(InvalidArgument, match=r"client\.cert has no client\.key beside it"):
        read_certs_dir(certs_dir, "registry.example.com")


def test_a_key_of_another_certificate_is_told_by_name(certs_dir: Path, authority: Authority, tmp_path: Path) -> None:
    authority.identify(certs_dir, "a:1")
    Authority(tmp_path / "other").identify(certs_dir, "b:1")
    (certs_dir / "a:1" / "client.key").write_bytes((certs_dir / "b:1" / "client.key").read_bytes())
    with pytest.raises(InvalidArgument, match=r"not the certificate of the key .*client\.key"):
        read_certs_dir(certs_dir, "a:1").context()


def test_an_authority_that_is_none_is_told_by_name(certs_dir: Path) -> None:
    (certs_dir / "a:1").mkdir(parents=True)
    (certs_dir / "a:1" / "ca.crt").write_text("nonsense")
    with pytest.raises(InvalidArgument, match=r"no certificate authority can be read from .*ca\.crt"):
        read_certs_dir(certs_dir, "a:1").context()


@pytest.mark.parametrize("host", ["..", "../x", "a/../..", "", ".", "a/b", "a..b", "-a", "a:1/../../x"])
def test_no_host_leads_out_of_the_folder(host: str, tmp_path: Path) -> None:
    (tmp_path / "x.crt").write_text("")
    (tmp_path / "certs.d").mkdir()
    assert read_certs_dir(tmp_path / "certs.d", host) == Trust()


def test_docker_hubs_certificates_go_by_either_name(certs_dir: Path, authority: Authority) -> None:
    authority.trust(certs_dir, "docker.io")
    authority.trust(certs_dir, "registry-1.docker.io")
    assert len(Endpoints({}, certs_dir).registry("docker.io").trust.authorities) == 2
