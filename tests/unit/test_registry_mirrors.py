"""Mirrors: which are asked for what, in which order, under which name, and what happens where one fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import InvalidArgument, NotFound, Unavailable
from scow.reference import Reference
from scow_registry_dockerhub.endpoints import Endpoints
from tests.faulty_registry import Fault, Registry, serving, spoilt
from tests.unit.dockerhub_kit import BLOB, IMAGE, USER, make_backend, push, read, reference, resolve


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as running:
        running.add("library/app", "1", IMAGE)
        yield running


@pytest.fixture
def mirror() -> Iterator[Registry]:
    with serving() as running:
        running.add("library/app", "1", IMAGE)
        yield running


def test_a_mirror_is_asked_first_and_without_credentials(registry: Registry, mirror: Registry, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [mirror.host]}})
    assert resolve(backend, reference(registry), USER) == IMAGE.manifest.data
    assert read(backend, reference(registry), who=USER) == BLOB
    assert registry.asked == []
    assert not any("Authorization" in asked.headers for asked in mirror.asked)
    backend.close()


def test_a_push_goes_to_the_registry_itself(registry: Registry, mirror: Registry, tmp_path: Path) -> None:
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [mirror.host]}})
    assert push(backend, reference(registry, "new/app:1")) == (True, len(BLOB))
    assert mirror.asked == []
    backend.close()


def test_a_mirror_that_lacks_it_is_passed_over(registry: Registry, tmp_path: Path) -> None:
    with serving() as empty:
        backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [empty.host]}})
        assert resolve(backend, reference(registry)) == IMAGE.manifest.data
        assert read(backend, reference(registry)) == BLOB
        assert empty.count("/v2/library/app/") == 2
        backend.close()


def test_a_mirror_that_cannot_be_reached_is_not_asked_for_each_blob(registry: Registry, tmp_path: Path) -> None:
    with serving() as broken:
        broken.faults = [Fault("/v2/", 503, times=99)]
        backend = make_backend(tmp_path, registries={registry.host: {"mirrors": ["127.0.0.1:9", broken.host]}})
        for _ in range(3):
            assert resolve(backend, reference(registry)) == IMAGE.manifest.data
            assert read(backend, reference(registry)) == BLOB
        assert broken.count("/v2/") == 1
        backend.close()


def test_what_a_mirror_holds_under_a_digest_that_it_has_not_comes_from_the_registry(
    registry: Registry, mirror: Registry, tmp_path: Path
) -> None:
    mirror.faults = [Fault("/manifests/", change=spoilt, times=9)]
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [mirror.host]}})
    assert resolve(backend, reference(registry, f"library/app@{IMAGE.manifest.descriptor.digest}")) == (
        IMAGE.manifest.data
    )
    assert mirror.count("/manifests/") == 1
    backend.close()


def test_a_blob_that_a_mirror_has_wrong_comes_from_the_registry_when_it_is_asked_for_again(
    registry: Registry, mirror: Registry, tmp_path: Path
) -> None:
    mirror.faults = [Fault("/blobs/", change=spoilt, times=99)]
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [mirror.host]}})
    assert read(backend, reference(registry)) == spoilt(BLOB)  # core sees that, and asks for it anew
    assert read(backend, reference(registry)) == BLOB
    backend.close()


def test_a_mirror_is_asked_again_where_the_registry_cannot_be_reached(mirror: Registry, tmp_path: Path) -> None:
    with serving() as gone:
        ref = reference(gone)
    backend = make_backend(tmp_path, registries={ref.host: {"mirrors": [mirror.host]}})
    for _ in range(3):
        assert read(backend, ref) == BLOB
    with pytest.raises(Unavailable, match=f"cannot reach registry {ref.host}"):
        resolve(backend, ref.with_tag("9"))
    backend.close()


def test_a_download_that_a_mirror_breaks_off_goes_on_elsewhere(
    registry: Registry, mirror: Registry, tmp_path: Path
) -> None:
    mirror.faults = [Fault("/blobs/", cut=100_000), Fault("/blobs/", 404)]
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [mirror.host]}})
    assert read(backend, reference(registry)) == BLOB
    assert registry.asked[-1].headers["Range"] == "bytes=100000-"
    backend.close()


def test_the_refusal_of_the_registry_is_the_one_that_counts(
    registry: Registry, mirror: Registry, tmp_path: Path
) -> None:
    mirror.faults = [Fault("/v2/", 403, times=9)]
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [mirror.host]}})
    with pytest.raises(NotFound, match=f"{registry.host}/library/app:2 not found"):
        resolve(backend, reference(registry, "library/app:2"))
    backend.close()


@pytest.mark.parametrize("form", ["{}/cache/hub", "http://{}/v2/cache/hub"])
def test_a_mirror_may_hold_it_below_a_namespace(form: str, mirror: Registry, tmp_path: Path) -> None:
    mirror.add("cache/hub/library/app", "7", IMAGE)
    mirror.auth = "bearer"
    backend = make_backend(tmp_path, registries={"docker.io": {"mirrors": [form.format(mirror.host)]}})
    ref = Reference.parse("app:7")
    assert resolve(backend, ref) == IMAGE.manifest.data
    assert read(backend, ref) == BLOB
    assert backend.tags(ref, None) == ["7"]
    assert all(
        "scope=repository%3Acache%2Fhub%2Flibrary%2Fapp%3Apull" in asked.path
        for asked in mirror.asked
        if asked.path.startswith("/token")
    )
    backend.close()


def test_a_mirror_may_be_served_below_a_path(registry: Registry, mirror: Registry, tmp_path: Path) -> None:
    mirror.prefix = "/artifactory/hub"
    backend = make_backend(tmp_path, registries={registry.host: {"mirrors": [f"http://{mirror.host}/artifactory/hub"]}})
    assert resolve(backend, reference(registry)) == IMAGE.manifest.data
    assert read(backend, reference(registry)) == BLOB
    mirror.page = 1
    mirror.add("library/app", "2", IMAGE)
    assert backend.tags(reference(registry), None) == ["1", "2"]
    assert registry.asked == [] and all(asked.path.startswith("/artifactory/hub/v2/") for asked in mirror.asked)
    backend.close()


@pytest.mark.parametrize(
    ("text", "prefix", "namespace"),
    [
        ("mirror.example.com", "", ""),
        ("mirror.example.com/hub", "", "hub"),
        ("https://mirror.example.com/", "", ""),
        ("https://mirror.example.com/v2/", "", ""),
        ("https://mirror.example.com/hub", "/hub", ""),
        ("https://mirror.example.com/hub/v2/", "/hub", ""),
        ("https://mirror.example.com/v2/hub/a", "", "hub/a"),
        ("https://mirror.example.com/x/v2/hub", "/x", "hub"),
    ],
)
def test_where_the_path_of_a_mirror_goes(text: str, prefix: str, namespace: str) -> None:
    mirror, registry = Endpoints({"docker.io": {"mirrors": [text]}}).reading("docker.io", "library/app")
    assert (mirror.netloc, mirror.prefix, mirror.namespace, mirror.mirror) == (
        "mirror.example.com",
        prefix,
        namespace,
        True,
    )
    assert (registry.host, registry.mirror, registry.prefix) == ("docker.io", False, "")


def test_the_longest_entry_that_a_repository_is_below_has_its_mirrors() -> None:
    endpoints = Endpoints(
        {
            "r.example.com": {"mirrors": ["a.example.com"]},
            "r.example.com/team": {"mirrors": ["b.example.com", "c.example.com"]},
            "r.example.com/team/secret": {"mirrors": []},
        }
    )

    def hosts(repository: str) -> list[str]:
        return [endpoint.netloc for endpoint in endpoints.reading("r.example.com", repository)]

    assert hosts("app") == ["a.example.com", "r.example.com"]
    assert hosts("team2/app") == ["a.example.com", "r.example.com"]
    assert hosts("team/app") == ["b.example.com", "c.example.com", "r.example.com"]
    assert hosts("team/secret/app") == ["r.example.com"]


def test_a_mirror_in_the_clear_has_to_be_allowed() -> None:
    with pytest.raises(InvalidArgument, match="plain http"):
        Endpoints({"docker.io": {"mirrors": ["http://mirror.example.com"]}}).reading("docker.io", "a")


@pytest.mark.parametrize(
    "text",
    ["", "https://", "https://user:secret@mirror", "ftp://mirror", "https://m/?x=1", "https://[bad", "https://m:x/"],
)
def test_what_is_no_mirror_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid mirror of registry docker.io") as caught:
        Endpoints({"docker.io": {"mirrors": [text]}}).reading("docker.io", "a")
    assert "secret" not in str(caught.value)
