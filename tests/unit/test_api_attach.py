"""Attach and exec: the connection taken over from HTTP."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.testing.fakes_daemon import FakeDaemon
from scow.testing.fakes_process import FakeSession, framed
from tests.unit.api_client import UPGRADE, Client, message, read_head, read_some, read_to_end

ATTACH = "/containers/{}/attach?stream=1&stdin=1&stdout=1&stderr=1"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon)


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


def started_exec(client: Client, *command: str, **request: object) -> str:
    container = client.run("sleep", "60")
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **request}
    reply = client.post(f"/containers/{container}/exec", body)
    assert reply.status == 201
    return str(reply.json["Id"])


def test_a_client_that_asks_for_an_upgrade_gets_docker_s_101(client: Client) -> None:
    container = client.run("cat")
    with client.opened("POST", f"/v1.42{ATTACH.format(container)}", headers=UPGRADE) as (head, _):
        assert head.status == 101
        assert (head.headers["connection"], head.headers["upgrade"]) == ("Upgrade", "tcp")
        assert head.headers["content-type"] == "application/vnd.docker.multiplexed-stream"


@pytest.mark.parametrize(("prefix", "tty"), [("/v1.41", False), ("/v1.50", True)])
def test_raw_streams_are_called_so(client: Client, prefix: str, tty: bool) -> None:
    container = client.run("cat", Tty=tty)
    with client.opened("POST", prefix + ATTACH.format(container), headers=UPGRADE) as (head, _):
        assert head.headers["content-type"] == "application/vnd.docker.raw-stream"


def test_a_client_that_asks_for_no_upgrade_gets_the_200_of_old(client: Client) -> None:
    container = client.run("cat")
    with client.opened("POST", ATTACH.format(container)) as (head, sock):
        assert head.status == 200
        assert head.headers == {"content-type": "application/vnd.docker.raw-stream"}
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read_some(sock, 26) == framed(1, b"GET / HTTP/1.1\r\n\r\n")


def test_attach_before_start_misses_no_byte(client: Client) -> None:
    container = client.create("echo", "first")
    with client.opened("POST", ATTACH.format(container), headers=UPGRADE) as (head, sock):
        client.post(f"/containers/{container}/start")
        assert head.body + read_to_end(sock) == framed(1, b"first\n")


@pytest.mark.parametrize("count", [10, 70_000, 3_000_000])
def test_input_sent_right_behind_the_request_is_carried_over(client: Client, count: int) -> None:
    container = client.run("cat", OpenStdin=True, Tty=True)
    data = os.urandom(count).replace(b"\x10", b"x")
    sender: threading.Thread
    with client.connected() as sock:
        sender = threading.Thread(
            target=sock.sendall, args=(message("POST", ATTACH.format(container), headers=UPGRADE) + data,)
        )
        sender.start()
        head = read_head(sock)
        assert head.body + read_some(sock, count - len(head.body)) == data
        sender.join()


def test_a_request_in_pieces_is_one_request(client: Client) -> None:
    container = client.run("cat", OpenStdin=True, Tty=True)
    with client.connected() as sock:
        for byte in message("POST", ATTACH.format(container), headers=UPGRADE) + b"input":
            sock.sendall(bytes([byte]))
        head = read_head(sock)
        assert head.body + read_some(sock, 5 - len(head.body)) == b"input"


def test_a_half_close_right_behind_the_request_is_the_end_of_input(client: Client) -> None:
    container = client.run("cat", OpenStdin=True, Tty=True)
    with client.connected() as sock:
        sock.sendall(message("POST", ATTACH.format(container)) + b"all")
        sock.shutdown(socket.SHUT_WR)
        assert read_head(sock).body + read_to_end(sock) == b"all"


def test_a_request_behind_a_refused_attach_is_answered(client: Client) -> None:
    with client.connected() as sock:
        sock.sendall(message("POST", ATTACH.format("none"), headers=UPGRADE) + message("GET", "/_ping"))
        answer = read_some(sock, 12)
        while b"OK" not in answer[12:]:
            answer += sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"HTTP/1.1 200" in answer


def test_half_close_is_the_end_of_input_and_output_goes_on(client: Client) -> None:
    container = client.run("cat", OpenStdin=True)
    with client.opened("POST", ATTACH.format(container), headers=UPGRADE) as (_, sock):
        sock.sendall(b"all of it")
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == framed(1, b"all of it")
    assert client.post(f"/containers/{container}/wait").json["StatusCode"] == 0


def test_half_close_of_a_client_without_stdin_ends_nothing(client: Client) -> None:
    container = client.run("cat", OpenStdin=True)
    path = f"/containers/{container}/attach?stream=1&stdout=1"
    with client.opened("POST", path, headers=UPGRADE) as (_, watcher):
        watcher.shutdown(socket.SHUT_WR)
        with client.opened("POST", ATTACH.format(container), headers=UPGRADE) as (_, sock):
            sock.sendall(b"x")
            assert read_some(watcher, 9) == framed(1, b"x")


def test_a_client_that_is_gone_releases_its_session_at_once(client: Client, daemon: FakeDaemon) -> None:
    container = client.run("sleep", "60")
    with client.opened("POST", f"/containers/{container}/attach?stream=1&stdout=1", headers=UPGRADE):
        (session,) = daemon.engine.containers.sessions
        assert not session.aborted
    until(lambda: session.aborted)


def test_a_client_that_goes_after_its_half_close_is_noticed_without_any_output(
    client: Client, daemon: FakeDaemon
) -> None:
    container = client.run("sleep", "60")
    path = f"/containers/{container}/attach?stream=1&stdout=1"
    with client.opened("POST", path, headers=UPGRADE) as (_, sock):
        (session,) = daemon.engine.containers.sessions
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        assert not session.aborted
    until(lambda: session.aborted)


def test_a_client_that_goes_while_nobody_reads_its_input_is_noticed(client: Client, daemon: FakeDaemon) -> None:
    container = client.create("sleep", "60", OpenStdin=True)
    with client.opened("POST", ATTACH.format(container), headers=UPGRADE) as (_, sock):
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sock.send(bytes(65536))
        (session,) = daemon.engine.containers.sessions
    time.sleep(0.1)
    client.post(f"/containers/{container}/start")  # a process that never reads: only its end releases the session
    client.post(f"/containers/{container}/kill")
    until(lambda: session.aborted)


def test_what_a_client_sent_before_it_went_still_reaches_the_process(client: Client, daemon: FakeDaemon) -> None:
    container = client.create("cat", OpenStdin=True)
    path = f"/containers/{container}/attach?stream=1&stdin=1"
    with client.opened("POST", path, headers=UPGRADE) as (_, sock):
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
    client.post(f"/containers/{container}/start")
    assert client.post(f"/containers/{container}/wait").json["StatusCode"] == 0
    assert daemon.engine.containers.processes[container].log == [(1, b"last words")]


def test_a_client_that_does_not_read_holds_the_process_back(client: Client, daemon: FakeDaemon) -> None:
    container = client.create("flood", str(1 << 30))
    path = f"/containers/{container}/attach?stream=1&stdout=1"
    with client.opened("POST", path, headers=UPGRADE) as (_, sock):
        client.post(f"/containers/{container}/start")
        time.sleep(0.3)
        assert client.get(f"/containers/{container}/json").json["State"]["Running"]
        assert len(sock.recv(8)) == 8
    until(lambda: not client.get(f"/containers/{container}/json").json["State"]["Running"])


def test_output_larger_than_every_buffer_arrives_whole(client: Client) -> None:
    count = 64 << 20
    container = client.create("flood", str(count), Tty=True)
    path = f"/containers/{container}/attach?stream=1&stdout=1"
    with client.opened("POST", path, headers=UPGRADE) as (head, sock):
        client.post(f"/containers/{container}/start")
        got = len(head.body)
        while part := sock.recv(1 << 20):
            got += len(part)
    assert got == count


def test_detach_keys_end_the_output_and_leave_the_container(client: Client) -> None:
    container = client.run("cat", OpenStdin=True, Tty=True)
    with client.opened("POST", ATTACH.format(container), headers=UPGRADE) as (_, sock):
        sock.sendall(b"\x10\x11")
        assert read_to_end(sock) == b""
    assert client.get(f"/containers/{container}/json").json["State"]["Running"]


def test_attach_to_nothing_is_an_ordinary_404(client: Client) -> None:
    with client.connected() as sock:
        sock.sendall(message("POST", ATTACH.format("none"), headers=UPGRADE))
        head = read_head(sock)
        assert head.status == 404
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        assert read_head(sock).body == b"OK"


def test_no_connection_is_kept_after_it_was_taken_over(client: Client, daemon: FakeDaemon) -> None:
    for half in (False, True):
        container = client.run("cat", OpenStdin=True)
        with client.opened("POST", ATTACH.format(container), headers=UPGRADE) as (_, sock):
            if half:
                sock.shutdown(socket.SHUT_WR)
                read_to_end(sock)

    async def open_connections() -> int:
        return sum(len(runner.server.connections) for runner in daemon._runners if runner.server)

    until(lambda: daemon.run(open_connections()) == 0)
    gc.collect()


def test_exec_streams_its_output_and_keeps_its_code(client: Client) -> None:
    exec_id = started_exec(client, "echo", "out")
    with client.opened("POST", f"/exec/{exec_id}/start", {"Detach": False}, UPGRADE) as (head, sock):
        assert head.status == 101
        assert head.body + read_to_end(sock) == framed(1, b"out\n")
    value = client.get(f"/exec/{exec_id}/json").json
    assert (value["Running"], value["ExitCode"], value["ID"]) == (False, 0, exec_id)
    assert value["ProcessConfig"]["entrypoint"] == "echo"
    assert value["ProcessConfig"]["arguments"] == ["out"]


def test_the_head_of_exec_never_comes_in_one_piece_with_output(client: Client) -> None:
    # docker-py reads the head through a buffer and the stream without it
    for _ in range(50):
        exec_id = started_exec(client, "echo", "out")
        with client.opened("POST", f"/exec/{exec_id}/start", {}, UPGRADE) as (head, sock):
            assert head.body == b""
            assert read_to_end(sock) == framed(1, b"out\n")


def test_exec_with_input(client: Client) -> None:
    exec_id = started_exec(client, "cat", AttachStdin=True)
    with client.opened("POST", f"/exec/{exec_id}/start", {}, UPGRADE, extra=b"early ") as (head, sock):
        sock.sendall(b"late")
        sock.shutdown(socket.SHUT_WR)
        frames, text = head.body + read_to_end(sock), b""
        while frames:
            (length,) = struct.unpack(">I", frames[4:8])
            text, frames = text + frames[8 : 8 + length], frames[8 + length :]
        assert text == b"early late"


def test_a_detached_exec_is_an_ordinary_200(client: Client) -> None:
    exec_id = started_exec(client, "exit", "3")
    reply = client.post(f"/exec/{exec_id}/start", {"Detach": True})
    assert (reply.status, reply.body) == (200, b"")
    until(lambda: client.get(f"/exec/{exec_id}/json").json["ExitCode"] == 3)


def test_a_program_that_is_not_there_is_told_on_the_stream(client: Client) -> None:
    exec_id = started_exec(client, "nosuch")
    with client.opened("POST", f"/exec/{exec_id}/start", {}, UPGRADE) as (head, sock):
        assert head.status == 101
        text = b'exec: "nosuch": executable file not found in $PATH\r\n'
        assert head.body + read_to_end(sock) == framed(2, text)
    assert client.get(f"/exec/{exec_id}/json").json["ExitCode"] == 127


def test_a_detached_program_that_is_not_there_is_an_error(client: Client) -> None:
    exec_id = started_exec(client, "nosuch")
    reply = client.post(f"/exec/{exec_id}/start", {"Detach": True})
    assert reply.status == 400
    assert "executable file not found" in reply.json["message"]


def test_the_size_of_an_exec_s_terminal_is_passed(client: Client) -> None:
    exec_id = started_exec(client, "size", Tty=True)
    body = {"Tty": True, "ConsoleSize": [10, 20]}
    with client.opened("POST", f"/exec/{exec_id}/start", body, UPGRADE) as (head, sock):
        assert client.post(f"/exec/{exec_id}/resize?h=30&w=40").status == 200
        assert head.body + read_to_end(sock) == b"30 40\n"


def test_an_exec_whose_client_goes_while_it_starts_is_started_and_released(client: Client, daemon: FakeDaemon) -> None:
    exec_id = started_exec(client, "sleep", "60")
    original, begun = daemon.engine.execs.start, threading.Event()
    sessions: list[FakeSession] = []

    async def slow(exec_id: str, **options: Any) -> FakeSession | None:
        begun.set()
        await asyncio.sleep(0.2)
        session = await original(exec_id, **options)
        assert session is not None
        sessions.append(session)
        return session

    daemon.engine.execs.start = slow  # type: ignore[method-assign]
    with client.connected() as sock:
        sock.sendall(message("POST", f"/exec/{exec_id}/start", {}))
        assert begun.wait(5)
    until(lambda: bool(sessions) and sessions[0].aborted)
    assert client.get(f"/exec/{exec_id}/json").json["Running"]
