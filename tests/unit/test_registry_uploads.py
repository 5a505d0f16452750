"""How the distribution client uploads: in one request or in chunks, going on where an upload broke off."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import InvalidArgument, Unauthorized, Unavailable
from scow.oci import Descriptor, digest_of
from scow_registry_dockerhub import DistributionBackend
from tests.faulty_registry import Fault, Registry, serving
from tests.unit.dockerhub_kit import BLOB, LAYER, USER, make_backend, push, reference

CHUNK = 600_000


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as running:
        yield running


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[DistributionBackend]:
    made = make_backend(tmp_path)
    yield made
    made.close()


@pytest.fixture
def chunked(tmp_path: Path) -> Iterator[DistributionBackend]:
    made = make_backend(tmp_path, chunk_bytes=CHUNK)
    yield made
    made.close()


def ranges(registry: Registry) -> list[tuple[str, str]]:
    """The method and ``Content-Range`` of each request with a part of a blob."""
    found = [asked for asked in registry.asked if asked.method in ("PATCH", "PUT")]
    return [(asked.method, asked.headers.get("Content-Range", "")) for asked in found]


def uploaded(registry: Registry) -> int:
    """How many bytes came in uploads."""
    return sum(len(asked.body) for asked in registry.asked if asked.method in ("PATCH", "PUT"))


def test_a_large_blob_goes_in_chunks_and_the_last_one_finishes_it(
    registry: Registry, chunked: DistributionBackend
) -> None:
    assert push(chunked, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert registry.blobs["new/app", LAYER.digest] == BLOB
    size = len(BLOB)
    assert ranges(registry) == [
        ("PATCH", "0-599999"),
        ("PATCH", "600000-1199999"),
        ("PATCH", "1200000-1799999"),
        ("PUT", f"1800000-{size - 1}"),
    ]
    states = [asked.path.rpartition("state=")[2] for asked in registry.asked if asked.method == "PATCH"]
    assert states == ["0", "600000", "1200000"]  # each goes where the one before said


def test_a_registry_may_want_larger_chunks(registry: Registry, chunked: DistributionBackend) -> None:
    registry.least_chunk = 900_000
    push(chunked, reference(registry, "new/app:1"))
    assert ranges(registry)[0] == ("PATCH", "0-899999")


def test_a_small_blob_goes_in_one_request(registry: Registry, backend: DistributionBackend) -> None:
    push(backend, reference(registry, "new/app:1"))
    assert ranges(registry) == [("PUT", "")]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_that_breaks_off_goes_on_where_the_registry_has_it(
    method: str, registry: Registry, chunked: DistributionBackend
) -> None:
    registry.faults = [Fault(f"{method} ", take=100_000)]
    assert push(chunked, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert registry.blobs["new/app", LAYER.digest] == BLOB
    assert uploaded(registry) == len(BLOB)
    assert registry.count("POST ") == 1


def test_one_request_that_breaks_off_goes_on_with_the_rest(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("PUT ", take=1_500_000)]
    assert push(backend, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert uploaded(registry) == len(BLOB)
    assert ranges(registry)[-1] == ("PUT", f"1500000-{len(BLOB) - 1}")


def test_an_upload_whose_registry_forgot_it_is_begun_anew(registry: Registry, chunked: DistributionBackend) -> None:
    registry.keeps_partial = False
    registry.faults = [Fault("PATCH ", take=100_000, after=1), Fault("GET ", 404)]
    assert push(chunked, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert registry.count("POST ") == 2


def test_an_upload_that_breaks_off_again_and_again_but_gets_on_ends(
    registry: Registry, backend: DistributionBackend
) -> None:
    registry.faults = [Fault("PUT ", take=300_000, times=3)]
    assert push(backend, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert uploaded(registry) == len(BLOB)


def test_a_registry_may_pause_while_it_takes_an_upload(registry: Registry, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, timeout_s=0.5)
    data = bytes(24 << 20)  # more than the sockets hold
    blob = Descriptor("application/octet-stream", digest_of(data), len(data))
    registry.faults = [Fault("PUT ", stall_s=1.5)]
    assert backend.push_blob(reference(registry, "new/app:1"), blob, lambda: io.BytesIO(data), None, lambda count: None)
    assert (registry.count("POST "), registry.count("PUT ")) == (1, 1)
    backend.close()


def test_an_upload_that_never_gets_on_is_given_up(registry: Registry, chunked: DistributionBackend) -> None:
    registry.faults = [Fault("PATCH ", take=0, times=99)]
    with pytest.raises(Unavailable, match=registry.host):
        push(chunked, reference(registry, "new/app:1"))
    assert registry.count("PATCH ") == 4


def test_a_registry_that_keeps_nothing_of_a_chunk_is_given_up(registry: Registry, chunked: DistributionBackend) -> None:
    registry.faults = [
        Fault("PATCH ", 202, {"Location": "/v2/new/app/blobs/uploads/session-0", "Range": "0-0"}, times=99)
    ]
    with pytest.raises(Unavailable, match=f"has 1 bytes of an upload of {len(BLOB)}"):
        push(chunked, reference(registry, "new/app:1"))


def test_a_token_that_is_refused_during_an_upload_is_replaced(registry: Registry, chunked: DistributionBackend) -> None:
    registry.auth, registry.users = "bearer", {"tester": "hunter2"}

    def revoke(line: str) -> None:
        if "state=600000" in line and registry.count("/token") == 1:
            registry.tokens.clear()

    registry.before_answer = revoke
    assert push(chunked, reference(registry, "new/app:1"), USER) == (True, len(BLOB))
    assert uploaded(registry) == len(BLOB) + CHUNK  # that of the refused request, and nothing else, went twice


def test_an_upload_that_is_refused_for_ever_ends(registry: Registry, chunked: DistributionBackend) -> None:
    registry.faults = [Fault("PATCH ", 401, {"WWW-Authenticate": 'Basic realm="x"'}, times=99)]
    with pytest.raises(Unauthorized, match="push access denied"):
        push(chunked, reference(registry, "new/app:1"), USER)
    assert registry.count("PATCH ") == 2


def test_an_upload_waits_as_long_as_it_is_told_to(registry: Registry, chunked: DistributionBackend) -> None:
    registry.faults = [Fault("PATCH ", 429, {"Retry-After": "1"}, after=1)]
    start = time.monotonic()
    assert push(chunked, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert time.monotonic() - start >= 1
    registry.faults = [Fault("PATCH ", 429, {"Retry-After": "3600"}, times=9)]
    with pytest.raises(Unavailable):
        push(chunked, reference(registry, "other/app:1"))


def test_a_blob_that_is_not_its_digest_is_refused_once(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("PUT ", 400, body=b'{"errors": [{"code": "DIGEST_INVALID", "message": "no"}]}', times=9)]
    with pytest.raises(InvalidArgument, match="digest invalid: no"):
        push(backend, reference(registry, "new/app:1"))
    assert registry.count("PUT ") == 1
