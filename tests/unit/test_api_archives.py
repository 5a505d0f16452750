"""``/images/load``, ``/images/get``, ``/commit`` and ``…/export`` on an engine in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from scow.oci import Platform
from scow.testing.fakes_daemon import FakeDaemon
from tests.unit.api_client import Client

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon)


def test_a_load_takes_the_body_as_a_stream_and_tells_its_progress(client: Client, daemon: FakeDaemon) -> None:
    data = bytes(range(256)) * 80_000  # beyond the limit of JSON bodies
    reply = client.post("/images/load", data)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert [line.get("status") for line in reply.lines] == ["Loading layer", None]
    assert daemon.engine.archives.loaded == data
    assert client.post("/images/load?quiet=1", b"x").lines == [{"stream": "Loaded image: busybox:latest\n"}]
    assert daemon.engine.archives.platforms == [None, None]


def test_a_load_that_is_refused_has_a_status_of_its_own(client: Client) -> None:
    reply = client.post("/images/load", b"bad")
    assert (reply.status, reply.json["message"]) == (400, "not an archive of images")


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ('{"os":"linux","architecture":"arm64","variant":"v8"}', Platform("linux", "arm64", "v8")),
        ('{"os":"linux","architecture":"amd64"}', Platform("linux", "amd64")),
        ("linux/amd64", Platform("linux", "amd64")),
        ("", None),
    ],
)
def test_a_platform_is_json_or_text(client: Client, daemon: FakeDaemon, text: str, platform: Platform | None) -> None:
    assert client.get(f"/images/busybox/get?platform={quote(text)}").status == 200
    assert daemon.engine.archives.platforms == [platform]


@pytest.mark.parametrize("text", ['{"os":"linux"}', '{"os":1,"architecture":"x"}', "{", "{}", "a/b/c/d"])
def test_a_platform_that_is_none_is_refused(client: Client, text: str) -> None:
    assert client.get(f"/images/busybox/get?platform={quote(text)}").status == 400


def test_a_save_is_a_tar_of_the_named_images(client: Client, daemon: FakeDaemon) -> None:
    id = client.get("/images/busybox/json").json["Id"].encode()
    reply = client.get("/images/busybox/get")
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "application/x-tar", id)
    assert client.get("/images/get?names=busybox&names=busybox").body == id * 2
    assert client.get("/images/get?names=busybox&names=nothing").status == 404
    assert client.get("/images/get").status == 400
    assert daemon.engine.archives.closed == 2


def test_an_export_that_fails_on_its_way_is_cut_off(client: Client, daemon: FakeDaemon) -> None:
    reply = client.get("/containers/web/export")
    assert (reply.headers["content-type"], reply.body) == ("application/x-tar", b"root of web")
    with pytest.raises(ConnectionError):
        client.get("/containers/broken/export")
    assert daemon.engine.archives.closed == 2


def test_a_commit_says_what_it_is_told(client: Client, daemon: FakeDaemon) -> None:
    query = "container=web&repo=host.example/mine&tag=2&comment=m&author=a&changes=ENV+A%3D1&changes=USER+x&pause=0"
    reply = client.post(f"/commit?{query}", b"null", JSON)
    assert reply.status == 201
    assert reply.json["Id"].startswith("sha256:")
    ((ref, wish),) = daemon.engine.archives.wishes
    assert (ref, wish.tags, wish.message, wish.author) == ("web", ["host.example/mine:2"], "m", "a")
    assert (wish.changes, wish.pause, wish.config) == (["ENV A=1", "USER x"], False, None)


def test_a_commit_of_little_has_dockers_defaults(client: Client, daemon: FakeDaemon) -> None:
    client.post("/commit?container=web&repo=mine", {"Cmd": ["a"], "Env": None})
    client.post("/commit?container=web")
    (_, first), (_, second) = daemon.engine.archives.wishes
    assert (first.tags, first.pause) == (["docker.io/library/mine:latest"], True)
    assert first.config is not None
    assert first.config.cmd == ["a"]
    assert (second.tags, second.config) == ([], None)


@pytest.mark.parametrize("query", ["", "container=web&repo=BAD", f"container=web&repo=x@sha256:{'0' * 64}"])
def test_a_commit_of_nothing_or_to_no_name_is_refused(client: Client, query: str) -> None:
    assert client.post(f"/commit?{query}").status == 400
