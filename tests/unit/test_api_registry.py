"""``/auth``, ``/images/search`` and ``/distribution`` over the API, on registries in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from scow.engine.drivers import Drivers
from scow.engine.registries import Registries
from scow.oci import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, Descriptor, Platform, digest_of
from scow.ports.registry import Credentials, Manifest, SearchResult
from scow.testing.fakes_daemon import FakeDaemon
from scow.testing.fakes_registry import FakeRegistry, make_image
from tests.unit.api_client import Client
from tests.unit.image_kit import FakeHost

ARM = Platform("linux", "arm64", "v8")
IMAGE = make_image({"etc/": None}, platform=ARM)


class SearchableRegistry(FakeRegistry):
    """One whose searches find *results*, whatever is looked for."""

    results: list[SearchResult] = []

    def search(self, host: str, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        super().search(host, term, limit, credentials)
        return self.results[:limit]


@pytest.fixture
def host() -> Iterator[FakeHost]:
    host = FakeHost(SearchableRegistry())
    yield host
    host.close()


@pytest.fixture
def client(tmp_path: Path, host: FakeHost) -> Iterator[Client]:
    with FakeDaemon(tmp_path) as daemon:
        registries = Registries(host, Drivers(host), "dockerhub")  # type: ignore[arg-type]
        daemon.engine.images.registries = registries  # type: ignore[attr-defined]
        yield Client(daemon)


def auth(value: object) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(value).encode()).decode()}


# --- auth ---------------------------------------------------------------


def test_credentials_are_tried_at_their_registry(client: Client, host: FakeHost) -> None:
    host.registry.users = {"reader": "s3cret"}
    body = {"username": "reader", "password": "s3cret", "serveraddress": "https://index.docker.io/v1/"}
    reply = client.post("/auth", body)
    assert (reply.status, reply.json) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    assert host.registry.calls == [("login", "docker.io", "reader")]
    reply = client.post("/auth", {**body, "password": "wr0ng"})
    assert reply.status == 401
    assert "wr0ng" not in reply.body.decode()


def test_credentials_of_nobody_are_refused_and_others_not_quoted(client: Client) -> None:
    assert client.post("/auth", {}).status == 400
    reply = client.post("/auth", {"username": "x", "password": ["s3cret"]})
    assert reply.status == 400
    assert "s3cret" not in reply.body.decode()


# --- search -------------------------------------------------------------


def test_a_search_shows_what_the_registry_says(client: Client, host: FakeHost) -> None:
    SearchableRegistry.results = [
        SearchResult("nginx", "a server", 20000, official=True),
        SearchResult("bitnami/nginx", "another", 200, automated=True),
        SearchResult("me/nginx", "mine", 0),
    ]
    found = client.get("/images/search?term=library/nginx").json
    assert found[0] == {
        "star_count": 20000,
        "is_official": True,
        "name": "nginx",
        "is_automated": False,
        "description": "a server",
    }
    assert [result["is_automated"] for result in found] == [False] * 3
    assert host.registry.calls == [("search", "docker.io", "nginx")]
    assert len(client.get("/images/search?term=nginx&limit=2").json) == 2


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"is-official": ["true"]}, ["nginx"]),
        ({"is-official": ["0"]}, ["bitnami/nginx", "me/nginx"]),
        ({"is-automated": ["true"]}, ["bitnami/nginx"]),
        ({"stars": ["100"]}, ["nginx", "bitnami/nginx"]),
        ({"stars": ["1", "1000"]}, ["nginx"]),
        ({"stars": ["1"], "is-official": ["false"]}, ["bitnami/nginx"]),
    ],
)
def test_filters_leave_out_the_others(client: Client, filters: dict[str, list[str]], names: list[str]) -> None:
    found = client.get(f"/images/search?term=nginx&filters={quote(json.dumps(filters))}").json
    assert [result["name"] for result in found] == names


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("term=", "a search needs a term"),
        ("term=https://docker.io/nginx", "should not have a scheme"),
        ("term=nginx&limit=101", "limit 101 is outside the range of [1, 100]"),
        ("term=nginx&limit=-1", "limit -1 is outside the range of [1, 100]"),
        ("term=nginx&limit=x", "not a number"),
        ('term=nginx&filters={"stars":["many"]}', "invalid filter 'stars=['many']'"),
        ('term=nginx&filters={"is-official":["perhaps"]}', "invalid filter 'is-official=['perhaps']'"),
        ('term=nginx&filters={"size":["1"]}', "invalid filter 'size'"),
    ],
)
def test_a_bad_search_is_refused(client: Client, query: str, words: str) -> None:
    reply = client.get("/images/search?" + query.replace('"', "%22"))
    assert reply.status == 400
    assert words in reply.json["message"]


def test_a_term_may_begin_with_another_registry(client: Client, host: FakeHost) -> None:
    client.get("/images/search?term=other.example/team/nginx")
    assert host.other.calls == [("search", "other.example", "team/nginx")]
    assert host.registry.calls == []


# --- distribution -------------------------------------------------------


def test_an_image_is_inspected_without_a_pull(client: Client, host: FakeHost) -> None:
    host.registry.add("library/app", "1", IMAGE)
    told = client.get("/distribution/app:1/json").json
    descriptor = IMAGE.manifest.descriptor
    assert told == {
        "Descriptor": {"mediaType": OCI_MANIFEST, "digest": descriptor.digest, "size": descriptor.size_bytes},
        "Platforms": [{"architecture": "arm64", "os": "linux", "variant": "v8"}],
    }
    assert all(layer.digest not in host.registry.fetched for layer in IMAGE.layers)
    by_digest = client.get(f"/distribution/app@{descriptor.digest}/json").json
    assert by_digest == told


def test_an_index_is_shown_with_its_platforms_and_no_member_is_asked_for(client: Client, host: FakeHost) -> None:
    index = host.registry.add_index("library/app", "latest", IMAGE, make_image({"a": "b"}))
    told = client.get("/distribution/app/json").json
    assert told["Descriptor"]["mediaType"] == OCI_INDEX
    assert told["Descriptor"]["digest"] == index.descriptor.digest
    assert [platform["architecture"] for platform in told["Platforms"]] == ["arm64", Platform.host().architecture]
    assert [call[0] for call in host.registry.calls] == ["resolve"]


def test_every_field_of_a_platform_is_shown(client: Client, host: FakeHost) -> None:
    member = {
        **IMAGE.manifest.descriptor.to_json(),
        "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.1", "os.features": ["win32k"]},
    }
    put(host, DOCKER_INDEX, {"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": [member, {"digest": "x"}]})
    assert client.get("/distribution/app/json").json["Platforms"] == [
        {"architecture": "amd64", "os": "windows", "os.version": "10.0.1", "os.features": ["win32k"]}
    ]


def put(host: FakeHost, media_type: str, document: object) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    manifest = Manifest(Descriptor(media_type, digest_of(body), len(body)), body)
    host.registry._put(host.registry._repositories["library/app"], "latest", manifest)


@pytest.mark.parametrize(
    ("document", "platforms"),
    [
        ({"manifests": {"a": 1}}, []),
        ({"manifests": ["x", None, 7, {"platform": "linux"}, {"platform": {"os": "linux"}}]}, [{"os": "linux"}]),
        ({"manifests": None}, []),
    ],
)
def test_members_that_are_none_are_left_out(
    client: Client, host: FakeHost, document: dict[str, object], platforms: list[object]
) -> None:
    put(host, OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, **document})
    assert client.get("/distribution/app/json").json["Platforms"] == platforms


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        (b"no json", 500, "is not JSON"),
        ([], 500, "is not a JSON object"),
        (b" " * (9 << 20), 500, "is larger than"),
        ({"schemaVersion": 2, "config": None, "layers": []}, 400, "invalid descriptor"),
        ({"schemaVersion": 1, "mediaType": "x"}, 501, "schema version 1"),
        ({"config": {"mediaType": "x", "digest": "sha256:" + "a" * 64, "size": 9 << 20}, "layers": []}, 500, "larger"),
        ({"config": {"mediaType": "x", "digest": "sha256:" + "a" * 64, "size": 2}, "layers": []}, 404, "not found"),
        ({"config": {"mediaType": "x", "digest": "../../etc/passwd", "size": 2}, "layers": []}, 400, "invalid digest"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error(
    client: Client, host: FakeHost, document: object, status: int, words: str
) -> None:
    put(host, OCI_MANIFEST if isinstance(document, bytes | list) else "", document)
    reply = client.get("/distribution/app/json")
    assert (reply.status, words in reply.json["message"]) == (status, True), reply.json
    host.registry.add("library/app", "latest", IMAGE)
    assert client.get("/distribution/app/json").status == 200


def test_what_is_not_there_or_not_allowed_is_told(client: Client, host: FakeHost) -> None:
    assert client.get("/distribution/nothing:1/json").status == 404
    assert client.get("/distribution/NoName/json").status == 400
    host.registry.users = {"reader": "s3cret"}
    host.registry.add("library/app", "1", IMAGE)
    assert client.get("/distribution/app:1/json").status == 401
    header = auth({"username": "reader", "password": "s3cret"})
    assert client.call("GET", "/distribution/app:1/json", headers=header).status == 200


def test_an_image_config_of_other_bytes_is_an_error(client: Client, host: FakeHost) -> None:
    host.registry.add("library/app", "1", IMAGE)
    host.registry.serve_wrong(IMAGE.config.digest)
    reply = client.get("/distribution/app:1/json")
    assert reply.status == 500
    assert "image config verification failed" in reply.json["message"]
    assert client.get("/distribution/app:1/json").status == 200


# --- who asks -----------------------------------------------------------


def test_a_plugin_is_asked_where_the_client_sends_nothing(client: Client, host: FakeHost) -> None:
    host.registry.users = {"reader": "s3cret", "plugin": "t0ken"}
    host.registry.add("library/app", "1", IMAGE)
    host.credentials = Credentials("plugin", "t0ken")
    assert client.get("/distribution/app:1/json").status == 200
    assert client.get("/images/search?term=app").status == 200
    wrong = auth({"username": "reader", "password": "wrong"})  # what the client sends goes first, right or wrong
    assert client.call("GET", "/distribution/app:1/json", headers=wrong).status == 401
    assert client.call("GET", "/images/search?term=app", headers=wrong).status == 401
    nobody = auth({})
    assert client.call("GET", "/distribution/app:1/json", headers=nobody).status == 200
