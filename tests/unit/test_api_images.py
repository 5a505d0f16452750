"""``/images``, ``/volumes`` and ``/networks`` on an engine in memory."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.api import streams
from scow.api.images import with_tag
from scow.ports.registry import Credentials
from scow.reference import Reference
from scow.testing.fakes_daemon import FakeDaemon
from tests.unit.api_client import Client


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon)


def auth(value: object) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(value).encode()).decode()}


def test_pull_streams_its_progress(client: Client, daemon: FakeDaemon) -> None:
    reply = client.post("/images/create?fromImage=alpine&tag=3&platform=linux/arm64")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.lines[0] == {"status": "Pulling from library/alpine", "id": "3"}
    assert reply.lines[-1]["status"] == "Status: Downloaded newer image for alpine:3"
    assert daemon.engine.images.pulls == [(Reference.parse("alpine:3"), "linux/arm64", None, False)]


def test_pull_without_a_tag_is_of_all_tags(client: Client, daemon: FakeDaemon) -> None:
    client.post("/images/create?fromImage=alpine")
    assert [pull[3] for pull in daemon.engine.images.pulls] == [True]


def test_a_pull_refused_before_its_first_message_is_a_404_not_a_401(client: Client) -> None:
    reply = client.post("/images/create?fromImage=secret&tag=latest")
    assert reply.status == 404
    assert reply.json["message"].startswith("pull access denied for secret")


def test_a_pull_that_fails_later_says_so_in_the_stream(client: Client) -> None:
    reply = client.post("/images/create?fromImage=broken&tag=latest")
    assert reply.status == 200
    text = "the layer ended early\ntry again"
    assert reply.lines[-1] == {"errorDetail": {"code": 500, "message": text}, "error": text}


def test_a_pull_whose_client_goes_is_cancelled(client: Client, daemon: FakeDaemon) -> None:
    with client.opened("POST", "/images/create?fromImage=slow&tag=latest"):
        pass
    end = time.monotonic() + 5
    while not daemon.engine.images.pull_cancelled.is_set():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("value", "credentials"),
    [
        ({"username": "u", "password": "p", "serveraddress": "x"}, Credentials("u", "p")),
        ({"auth": base64.b64encode(b"u:p:q").decode()}, Credentials("u", "p:q")),
        ({"identitytoken": "t"}, Credentials("", "", "t")),
        ({"identitytoken": "t" * 40_000}, Credentials("", "", "t" * 40_000)),
        ({}, None),
        ({"username": ""}, None),
    ],
)
def test_credentials_come_in_every_form_that_clients_send(
    client: Client, daemon: FakeDaemon, value: dict[str, str], credentials: Credentials | None
) -> None:
    client.post("/images/create?fromImage=alpine&tag=3", headers=auth(value))
    assert daemon.engine.images.pulls[0][2] == credentials


def test_malformed_credentials_are_refused_without_being_repeated(client: Client) -> None:
    reply = client.post("/images/create?fromImage=alpine", headers={"X-Registry-Auth": "c2VjcmV0"})
    assert reply.status == 400
    assert "c2VjcmV0" not in reply.json["message"]
    assert "secret" not in reply.json["message"]


def test_import_takes_the_body_as_a_stream(client: Client, daemon: FakeDaemon) -> None:
    data = bytes(range(256)) * 20_000  # beyond the limit of JSON bodies is allowed too; this is more than one read
    reply = client.post("/images/create?fromSrc=-&repo=mine&tag=1&message=m&changes=ENV+A%3Db", data)
    assert reply.status == 200
    assert reply.lines[-1]["status"].startswith("sha256:")
    assert daemon.engine.images.imported == data
    assert client.get("/images/mine:1/json").status == 200


def test_import_from_an_address_is_not_supported(client: Client) -> None:
    assert client.post("/images/create?fromSrc=http://x/y.tar").status == 501


def test_create_of_nothing_is_refused(client: Client) -> None:
    assert client.post("/images/create").status == 400


def test_push_without_a_tag_is_of_all_tags(client: Client, daemon: FakeDaemon) -> None:
    client.post("/images/localhost:5000/a/b/push?tag=1", headers=auth({"username": "u", "password": "p"}))
    client.post("/images/localhost:5000/a/b/push")
    first, second = daemon.engine.images.pushes
    assert first == (Reference.parse("localhost:5000/a/b:1"), Credentials("u", "p"), False)
    assert second == (Reference.parse("localhost:5000/a/b", default_tag=""), None, True)


def test_tag_then_remove(client: Client) -> None:
    assert client.post("/images/busybox/tag?repo=localhost:5000/x&tag=y").status == 201
    assert client.get("/images/localhost:5000/x:y/json").json["RepoTags"] == ["busybox:latest", "localhost:5000/x:y"]
    removed = client.call("DELETE", "/images/busybox?force=1").json
    assert removed[0] == {"Untagged": "busybox:latest"}
    assert removed[-1]["Deleted"].startswith("sha256:")


def test_a_tag_with_a_digest_is_refused(client: Client) -> None:
    reply = client.post(f"/images/busybox/tag?repo=x@sha256:{'0' * 64}")
    assert reply.status == 400


@pytest.mark.parametrize(
    ("name", "tag", "wanted"),
    [
        ("a", "", "docker.io/library/a"),
        ("a", "1", "docker.io/library/a:1"),
        ("a:2", "", "docker.io/library/a:2"),
        ("h:5000/a", "sha256:" + "0" * 64, "h:5000/a@sha256:" + "0" * 64),
    ],
)
def test_the_tag_parameter_may_be_a_digest(name: str, tag: str, wanted: str) -> None:
    assert str(with_tag(Reference.parse(name, default_tag=""), tag)) == wanted


def test_inspect_and_list_show_familiar_names(client: Client) -> None:
    value = client.get("/images/busybox/json").json
    assert value["RepoTags"] == ["busybox:latest"]
    assert value["RepoDigests"] == [f"busybox@{value['Id']}"]
    assert value["Created"] == "2024-05-01T00:00:00Z"
    assert value["RootFS"]["Type"] == "layers"
    assert value["Config"]["Cmd"] == ["cat"]
    (line,) = client.get("/images/json").json
    assert (line["Id"], line["Size"], line["Containers"]) == (value["Id"], 4_000_000, 0)
    assert client.get("/v1.50/images/json").json[0]["Containers"] == -1
    assert "VirtualSize" not in line
    assert client.get("/v1.43/images/json").json[0]["VirtualSize"] == 4_000_000


def test_history_is_passed_on(client: Client) -> None:
    assert client.get("/images/busybox/history").json[0]["CreatedBy"] == "/bin/sh"


def test_an_image_that_is_not_here(client: Client) -> None:
    reply = client.get("/images/localhost:5000/no/such/json")
    assert (reply.status, reply.json) == (404, {"message": "No such image: localhost:5000/no/such:latest"})


def test_of_progress_bars_a_slow_client_gets_the_newest_only() -> None:
    async def run() -> bytes:
        progress = streams.Progress()
        progress({"status": "Pulling", "id": "x"})
        for current in range(1000):
            progress({"status": "Downloading", "progressDetail": {"current": current}, "id": "a"})
        progress({"status": "Done", "id": "a"})
        await progress.wait()
        return progress.take()

    lines = [json.loads(line) for line in asyncio.run(run()).splitlines()]
    assert [line["status"] for line in lines] == ["Pulling", "Downloading", "Done"]
    assert lines[1]["progressDetail"] == {"current": 999}


def test_volumes_are_created_listed_and_removed(client: Client) -> None:
    body = {"Name": "v", "DriverOpts": {"type": "tmpfs"}, "Labels": {"a": "b"}}
    reply = client.post("/volumes/create", body)
    assert reply.status == 201
    assert (reply.json["Name"], reply.json["Driver"], reply.json["Scope"]) == ("v", "local", "local")
    assert reply.json["Options"] == {"type": "tmpfs"}
    assert client.get("/volumes").json == {"Volumes": [reply.json], "Warnings": None}
    assert client.get("/volumes/v").json == reply.json
    assert client.call("DELETE", "/volumes/v").status == 204
    assert client.get("/volumes/v").status == 404


def test_a_volume_without_a_name_is_marked_anonymous(client: Client) -> None:
    assert "com.docker.volume.anonymous" in client.post("/volumes/create", {}).json["Labels"]


def test_networks_are_listed_and_inspected_with_who_is_in_them(client: Client) -> None:
    container = client.run("sleep", "60", name="c")
    names = {network["Name"]: network for network in client.get("/networks").json}
    assert sorted(names) == ["bridge", "host", "none"]
    assert names["none"]["Driver"] == "null"
    value = client.get("/networks/bridge").json
    assert value["IPAM"]["Config"] == [{"Subnet": "172.29.0.0/16", "Gateway": "172.29.0.1"}]
    assert value["Containers"][container]["Name"] == "c"
    assert value["Containers"][container]["IPv4Address"] == "172.29.0.2/16"


def test_info_counts_containers_and_names_the_host(client: Client, tmp_path: Path) -> None:
    client.run("sleep", "60")
    client.post(f"/containers/{client.run('sleep', '60')}/pause")
    client.create()
    value = client.get("/info").json
    counts = [value[f"Containers{what}"] for what in ("", "Running", "Paused", "Stopped")]
    assert counts == [3, 1, 1, 1]
    assert (value["Images"], value["OSType"], value["DockerRootDir"]) == (1, "linux", str(tmp_path))
    assert value["NCPU"] > 0
    assert value["MemTotal"] > 1 << 20
    assert value["ID"] == client.get("/info").json["ID"] == (tmp_path / "engine-id").read_text().strip()


def test_version_tells_the_range_of_api_versions(client: Client) -> None:
    value = client.get("/version").json
    assert (value["ApiVersion"], value["MinAPIVersion"], value["Os"]) == ("1.56", "1.24", "linux")
    assert value["Components"][0]["Name"] == "Engine"
