"""The distribution client against a registry of our own that asks for tokens, redirects, stumbles and lies."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from scow.errors import Corrupt, NotFound, Unauthorized, Unavailable, Unsupported
from scow.oci import DOCKER_MANIFEST, Descriptor, digest_of
from scow.ports.registry import SearchResult
from scow.reference import Reference
from scow.testing.fakes_registry import make_image
from scow_registry_dockerhub import DistributionBackend
from scow_registry_dockerhub.answers import rate_limit
from scow_registry_dockerhub.endpoints import Endpoints
from tests.faulty_registry import Fault, Registry, serving
from tests.unit.dockerhub_kit import BLOB, IMAGE, LAYER, USER, make_backend, push, read, reference, resolve


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


# who asks


def test_a_redirect_to_another_host_loses_the_authorization(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth = "bearer"
    with serving() as other:
        other.blobs = registry.blobs
        registry.elsewhere = other.host
        assert read(backend, reference(registry)) == BLOB
        assert other.asked and not any("Authorization" in asked.headers for asked in other.asked)
    assert any("Authorization" in asked.headers for asked in registry.asked)


def test_a_redirect_to_plain_http_elsewhere_is_refused(registry: Registry, backend: DistributionBackend) -> None:
    registry.elsewhere = "cdn.example.com"
    with pytest.raises(Unavailable, match="redirects from https to http"):
        read(backend, reference(registry))


def test_redirects_without_end_are_given_up(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/blobs/", 302, {"Location": f"/v2/library/app/blobs/{LAYER.digest}"}, times=99)]
    with pytest.raises(Unavailable, match="redirects without end"):
        read(backend, reference(registry))


# manifests


def test_a_digest_header_that_lies_is_corrupt(registry: Registry, backend: DistributionBackend) -> None:
    registry.digest_header = "sha256:" + "1" * 64
    with pytest.raises(Corrupt, match="calls it sha256:1111"):
        resolve(backend, reference(registry))


def test_a_manifest_by_digest_must_have_that_digest(registry: Registry, backend: DistributionBackend) -> None:
    wrong = "sha256:" + "2" * 64
    registry.manifests["library/app", wrong] = (DOCKER_MANIFEST, b'{"schemaVersion": 2}')
    registry.digest_header = wrong
    with pytest.raises(Corrupt):
        resolve(backend, reference(registry, f"library/app@{wrong}"))


def test_what_is_not_there_is_not_found_as_docker_says_it(registry: Registry, backend: DistributionBackend) -> None:
    with pytest.raises(NotFound, match="manifest for .*/nope:1 not found: manifest unknown: manifest unknown"):
        resolve(backend, reference(registry, "nope:1"))


def test_a_manifest_that_is_still_the_same_is_not_read_again(registry: Registry, backend: DistributionBackend) -> None:
    for _ in range(3):
        assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    asked = [asked for asked in registry.asked if "/manifests/" in asked.path]
    assert [one.method for one in asked] == ["GET", "HEAD", "HEAD"]
    assert asked[1].headers["Accept"] == asked[0].headers["Accept"]


def test_a_manifest_that_changed_is_read(registry: Registry, backend: DistributionBackend) -> None:
    other = make_image({"etc/": None, "etc/other": "other"})
    resolve(backend, reference(registry))
    registry.add("library/app", "1", other)
    assert resolve(backend, reference(registry)) == other.manifest.data


def test_a_manifest_is_told_to_nobody_who_may_not_read_it(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "basic", {"tester": "hunter2"}
    resolve(backend, reference(registry), USER)
    with pytest.raises(Unauthorized):
        resolve(backend, reference(registry))
    registry.faults = [Fault("HEAD ", 405)]
    assert resolve(backend, reference(registry), USER) == IMAGE.manifest.data


def test_schema_1_is_unsupported(registry: Registry, backend: DistributionBackend) -> None:
    registry.manifests["old", "1"] = (
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        b'{"schemaVersion": 1}',
    )
    with pytest.raises(Unsupported, match="schema 1"):
        resolve(backend, reference(registry, "old:1"))


def test_all_four_manifest_types_are_accepted(registry: Registry, backend: DistributionBackend) -> None:
    resolve(backend, reference(registry))
    accept = next(asked for asked in registry.asked if "/manifests/" in asked.path).headers["Accept"]
    assert accept.count(",") == 3


def test_an_endless_manifest_is_given_up(registry: Registry, backend: DistributionBackend) -> None:
    registry.manifests["big", "1"] = (DOCKER_MANIFEST, b" " * (5 << 20))
    with pytest.raises(Unavailable, match="longer than"):
        resolve(backend, reference(registry, "big:1"))


def test_tags_are_read_over_all_pages(registry: Registry, backend: DistributionBackend) -> None:
    for number in range(7):
        registry.add("library/app", f"v{number}", IMAGE)
    registry.page = 3
    assert backend.tags(reference(registry), None) == ["1", *(f"v{number}" for number in range(7))]


# stumbling


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_overloaded_registry_is_asked_again(status: int, registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/manifests/", status, times=2)]
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    assert registry.count("/manifests/") == 3


def test_retry_after_is_honoured(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/manifests/", 429, {"Retry-After": "1"})]
    start = time.monotonic()
    resolve(backend, reference(registry))
    assert time.monotonic() - start >= 1


def test_a_limit_that_lasts_is_reported_at_once(registry: Registry, backend: DistributionBackend) -> None:
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "pull rate limit"}]}'
    registry.faults = [Fault("/manifests/", 429, {"Retry-After": "3600"}, body, times=9)]
    with pytest.raises(Unavailable, match="toomanyrequests: pull rate limit") as caught:
        resolve(backend, reference(registry))
    assert str(caught.value.hint).startswith("try again in 3600 s, or log in with: docker login 127.0.0.1:")
    assert registry.count("/manifests/") == 1


def test_docker_hubs_limit_is_told_and_not_asked_for_again(registry: Registry, backend: DistributionBackend) -> None:
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}'
    headers = {
        "RateLimit-Limit": "100;w=21600",
        "RateLimit-Remaining": "0;w=21600",
        "Docker-RateLimit-Source": "192.0.2.1",
    }
    registry.faults = [Fault("/manifests/", 429, headers, body, times=9)]
    with pytest.raises(Unavailable, match=r"toomanyrequests: You have reached your pull rate limit\.") as caught:
        resolve(backend, reference(registry))
    assert str(caught.value.hint).startswith("100 pulls in 6 h are allowed to 192.0.2.1; try again later, or log in")
    assert registry.count("/manifests/") == 1


@pytest.mark.parametrize(
    ("header", "words"),
    [("200;w=3600", "200 pulls in 1 h are allowed"), ("5;w=90", "5 pulls in 1 min are allowed"), ("x", ""), ("", "")],
)
def test_a_limit_in_words(header: str, words: str) -> None:
    assert rate_limit({"ratelimit-limit": header, "docker-ratelimit-source": "not an address"}) == words


def test_retry_after_may_be_a_date(registry: Registry, backend: DistributionBackend) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    registry.faults = [Fault("/manifests/", 503, {"Retry-After": date})]
    start = time.monotonic()
    resolve(backend, reference(registry))
    assert time.monotonic() - start >= 0.5  # dates have whole seconds


def test_retries_are_bounded(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/manifests/", 503, times=99)]
    with pytest.raises(Unavailable, match=registry.host):
        resolve(backend, reference(registry))
    assert registry.count("/manifests/") == 4


def test_a_download_that_breaks_off_goes_on_where_it_was(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/blobs/", cut=70_000), Fault("/blobs/", cut=5_000), Fault("/blobs/", 503)]
    assert digest_of(read(backend, reference(registry))) == LAYER.digest
    ranges = [asked.headers.get("Range") for asked in registry.asked if "/blobs/" in asked.path]
    assert len(ranges) >= 3
    assert ranges[0] is None and ranges[1] not in (None, "bytes=0-")


def test_a_download_from_an_offset_asks_for_the_rest_only(registry: Registry, backend: DistributionBackend) -> None:
    assert read(backend, reference(registry), 1000) == BLOB[1000:]
    assert registry.asked[-1].headers["Range"] == "bytes=1000-"


def test_a_part_of_a_blob_is_asked_for_by_its_first_and_last_byte(
    registry: Registry, backend: DistributionBackend
) -> None:
    registry.faults = [Fault("/blobs/", cut=5_000)]
    with backend.fetch(reference(registry), LAYER, None, 1000, 20_000) as stream:
        assert stream.read() == BLOB[1000:21_000]
    ranges = [asked.headers["Range"] for asked in registry.asked if "/blobs/" in asked.path]
    assert ranges[0] == "bytes=1000-20999" and len(ranges) == 2 and ranges[1].endswith("-20999")


def test_a_part_is_unsupported_where_the_registry_sends_wholes(
    registry: Registry, backend: DistributionBackend
) -> None:
    registry.ranges = False
    with (
        pytest.raises(Unsupported, match="sends no parts of blobs"),
        backend.fetch(reference(registry), LAYER, None, 1000, 1000) as stream,
    ):
        stream.read()


def test_a_search_answers_what_the_registry_found(registry: Registry, backend: DistributionBackend) -> None:
    registry.found = [
        {"name": "nginx", "description": "Official build", "star_count": 7, "is_official": True},
        {"name": "some/nginx", "description": None, "is_automated": True},
        {"name": "other/nginx"},
    ]
    assert backend.search(registry.host, "nginx & more", 2, None) == [
        SearchResult("nginx", "Official build", 7, official=True),
        SearchResult("some/nginx", automated=True),
    ]
    assert registry.asked[-1].path == "/v1/search?q=nginx+%26+more&n=2"


def test_docker_hub_is_searched_at_its_index() -> None:
    assert Endpoints({}).index("docker.io").netloc == "index.docker.io"


def test_a_registry_without_search_says_so(registry: Registry, backend: DistributionBackend) -> None:
    with pytest.raises(Unsupported, match=f"registry {registry.host} has no search"):
        backend.search(registry.host, "nginx", 25, None)


def test_a_registry_without_ranges_is_read_past_the_offset(registry: Registry, backend: DistributionBackend) -> None:
    registry.ranges = False
    assert read(backend, reference(registry), 1000) == BLOB[1000:]


def test_a_download_that_never_gets_on_is_given_up(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/blobs/", cut=0, times=99)]
    with pytest.raises(Unavailable, match="broke off at byte 0 of"):
        read(backend, reference(registry))


def test_a_closed_port_is_unavailable_by_name(backend: DistributionBackend) -> None:
    with pytest.raises(Unavailable, match="cannot reach registry 127.0.0.1:9: connection refused") as caught:
        resolve(backend, Reference.parse("127.0.0.1:9/app:1"))
    assert caught.value.__cause__ is None


def test_a_closed_backend_waits_for_nothing(registry: Registry, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, retry_pause_s=60)
    registry.faults = [Fault("/manifests/", 503, times=9)]
    resolve_later = backend.resolve
    backend.login(registry.host, USER)  # the client is made
    backend.close()
    with pytest.raises(Unavailable, match="closed"):
        resolve_later(reference(registry), None, lambda line: None)


# what is pushed


def test_one_connection_does_for_requests_that_follow_each_other(
    registry: Registry, backend: DistributionBackend
) -> None:
    registry.auth, registry.users = "bearer", {"tester": "hunter2"}
    registry.faults = [Fault("/manifests/", 503)]
    resolve(backend, reference(registry), USER)
    read(backend, reference(registry), who=USER)
    push(backend, reference(registry, "new/app:1"), USER)
    backend.push_manifest(reference(registry, "new/app:1"), IMAGE.manifest, USER)
    assert len(registry.asked) >= 10
    assert registry.connections <= 3  # two more: to see whether it is TLS, and for the token while a 401 waits


def test_a_blob_is_pushed_in_one_request_after_asking(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "bearer", {"tester": "hunter2"}
    assert push(backend, reference(registry, "new/app:1"), USER) == (True, len(BLOB))
    asked = [asked for asked in registry.asked if "/new/app/blobs/" in asked.path]
    assert [one.method for one in asked if "Authorization" in one.headers] == ["HEAD", "POST", "PUT"]
    assert registry.blobs["new/app", LAYER.digest] == BLOB


def test_a_blob_that_is_there_is_not_pushed(registry: Registry, backend: DistributionBackend) -> None:
    assert push(backend, reference(registry)) == (False, 0)


def test_a_blob_is_mounted_from_where_it_is(registry: Registry, backend: DistributionBackend) -> None:
    ref = reference(registry, "new/app:1")
    assert push(backend, ref, mount_from=["other/app", "library/app"]) == (False, 0)
    assert registry.blobs["new/app", LAYER.digest] == BLOB


def test_an_upload_that_fails_is_begun_anew_and_counted_once(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("PUT ", 500), Fault("PUT ", 404)]
    assert push(backend, reference(registry, "new/app:1")) == (True, len(BLOB))


def test_an_upload_is_not_sent_to_plain_http_elsewhere(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("POST ", 202, {"Location": "http://uploads.example.com/x"}, times=9)]
    with pytest.raises(Unavailable, match="redirects from https to http"):
        push(backend, reference(registry, "new/app:1"))


def test_an_upload_elsewhere_is_sent_without_authorization(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "basic", {"tester": "hunter2"}
    with serving() as other:
        location = f"http://{other.host}/v2/x/blobs/uploads/session"
        backend.login(registry.host, USER)
        registry.faults = [Fault("POST ", 202, {"Location": location})]
        push(backend, reference(registry, "new/app:1"), USER)
        assert [asked.method for asked in other.asked if "Authorization" in asked.headers] == []
        assert other.count("PUT ") == 1


def test_a_manifest_is_put_under_its_tag_with_its_type(registry: Registry, backend: DistributionBackend) -> None:
    backend.push_manifest(reference(registry, "new/app:2"), IMAGE.manifest, None)
    assert registry.manifests["new/app", "2"] == (IMAGE.manifest.descriptor.media_type, IMAGE.manifest.data)


def test_a_refused_push_is_unauthorized(registry: Registry, backend: DistributionBackend) -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}'
    registry.faults = [Fault("PUT ", 403, {}, body)]
    with pytest.raises(Unauthorized, match="denied: requested access to the resource is denied"):
        backend.push_manifest(reference(registry, "new/app:2"), IMAGE.manifest, None)


def test_blobs_are_bounded_by_their_descriptor(registry: Registry, backend: DistributionBackend) -> None:
    short = Descriptor(LAYER.media_type, LAYER.digest, 1000)
    with backend.fetch(reference(registry), short, None) as stream:
        assert stream.read() == BLOB[:1000]


def test_requests_is_not_imported_before_a_registry_is_spoken_to() -> None:
    code = (
        "import sys; from pathlib import Path; from scow.ports import DriverContext\n"
        "from scow_registry_dockerhub import DistributionBackend\n"
        "DistributionBackend(DriverContext('dockerhub', Path('/'), Path('/'))).check()\n"
        "assert 'requests' not in sys.modules and 'urllib3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
