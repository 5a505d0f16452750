"""The HTTP client against a real server on a Unix socket, and the splitting of multiplexed output."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.cli.client import Client, encode_query
from scow.cli.failures import cannot_start, failure
from scow.cli.hosts import parse
from scow.cli.streams import Demultiplexer
from scow.errors import CannotRun, CommandNotFound, Conflict, InvalidArgument, NotFound, ScowError, Unavailable
from tests.unit.cli_server import FakeEngine, Reply, Request, serve


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with serve(tmp_path / "s") as running:
        yield running


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    client = Client(parse(engine.host, "--host"))
    yield client
    client.close()


def test_a_value_comes_back(engine: FakeEngine, client: Client) -> None:
    engine.on("GET", "/version", {"Version": "1"})
    assert client.get("/version") == {"Version": "1"}


def test_the_connection_is_kept(engine: FakeEngine, client: Client) -> None:
    peers = set()

    def answer(request: Request) -> Reply:
        peers.add(request.handler.connection.fileno())
        return Reply(200, {})

    engine.on("GET", "/x", answer)
    for _ in range(5):
        client.get("/x")
    assert len(peers) == 1


def test_a_kept_connection_that_the_daemon_closed_is_replaced(engine: FakeEngine, client: Client) -> None:
    def answer(request: Request) -> Reply:
        request.handler.close_connection = True  # without saying so
        return Reply(200, {})

    engine.on("GET", "/x", answer)
    client.get("/x")
    time.sleep(0.05)
    assert client.get("/x") == {}


def test_chunks_and_json_lines_are_read(engine: FakeEngine, client: Client) -> None:
    engine.on("GET", "/stream", Reply(chunks=[b'{"a":1}\r\n{"a"', b":2}\n", b'{"a":3}']))
    assert list(client.open("GET", "/stream").messages()) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_an_upload_goes_out_in_chunks(engine: FakeEngine, client: Client) -> None:
    engine.on("POST", "/images/create", lambda request: Reply(200, {"size": len(request.body)}))
    upload = (b"x" * 1000 for _ in range(50))
    assert client.open("POST", "/images/create", upload=upload).json() == {"size": 50_000}


def test_a_hijacked_connection_is_raw_and_half_closes(engine: FakeEngine, client: Client) -> None:
    def attach(request: Request) -> None:
        sock = request.take_over()
        received = b"".join(iter(lambda: sock.recv(1000), b""))  # until our half-close
        sock.sendall(b"echo:" + received)

    engine.on("POST", "/containers/c/attach", attach)
    connection = client.hijack("/containers/c/attach")
    connection.sock.sendall(b"hello")
    connection.close_write()
    assert b"".join(iter(connection.some, b"")) == b"echo:hello"


def test_bytes_that_follow_the_upgrade_at_once_are_kept(engine: FakeEngine, client: Client) -> None:
    def attach(request: Request) -> None:
        request.handler.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst")
        request.handler.close_connection = True

    engine.on("POST", "/attach", attach)
    assert b"".join(iter(client.hijack("/attach").some, b"")) == b"first"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidArgument), (404, NotFound), (409, Conflict), (503, Unavailable), (500, ScowError)]
)
def test_an_answer_is_the_error_that_the_daemon_meant(
    engine: FakeEngine, client: Client, status: int, kind: type[ScowError]
) -> None:
    engine.on("GET", "/x", Reply(status, {"message": "went wrong\ndo this"}))
    with pytest.raises(kind) as caught:
        client.get("/x")
    assert (caught.value.message, caught.value.hint) == ("went wrong", "do this")


def test_an_answer_without_a_message_says_what_was_asked() -> None:
    assert failure(500, b"", "GET /x").message == "GET /x: the daemon answered 500 without a message"


def test_an_older_daemon_is_spoken_to_in_its_version(engine: FakeEngine, client: Client) -> None:
    def answer(request: Request) -> Reply:
        if "/v1.56/" in request.handler.path:
            words = "client version 1.56 is too new. Maximum supported API version is 1.43"
            return Reply(400, {"message": words})
        return Reply(200, request.handler.path)

    engine.on("GET", "/info", answer)
    assert client.get("/info") == "/v1.43/info"


def test_nobody_listening_says_so_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot connect to the scow daemon at unix://") as caught:
        Client(parse(f"unix://{tmp_path}/none", "SCOW_HOST")).get("/info")
    assert "SCOW_HOST" in (caught.value.hint or "")


def test_the_starter_is_asked_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def starter() -> bool:
        asked.append(1)
        return True

    client = Client(parse(f"unix://{tmp_path}/none", ""), starter=starter)
    with pytest.raises(Unavailable):
        client.get("/info")
    assert asked == [1]


def test_a_long_socket_path_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with serve(Path("s")) as engine:
        engine.on("GET", "/info", {"ok": True})
        client = Client(parse(f"unix://{folder}/s", "--host"))
        assert client.get("/info") == {"ok": True}
        client.close()


def test_queries() -> None:
    query = {"a": True, "b": False, "c": None, "d": {"k": ["v"]}, "e": ["x", "y"], "f": 0, "g": "a b&c"}
    assert encode_query(query) == "?a=1&d=%7B%22k%22%3A%20%5B%22v%22%5D%7D&e=x&e=y&f=0&g=a%20b%26c"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('exec: "nope": executable file not found in $PATH', CommandNotFound),
        ("exec /x: no such file or directory", CommandNotFound),
        ("exec /etc: permission denied", CannotRun),
        ("port is already allocated", ScowError),
    ],
)
def test_a_failed_start_has_dockers_exit_code(message: str, kind: type[ScowError]) -> None:
    assert type(cannot_start(ScowError(message))) is kind


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


def test_frames_are_split_at_any_cut() -> None:
    chance = random.Random(7)
    frames = [(chance.choice((1, 2)), bytes(chance.randbytes(chance.randrange(0, 300)))) for _ in range(300)]
    wire = b"".join(frame(*one) for one in frames)
    out: list[bytes] = []
    err: list[bytes] = []
    demultiplexer = Demultiplexer(out.append, err.append)
    position = 0
    while position < len(wire):
        step = chance.randrange(1, 50)
        demultiplexer.feed(wire[position : position + step])
        position += step
    assert b"".join(out) == b"".join(data for stream, data in frames if stream == 1)
    assert b"".join(err) == b"".join(data for stream, data in frames if stream == 2)


def test_the_order_between_the_streams_stays() -> None:
    order: list[tuple[int, bytes]] = []
    demultiplexer = Demultiplexer(lambda data: order.append((1, data)), lambda data: order.append((2, data)))
    demultiplexer.feed(frame(1, b"a") + frame(1, b"b") + frame(2, b"c") + frame(1, b"d"))
    assert order == [(1, b"ab"), (2, b"c"), (1, b"d")]


def test_an_error_in_the_stream_is_raised() -> None:
    with pytest.raises(ScowError, match="it broke"):
        Demultiplexer(lambda _: None, lambda _: None).feed(frame(3, b"it broke\n"))


def test_short_lines_are_split_at_more_than_100_mib_a_second() -> None:
    block = frame(1, b"x" * 79 + b"\n") * 3000
    demultiplexer = Demultiplexer(lambda _: None, lambda _: None)
    best = 0.0
    for _ in range(10):  # the best of ten: a shared machine's caches are not always ours
        begin = time.process_time()
        for _ in range(8):
            demultiplexer.feed(block)
        best = max(best, 8 * 3000 * 80 / (time.process_time() - begin))
    assert best > 100 * 2**20
