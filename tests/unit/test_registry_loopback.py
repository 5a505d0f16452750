"""A registry elsewhere cannot make the engine speak to what listens on this machine's loopback, or to another host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import Unavailable
from scow.ports import DriverContext
from scow.reference import Reference
from scow_registry_dockerhub import DistributionBackend
from scow_registry_dockerhub.endpoints import Endpoints
from scow_registry_dockerhub.proxies import Proxies
from scow_registry_dockerhub.tokens import Tokens
from scow_registry_dockerhub.transport import Transport
from tests.faulty_registry import Fault, serving

ELSEWHERE = "https://registry.example.com/v2/a/blobs/x"


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport(Endpoints({}), Proxies(environ={}))
    yield transport
    transport.close()


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:2375/info",
        "https://localhost/x",
        "http://[::1]:80/",
        "file:///etc/passwd",
        "http://10.0.0.1/x",
    ],
)
def test_a_redirect_to_this_machine_or_to_a_file_is_refused(transport: Transport, target: str) -> None:
    with pytest.raises(Unavailable):
        transport.check_target(ELSEWHERE, target)


def test_a_registry_on_loopback_may_redirect_there(transport: Transport) -> None:
    transport.check_target("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/x")


@pytest.mark.parametrize("realm", ["http://127.0.0.1:8080/token", "https://localhost/token", "file:///token"])
def test_credentials_are_not_sent_to_this_machine_for_a_registry_elsewhere(transport: Transport, realm: str) -> None:
    endpoints = Endpoints({})
    tokens = Tokens(transport, endpoints)
    with pytest.raises(Unavailable, match="wants credentials"):
        tokens._check_realm(endpoints.registry("registry.example.com"), realm)


@pytest.mark.parametrize("link", ["x:.evil.example/tags", "x:@127.0.0.1/tags"])
def test_a_link_to_more_tags_does_not_become_part_of_the_hosts_name(tmp_path: Path, link: str) -> None:
    with serving() as registry:
        headers = {"Link": f'<{link}>; rel="next"'}
        registry.faults.append(Fault("tags/list", status=200, headers=headers, body=b'{"tags":["a"]}'))
        backend = DistributionBackend(DriverContext("dockerhub", tmp_path, tmp_path, {"retry_pause_s": 0.01}))
        try:
            with pytest.raises(Unavailable, match="invalid link"):
                backend.tags(Reference.parse(f"{registry.host}/a/b"), None)
        finally:
            backend.close()
