"""What the distribution client makes of a registry that hangs, drops, lies and refuses: an error, or the true bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scow.errors import Corrupt, ScowError, Unauthorized, Unavailable
from scow.oci import OCI_INDEX, OCI_MANIFEST, digest_of
from scow.testing.fakes_registry import make_image
from scow_registry_dockerhub import DistributionBackend
from tests.faulty_registry import NOBODY, Fault, Registry, big_manifest, loop_index, serving, spoilt
from tests.unit.dockerhub_kit import BLOB, IMAGE, LAYER, USER, make_backend, push, read, reference, resolve


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as running:
        running.add("library/app", "1", IMAGE)
        yield running


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[DistributionBackend]:
    made = make_backend(tmp_path, timeout_s=0.5)
    yield made
    made.close()


def test_a_registry_that_hangs_is_given_up(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/manifests/", hang=True, times=99)]
    with pytest.raises(Unavailable, match=f"registry {registry.host} does not answer"):
        resolve(backend, reference(registry))


def test_a_blob_that_stops_coming_goes_on_over_another_connection(
    registry: Registry, backend: DistributionBackend
) -> None:
    registry.faults = [Fault("/blobs/", cut=100_000, hang=True)]
    assert read(backend, reference(registry)) == BLOB
    assert registry.sent[LAYER.digest] == len(BLOB)


@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_costs_no_byte_twice(
    reset: bool, registry: Registry, backend: DistributionBackend
) -> None:
    registry.faults = [Fault("/blobs/", cut=100_000, reset=reset), Fault("/blobs/", cut=300_000, reset=reset)]
    assert read(backend, reference(registry)) == BLOB
    assert registry.sent[LAYER.digest] == len(BLOB) or reset  # a reset may take what had not been read


def test_a_registry_that_refuses_every_token_is_asked_twice(registry: Registry, backend: DistributionBackend) -> None:
    registry.auth, registry.users = "never", {"tester": "hunter2"}
    with pytest.raises(Unauthorized):
        resolve(backend, reference(registry), USER)
    assert registry.count("/manifests/") == 2


@pytest.mark.parametrize("length", [-1000, 1000])
def test_a_content_length_that_lies_leaves_the_true_bytes(
    length: int, registry: Registry, backend: DistributionBackend
) -> None:
    registry.faults = [Fault("/blobs/", length=length)]
    assert read(backend, reference(registry)) == BLOB


def test_a_blob_that_ends_early_for_ever_is_unavailable(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/blobs/", change=lambda data: data[: -1 - len(data) // 2], times=99)]
    registry.ranges = False
    with pytest.raises(Unavailable, match="broke off at byte"):
        read(backend, reference(registry))


def test_wrong_bytes_are_handed_on_for_core_to_check(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/blobs/", change=spoilt)]
    assert digest_of(read(backend, reference(registry))) != LAYER.digest


def test_a_manifest_that_is_not_its_digest_is_corrupt(registry: Registry, backend: DistributionBackend) -> None:
    registry.faults = [Fault("/manifests/", change=spoilt)]
    with pytest.raises(Corrupt):
        resolve(backend, reference(registry))


def test_a_tag_may_name_another_image_the_second_time(registry: Registry, backend: DistributionBackend) -> None:
    other = make_image({"etc/": None, "etc/other": "other"})
    registry.replace("library/app", "1", other)
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    assert resolve(backend, reference(registry)) == other.manifest.data


def test_a_manifest_of_100_mb_is_not_read_to_its_end(registry: Registry, backend: DistributionBackend) -> None:
    registry.add_manifest("big", "1", OCI_MANIFEST, big_manifest())
    with pytest.raises(Unavailable, match="longer than 4194304 bytes"):
        resolve(backend, reference(registry, "big:1"))


def test_an_index_that_refers_to_itself_has_not_the_digest_that_it_is_asked_by(
    registry: Registry, backend: DistributionBackend
) -> None:
    registry.add_manifest("loop", "1", OCI_INDEX, loop_index(), NOBODY)
    assert resolve(backend, reference(registry, "loop:1")) == loop_index()
    with pytest.raises(Corrupt):
        resolve(backend, reference(registry, f"loop@{NOBODY}"))


def test_after_every_fault_the_next_request_succeeds(registry: Registry, backend: DistributionBackend) -> None:
    faults = (
        Fault("/v2/", hang=True, times=2),
        Fault("/v2/", cut=10, times=4),
        Fault("/v2/", 503, times=4),
        Fault("/v2/", 401, {"WWW-Authenticate": "nonsense"}),
    )
    for number, fault in enumerate(faults):
        registry.add("library/app", f"v{number}", IMAGE)
        registry.faults = [fault]
        with pytest.raises(ScowError):
            resolve(backend, reference(registry, f"library/app:v{number}"))
        assert fault.times == 0
        assert resolve(backend, reference(registry, f"library/app:v{number}")) == IMAGE.manifest.data


def test_the_registry_sends_no_faster_than_it_is_told_to(registry: Registry, backend: DistributionBackend) -> None:
    registry.rate_bytes_s = len(BLOB) * 4
    start = time.monotonic()
    assert read(backend, reference(registry)) == BLOB
    assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize(
    "text",
    ["http://[bad", "https://[::1", "https://x:y/", "http://h:99999/", "//", "http://", "\x00", "http://a b/", "\xe9"],
)
def test_an_address_that_is_none_is_unavailable(text: str, registry: Registry, backend: DistributionBackend) -> None:
    def asks() -> Iterator[Callable[[], object]]:
        registry.faults = [Fault("/manifests/", 307, {"Location": text}, times=9)]
        yield lambda: resolve(backend, reference(registry))
        registry.faults = [Fault("/manifests/", 401, {"WWW-Authenticate": f'Bearer realm="{text}"'}, times=9)]
        yield lambda: resolve(backend, reference(registry), USER)
        registry.faults = [Fault("POST ", 202, {"Location": text}, times=9)]
        yield lambda: push(backend, reference(registry, "new/app:1"))

    for ask in asks():
        with pytest.raises(Unavailable):
            ask()


def test_tags_without_end_are_given_up(registry: Registry, backend: DistributionBackend) -> None:
    page = b'{"tags": ["' + b"a" * 1_000_000 + b'"]}'
    registry.faults = [
        Fault("tags/list", 200, {"Link": '</v2/library/app/tags/list?more>; rel="next"'}, page, times=99)
    ]
    with pytest.raises(Unavailable, match="longer than"):
        backend.tags(reference(registry), None)
    assert registry.count("tags/list") == 17
