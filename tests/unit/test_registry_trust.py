"""Whom the distribution client believes and what it answers: challenges, endpoints, certificates."""

from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import InvalidArgument, NotFound, Unavailable
from scow.ports import DriverContext
from scow.reference import Reference
from scow_registry_dockerhub import DistributionBackend
from scow_registry_dockerhub.challenge import Challenge, parse_challenges
from scow_registry_dockerhub.endpoints import Endpoints, is_loopback, login_host
from scow_registry_dockerhub.transport import retry_after_s


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


def test_docker_io_is_reached_where_it_is_served() -> None:
    endpoint = Endpoints({}).registry("docker.io")
    assert (endpoint.netloc, endpoint.plain) == ("registry-1.docker.io", False)
    assert endpoint.verify is not False


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
    assert (endpoint.plain, endpoint.verify) == (True, False)


def test_a_mirror_in_the_clear_has_to_be_allowed() -> None:
    with pytest.raises(InvalidArgument, match="plain http"):
        Endpoints({"docker.io": {"mirrors": ["http://mirror.example.com"]}}).reading("docker.io")


def test_mirrors_come_before_the_registry() -> None:
    mirror, registry = Endpoints({"docker.io": {"mirrors": ["https://mirror.example.com/hub/v2/"]}}).reading(
        "docker.io"
    )
    assert (mirror.netloc, mirror.prefix, mirror.mirror) == ("mirror.example.com", "/hub", True)
    assert (registry.host, registry.mirror) == ("docker.io", False)


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


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A TLS server on loopback that answers 404, with a certificate of nobody; its address and the certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Quiet)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", certificate
    server.shutdown()
    server.server_close()
    thread.join()


def resolve(folder: Path, host: str, registries: dict[str, dict[str, object]]) -> None:
    backend = DistributionBackend(DriverContext("dockerhub", folder, folder, {"registries": registries}))
    try:
        backend.resolve(Reference.parse(f"{host}/app:1"), None, lambda line: None)
    finally:
        backend.close()


def test_a_certificate_that_nobody_vouches_for_is_refused_even_on_loopback(
    tls: tuple[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="no valid certificate: self-signed certificate") as caught:
        resolve(tmp_path, tls[0], {})
    assert "ca: FILE" in str(caught.value.hint)


def test_the_authority_in_the_config_is_trusted(tls: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        resolve(tmp_path, tls[0], {tls[0]: {"ca": str(tls[1])}})


def test_an_insecure_registry_may_have_any_certificate(tls: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        resolve(tmp_path, tls[0], {tls[0]: {"insecure": True}})
