"""``scow save``, ``load``, ``export`` and ``commit`` as processes against a fake engine."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_server import FakeEngine, Reply, serve


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with serve(tmp_path / "engine.sock") as engine:
        yield engine


def scow(engine: FakeEngine, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "scow.cli.main", "-H", engine.host, *words]
    return subprocess.run(command, capture_output=True, timeout=30, check=False, **options)


def test_a_save_goes_to_standard_output_or_to_a_file(engine: FakeEngine, tmp_path: Path) -> None:
    engine.on("GET", "/images/get", Reply(chunks=[b"tar " * 1000, b"end"]))
    assert scow(engine, "save", "a:1", "b:2").stdout == b"tar " * 1000 + b"end"
    assert "names=a%3A1&names=b%3A2" in engine.requests[-1].handler.path
    target = tmp_path / "out" / "images.tar"
    done = scow(engine, "image", "save", "-o", str(target), "a:1")
    assert (done.returncode, b"cannot write" in done.stderr) == (1, True)
    target.parent.mkdir()
    done = scow(engine, "save", "--platform", "linux/arm64", "-o", str(target), "a:1")
    assert (done.stdout, target.read_bytes()) == (b"", b"tar " * 1000 + b"end")
    assert json.loads(engine.requests[-1].query["platform"]) == {"os": "linux", "architecture": "arm64"}
    assert [path.name for path in target.parent.iterdir()] == ["images.tar"]


def test_a_save_that_fails_leaves_the_old_file(engine: FakeEngine, tmp_path: Path) -> None:
    target = tmp_path / "images.tar"
    target.write_bytes(b"old")
    engine.on("GET", "/images/get", Reply(404, {"message": "No such image: a:1"}))
    done = scow(engine, "save", "-o", str(target), "a:1")
    assert (done.returncode, done.stderr) == (1, b"scow: No such image: a:1\n")

    def cut(request: Any) -> None:
        request.handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        request.handler.close_connection = True

    engine.on("GET", "/containers/web/export", cut)
    done = scow(engine, "export", "-o", str(target), "web")
    assert done.returncode == 1
    assert b"closed the connection" in done.stderr
    assert target.read_bytes() == b"old"
    assert not list(tmp_path.glob(".scow-*"))


@pytest.mark.parametrize("words", [("save", "a:1"), ("export", "web")])
def test_no_tar_goes_to_a_terminal(engine: FakeEngine, words: tuple[str, ...]) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "scow.cli.main", "-H", engine.host, *words]
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(slave)
    os.close(master)
    assert done.returncode == 1
    assert b"cowardly refusing" in done.stderr
    assert engine.requests == []


def test_a_load_sends_the_archive_and_shows_what_was_loaded(engine: FakeEngine, tmp_path: Path) -> None:
    line = b'{"stream":"Loaded image: a:1\\n"}\r\n'
    engine.on("POST", "/images/load", Reply(chunks=[line]))
    archive = tmp_path / "images.tar"
    archive.write_bytes(b"tar" * 100_000)
    done = scow(engine, "load", "-i", str(archive))
    assert done.stdout == b"Loaded image: a:1\n"
    (request,) = engine.sent("POST", "/images/load")
    assert (request.body, request.query) == (b"tar" * 100_000, {"quiet": "1"})
    done = scow(engine, "image", "load", "--platform", "linux/amd64", input=b"from a pipe")
    assert engine.requests[-1].body == b"from a pipe"
    assert json.loads(engine.requests[-1].query["platform"]) == {"os": "linux", "architecture": "amd64"}


def test_a_load_that_fails_says_why(engine: FakeEngine, tmp_path: Path) -> None:
    assert b"cannot read" in scow(engine, "load", "-i", str(tmp_path / "nothing")).stderr
    assert engine.requests == []
    error = {"errorDetail": {"message": "digest mismatch"}, "error": "digest mismatch"}
    engine.on("POST", "/images/load", Reply(chunks=[json.dumps(error).encode() + b"\r\n"]))
    done = scow(engine, "load", input=b"x")
    assert (done.returncode, done.stderr) == (1, b"scow: digest mismatch\n")


def test_a_commit_says_what_the_command_line_says(engine: FakeEngine) -> None:
    engine.on("POST", "/commit", Reply(201, {"Id": "sha256:abc"}))
    done = scow(
        engine, "commit", "-a", "me", "-m", "why", "-c", "CMD sh", "-c", "USER 1", "--pause=false", "web", "mine:1"
    )
    assert done.stdout == b"sha256:abc\n"
    (request,) = engine.sent("POST", "/commit")
    assert request.query == {
        "container": "web",
        "repo": "mine:1",
        "author": "me",
        "comment": "why",
        "changes": "CMD sh",
        "pause": "0",
    }
    assert "changes=CMD%20sh&changes=USER%201" in request.handler.path
    scow(engine, "container", "commit", "web")
    assert engine.requests[-1].query == {"container": "web", "pause": "1"}
