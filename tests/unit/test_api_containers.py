"""``/containers``: what goes over the wire, on an engine in memory."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from scow.testing.fakes_daemon import FakeDaemon
from tests.unit.api_client import Client, read_head, read_to_end


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon)


def filtered(**filters: Any) -> str:
    return f"/containers/json?all=1&filters={quote(json.dumps(filters))}"


def ended(client: Client, container: str) -> int:
    return int(client.post(f"/containers/{container}/wait").json["StatusCode"])


def test_create_answers_the_id_and_the_warnings(client: Client) -> None:
    reply = client.post("/containers/create?name=a", {"Image": "busybox"})
    assert reply.status == 201
    assert sorted(reply.json) == ["Id", "Warnings"]
    assert client.get("/containers/a/json").json["Id"] == reply.json["Id"]


def test_a_name_in_use_is_a_conflict_in_docker_s_words(client: Client) -> None:
    first = client.create(name="a")
    reply = client.post("/containers/create?name=a", {"Image": "busybox"})
    assert reply.status == 409
    assert reply.json["message"].startswith(
        f'Conflict. The container name "/a" is already in use by container "{first}"'
    )


def test_an_image_that_is_not_here_is_a_404_that_makes_the_docker_cli_pull(client: Client) -> None:
    reply = client.post("/containers/create", {"Image": "alpine:3"})
    assert (reply.status, reply.json) == (404, {"message": "No such image: alpine:3"})


def test_start_twice_and_stop_twice_are_not_modified(client: Client) -> None:
    container = client.run("sleep", "60")
    assert client.post(f"/containers/{container}/start").status == 304
    assert client.post(f"/containers/{container}/stop?t=1").status == 204
    assert client.post(f"/containers/{container}/stop").status == 304


def test_wait_sends_its_head_at_once_and_the_code_at_the_end(client: Client) -> None:
    container = client.create("exit", "7")
    path = f"/v1.50/containers/{container}/wait?condition=next-exit"
    with client.opened("POST", path) as (head, sock):
        assert head.status == 200
        assert head.body == b""
        assert client.post(f"/containers/{container}/start").status == 204
        assert json.loads(sock.recv(4096).split(b"\r\n")[1]) == {"StatusCode": 7}


def test_wait_for_what_has_ended_answers_at_once(client: Client) -> None:
    container = client.run("exit", "3")
    time.sleep(0.05)
    assert client.post(f"/containers/{container}/wait").json == {"StatusCode": 3}


def test_a_wait_whose_client_went_away_is_given_up(client: Client, daemon: FakeDaemon) -> None:
    container = client.run("sleep", "60")
    with client.opened("POST", f"/containers/{container}/wait"):
        pass
    time.sleep(0.1)
    waiters = daemon.engine.containers._waiters[container]
    assert [future.cancelled() for _, future in waiters] == [True]


def test_an_unknown_condition_is_refused_before_the_head(client: Client) -> None:
    reply = client.post(f"/containers/{client.create()}/wait?condition=later")
    assert reply.status == 400
    assert "invalid condition: 'later'" in reply.json["message"]


def test_the_list_shows_running_ones_unless_all_are_asked_for(client: Client) -> None:
    client.create(name="made")
    client.run("sleep", "60", name="runs")
    assert [line["Names"] for line in client.get("/containers/json").json] == [["/runs"]]
    assert [line["Names"] for line in client.get("/containers/json?all=true").json] == [["/runs"], ["/made"]]
    assert len(client.get("/containers/json?all=1&limit=1").json) == 1


def test_a_line_of_the_list_holds_what_docker_ps_prints(client: Client) -> None:
    container = client.run(
        "sleep",
        "60",
        name="web",
        Labels={"k": "v"},
        ExposedPorts={"80/tcp": {}, "443/tcp": {}},
        HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}},
    )
    (line,) = client.get("/containers/json?size=1").json
    assert line["Id"] == container
    assert (line["Image"], line["Command"], line["State"]) == ("busybox", "sleep 60", "running")
    assert line["Status"] == "Up Less than a second"
    assert line["Labels"] == {"k": "v"}
    assert line["Ports"] == [
        {"PrivatePort": 443, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
    ]
    assert line["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "172.29.0.2"
    assert line["SizeRw"] == 1000
    assert "SizeRw" not in client.get("/containers/json").json[0]


def test_an_image_that_lost_its_name_is_shown_by_its_id(client: Client) -> None:
    client.create()
    client.call("DELETE", "/images/busybox")
    (line,) = client.get("/containers/json?all=1").json
    assert line["Image"].startswith("sha256:")


@pytest.mark.parametrize("values", [["a"], {"a": True}, {"a": True, "zzz": False}])
def test_filters_come_as_lists_and_as_maps(client: Client, values: Any) -> None:
    client.create(name="a")
    client.create(name="zzz")
    assert [line["Names"] for line in client.get(filtered(name=values)).json] == [["/a"]]


def test_an_unknown_filter_is_named(client: Client) -> None:
    reply = client.get(filtered(colour=["red"]))
    assert reply.status == 400
    assert reply.json["message"].startswith("invalid filter 'colour'")


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"name": "a"}', '{"name": [1]}'])
def test_filters_of_another_form_are_refused(client: Client, text: str) -> None:
    reply = client.get(f"/containers/json?filters={quote(text)}")
    assert reply.status == 400
    assert reply.json["message"].startswith("invalid filter")


def test_inspect_holds_the_request_and_the_state(client: Client) -> None:
    container = client.run("sleep", "60", name="c", Env=["A=b"], HostConfig={"Memory": 1 << 20, "Binds": ["/a:/b"]})
    value = client.get("/containers/c/json").json
    assert (value["Id"], value["Name"], value["Path"], value["Args"]) == (container, "/c", "sleep", ["60"])
    assert value["State"]["Status"] == "running"
    assert value["State"]["Pid"] == 4242
    assert value["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert value["Config"]["Env"] == ["A=b"]
    assert value["HostConfig"]["Memory"] == 1 << 20
    assert value["HostConfig"]["Binds"] == ["/a:/b"]
    assert value["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert value["NetworkSettings"]["Networks"]["bridge"]["Gateway"] == "172.29.0.1"
    assert value["NetworkSettings"]["IPAddress"] == "172.29.0.2"


def test_a_default_log_driver_is_shown_as_one_that_can_be_read_back(client: Client) -> None:
    default = client.create()
    chosen = client.create(HostConfig={"LogConfig": {"Type": "none"}})
    shown = [client.get(f"/containers/{id}/json").json["HostConfig"]["LogConfig"]["Type"] for id in (default, chosen)]
    assert shown == ["json-file", "none"]


def test_a_name_may_come_with_its_slash(client: Client) -> None:
    client.create(name="a")
    assert client.get("/containers/%2Fa/json").status == 200


def test_kill_needs_a_running_container(client: Client) -> None:
    container = client.run("sleep", "60")
    assert client.post(f"/containers/{container}/kill?signal=SIGINT").status == 204
    assert ended(client, container) == 130
    assert client.post(f"/containers/{container}/kill").status == 409


def test_pause_shows_in_status_and_state(client: Client) -> None:
    container = client.run("sleep", "60")
    assert client.post(f"/containers/{container}/pause").status == 204
    assert client.get("/containers/json").json[0]["Status"] == "Up Less than a second (Paused)"
    state = client.get(f"/containers/{container}/json").json["State"]
    assert (state["Paused"], state["Running"]) == (True, True)
    assert client.post(f"/containers/{container}/unpause").status == 204


def test_rename_restart_top_and_resize(client: Client, daemon: FakeDaemon) -> None:
    container = client.run("sleep", "60", name="old")
    assert client.post("/containers/old/rename?name=new").status == 204
    assert client.post("/containers/new/restart?t=0").status == 204
    assert client.get("/containers/new/top").json["Titles"][0] == "UID"
    assert client.post("/containers/new/resize?h=40&w=120").status == 200
    assert daemon.engine.containers.processes[container].size == (40, 120)


@pytest.mark.parametrize("query", ["", "?h=1", "?h=a&w=b"])
def test_resize_without_a_size_is_refused(client: Client, query: str) -> None:
    assert client.post(f"/containers/{client.run('sleep', '60')}/resize{query}").status == 400


def test_update_passes_the_limits_and_the_restart_policy(client: Client, daemon: FakeDaemon) -> None:
    container = client.create()
    body = {"Memory": 4096, "RestartPolicy": {"Name": "always"}}
    assert client.post(f"/containers/{container}/update", body).json == {"Warnings": []}
    ((_, resources, policy),) = daemon.engine.containers.updates
    assert (resources.memory, policy and policy.name) == (4096, "always")


def test_remove_answers_204_and_then_404(client: Client) -> None:
    container = client.create()
    assert client.call("DELETE", f"/containers/{container}?v=1").status == 204
    assert client.call("DELETE", f"/containers/{container}").status == 404


def test_logs_are_framed_and_typed_by_version(client: Client) -> None:
    container = client.run("echo", "hi")
    ended(client, container)
    new = client.get(f"/v1.42/containers/{container}/logs?stdout=1")
    assert new.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert new.body == b"\x01\0\0\0\0\0\0\x03hi\n"
    old = client.get(f"/v1.41/containers/{container}/logs?stdout=1")
    assert old.headers["content-type"] == "application/vnd.docker.raw-stream"
    assert old.body == new.body


def test_logs_of_a_terminal_are_plain(client: Client) -> None:
    container = client.run("echo", "hi", Tty=True)
    ended(client, container)
    reply = client.get(f"/containers/{container}/logs?stdout=1&stderr=1")
    assert reply.headers["content-type"] == "application/vnd.docker.raw-stream"
    assert reply.body == b"hi\n"


def test_logs_without_a_stream_are_refused_as_docker_does(client: Client) -> None:
    reply = client.get(f"/containers/{client.create()}/logs")
    assert (reply.status, reply.json["message"]) == (400, "Bad parameters: you must choose at least one stream")


def test_followed_logs_end_with_the_container(client: Client) -> None:
    container = client.run("cat", OpenStdin=True, Tty=True)
    with client.opened("GET", f"/containers/{container}/logs?stdout=1&follow=1") as (head, sock):
        assert head.status == 200
        client.post(f"/containers/{container}/kill")
        assert sock.recv(4096) == b"0\r\n\r\n"


def test_one_shot_statistics_are_one_sample(client: Client) -> None:
    container = client.run("sleep", "60", name="c")
    sample = client.get(f"/containers/{container}/stats?stream=0&one-shot=1").json
    assert (sample["id"], sample["name"]) == (container, "/c")
    assert sample["memory_stats"] == {"usage": 4096}
    assert sample["precpu_stats"]["cpu_usage"]["total_usage"] == 0


def test_a_single_sample_holds_the_one_a_second_before(client: Client) -> None:
    sample = client.get(f"/containers/{client.run('sleep', '60')}/stats?stream=false").json
    before = sample["precpu_stats"]["cpu_usage"]["total_usage"]
    assert 0 < before <= sample["cpu_stats"]["cpu_usage"]["total_usage"]
    assert sample["preread"] < sample["read"]


def test_a_stream_of_statistics_ends_when_the_container_is_removed(client: Client) -> None:
    container = client.run("sleep", "60")
    with client.opened("GET", f"/containers/{container}/stats") as (head, sock):
        first = head.body or sock.recv(65536)
        assert json.loads(first.split(b"\r\n")[1])["id"] == container
        client.call("DELETE", f"/containers/{container}?force=1")
        assert sock.recv(65536).endswith(b"0\r\n\r\n")


def test_nothing_is_sampled_when_nobody_watches_any_more(client: Client, daemon: FakeDaemon) -> None:
    container = client.run("sleep", "60")
    with client.opened("GET", f"/containers/{container}/stats") as (_, sock):
        sock.recv(65536)
    time.sleep(1.5)  # a second goes by before the next sample finds the client gone
    before = daemon.engine.containers.samples
    time.sleep(1.2)
    assert daemon.engine.containers.samples == before


def test_events_since_a_time_and_until_another(client: Client) -> None:
    container = client.run("exit", "0", name="c")
    ended(client, container)
    reply = client.get(f"/events?since=0&until={time.time() - 0.0001:.9f}")
    assert reply.headers["content-type"] == "application/json"
    assert [event["Action"] for event in reply.lines] == ["create", "start", "die"]
    first = reply.lines[0]
    assert first["Type"] == "container"
    assert first["Actor"] == {"ID": container, "Attributes": {"name": "c", "image": "busybox"}}
    assert (first["status"], first["id"], first["from"]) == ("create", container, "busybox")
    assert first["timeNano"] // 10**9 == first["time"]


def test_live_events_are_sent_one_by_one_and_the_subscription_ends_with_its_client(
    client: Client, daemon: FakeDaemon
) -> None:
    query = quote(json.dumps({"event": {"start": True}}))
    with client.opened("GET", f"/events?filters={query}") as (head, sock):
        assert head.body == b""
        client.run("sleep", "60")
        assert json.loads(sock.recv(4096).split(b"\r\n")[1])["Action"] == "start"
        assert daemon.engine.events.subscribers == 1
    time.sleep(0.1)
    assert daemon.engine.events.subscribers == 0


def test_events_as_a_json_sequence(client: Client) -> None:
    client.create()
    reply = client.call("GET", "/events?since=0&until=1", headers={"Accept": "application/json-seq"})
    assert reply.headers["content-type"] == "application/json-seq"
    assert reply.body == b"" or reply.body.startswith(b"\x1e{")


def test_an_unknown_event_filter_is_refused(client: Client) -> None:
    reply = client.get(f"/events?filters={quote(json.dumps({'colour': ['red']}))}")
    assert reply.status == 400
    assert reply.json["message"].startswith("invalid filter 'colour'")


def test_a_response_cut_off_by_an_error_is_not_taken_for_a_whole_one(client: Client, daemon: FakeDaemon) -> None:
    container = client.run("sleep", "60")

    async def broken(*_: object) -> Any:
        yield b"some"
        raise ZeroDivisionError

    daemon.engine.containers.logs = broken  # type: ignore[assignment,method-assign]
    with client.connected() as sock:
        sock.sendall(f"GET /containers/{container}/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        head = read_head(sock)
        assert not (head.body + _rest(sock)).endswith(b"0\r\n\r\n")


def _rest(sock: socket.socket) -> bytes:
    try:
        return read_to_end(sock)
    except ConnectionResetError:
        return b""
