"""What docker-py's own test-suite and other clients look for beyond the plain path, against a scowd of our own."""

from __future__ import annotations

import gc
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import Daemon

docker = pytest.importorskip("docker")
pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What docker-py leaves open (the sockets of attach and exec) is collected here, not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("engine")).start()
    daemon.import_busybox()
    yield daemon
    daemon.cleanup()


@pytest.fixture
def api(daemon: Daemon) -> Iterator[Any]:
    client = docker.APIClient(base_url=f"unix://{daemon.socket}", timeout=20)
    yield client
    client.close()


@pytest.fixture
def sleeper(api: Any) -> Iterator[str]:
    """The id of a container that runs."""
    host = api.create_host_config(network_mode="none")
    container = api.create_container("busybox", ["sleep", "600"], host_config=host)["Id"]
    api.start(container)
    yield container
    api.remove_container(container, force=True)


def ended(api: Any, command: list[str], **options: Any) -> str:
    """The id of a container that ran *command*."""
    host = api.create_host_config(network_mode="none")
    container = str(api.create_container("busybox", command, host_config=host, **options)["Id"])
    api.start(container)
    api.wait(container)
    return container


def test_a_variable_without_value_is_kept_in_the_config_and_not_in_the_process(api: Any) -> None:
    container = ended(api, ["env"], environment={"NOTHING": None, "EMPTY": ""})
    try:
        env = api.inspect_container(container)["Config"]["Env"]
        assert env == ["NOTHING", "EMPTY=", "PATH=/bin"]  # the request's first, as in Docker
        lines = api.logs(container).decode().split()
        assert "EMPTY=" in lines
        assert not any(line.startswith("NOTHING") for line in lines)
    finally:
        api.remove_container(container)


def test_a_wait_ends_with_the_run_also_where_a_policy_starts_the_next_one(api: Any) -> None:
    host = api.create_host_config(restart_policy={"Name": "always"}, network_mode="none")
    container = api.create_container("busybox", ["sleep", "0.3"], host_config=host)["Id"]
    api.start(container)
    try:
        assert api.wait(container, timeout=10)["StatusCode"] == 0
        with pytest.raises(docker.errors.APIError, match="stop the container before") as refused:
            api.remove_container(container)
        assert refused.value.status_code == 409
    finally:
        api.remove_container(container, force=True)


def test_an_exec_with_a_terminal_is_framed_for_a_client_that_did_not_ask_for_one(api: Any, sleeper: str) -> None:
    made = api.exec_create(sleeper, ["printf", "hello"], tty=True)
    stream = api.exec_start(made, socket=True)
    try:
        received = b""
        while len(received) < 13 and (piece := stream.read(64)):
            received += piece
    finally:
        stream.close()
    assert received == struct.pack(">BxxxI", 1, 5) + b"hello"
    made = api.exec_create(sleeper, ["sh", "-c", "echo out; echo err >&2"], tty=True)
    assert api.exec_start(made, demux=True) == (b"out\r\nerr\r\n", None)


def test_an_exec_without_terminal_is_plain_for_a_client_that_says_it_has_one(api: Any, sleeper: str) -> None:
    made = api.exec_create(sleeper, ["sh", "-c", "echo out; echo err >&2; echo more"])
    assert api.exec_start(made, tty=True) == b"out\nmore\n"  # Docker drops the error output here


def test_members_of_a_request_are_known_in_any_case(daemon: Daemon, api: Any, sleeper: str) -> None:
    begun = time.time()
    made = api.exec_create(sleeper, "cat", stdin=True, tty=True, detach_keys="ctrl-e")  # sent as "detachKeys"
    assert api.exec_inspect(made)["DetachKeys"] == "ctrl-e"
    stream = api.exec_start(made, tty=True, socket=True)
    raw: socket.socket = stream._sock
    try:
        raw.settimeout(10)
        raw.sendall(b"x\x05")
        while raw.recv(64):
            pass  # it ends: the keys were known
    finally:
        stream.close()
    told = api.events(since=begun, until=time.time() + 0.2, filters={"container": sleeper}, decode=True)
    assert "exec_detach" in [event["Action"] for event in told]
    request = {"image": "busybox", "CMD": ["true"], "hostconfig": {"networkmode": "none", "MEMORY": 8 << 20}}
    status, answer = daemon.api("POST", "/containers/create", request)
    assert status == 201
    host = api.inspect_container(answer["Id"])["HostConfig"]
    assert (host["NetworkMode"], host["Memory"]) == ("none", 8 << 20)
    api.remove_container(answer["Id"])


def test_statistics_tell_what_went_through_the_network(api: Any) -> None:
    container = api.create_container("busybox", ["sleep", "60"])["Id"]
    api.start(container)
    try:
        counters = api.stats(container, stream=False)["networks"]["eth0"]
        names = {f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")}
        assert set(counters) == names
    finally:
        api.remove_container(container, force=True)


def test_a_container_that_is_killed_and_started_at_once_has_its_network(api: Any) -> None:
    container = api.create_container("busybox", ["sleep", "60"])["Id"]
    api.start(container)
    try:
        for _ in range(5):  # the kernel has not taken the last run's interface away yet
            api.kill(container)
            api.start(container)
        assert api.inspect_container(container)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    finally:
        api.remove_container(container, force=True)


def test_a_pull_that_finds_nothing_is_an_error_and_not_a_line_of_progress(daemon: Daemon) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    status, answer = daemon.api("POST", f"/images/create?fromImage={host}/nothing&tag=latest")
    assert status == 503
    assert host in answer["message"]


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"Links": ["other:alias"]}, "links"),
        ({"StorageOpt": {"size": "1G"}}, "storage options"),
        ({"Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": {"Subpath": "x"}}]}, "subpath"),
    ],
)
def test_what_is_not_offered_is_refused_as_such(daemon: Daemon, host: dict[str, Any], message: str) -> None:
    status, answer = daemon.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    assert status == 501
    assert message in answer["message"]


def test_a_healthcheck_that_is_not_run_is_said(daemon: Daemon, api: Any) -> None:
    check = {"Test": ["CMD", "true"]}
    status, answer = daemon.api("POST", "/containers/create", {"Image": "busybox", "Healthcheck": check})
    assert status == 201
    assert any("healthcheck" in warning for warning in answer["Warnings"])
    api.remove_container(answer["Id"])


def test_there_is_no_swarm_to_leave(daemon: Daemon) -> None:
    assert daemon.api("POST", "/swarm/leave") == (503, {"message": "This node is not part of a swarm"})


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.41", "auto"])
def test_older_versions_of_the_api_run_containers(daemon: Daemon, version: str) -> None:
    client = docker.DockerClient(base_url=f"unix://{daemon.socket}", version=version)
    try:
        out = client.containers.run("busybox", "echo hello", remove=True, network_mode="none")
        assert out == b"hello\n"
        assert [image.tags for image in client.images.list("busybox")] == [["busybox:latest"]]
        container = client.containers.run("busybox", "sleep 60", detach=True, network_mode="none")
        assert container.exec_run(["sh", "-c", "exit 3"]).exit_code == 3
        assert client.containers.list(filters={"id": container.id})
        container.stop(timeout=0)
        container.remove()
    finally:
        client.close()


def test_events_while_things_happen(api: Any) -> None:
    since = time.time()
    container = api.create_container(
        "busybox", ["sleep", "60"], host_config=api.create_host_config(network_mode="none")
    )["Id"]
    api.start(container)
    api.stop(container, timeout=0)
    api.remove_container(container)
    found = list(api.events(since=since, until=time.time() + 0.2, filters={"container": container}, decode=True))
    actions = [event["Action"] for event in found]
    assert actions[:2] == ["create", "start"]
    assert [action for action in actions if action == "kill"] == ["kill", "kill"]  # TERM, then KILL: as Docker tells
    assert {"die", "stop", "destroy"} <= set(actions)
    signals = [event["Actor"]["Attributes"]["signal"] for event in found if event["Action"] == "kill"]
    assert signals == ["15", "9"]
