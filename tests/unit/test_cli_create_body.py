"""The body of ``POST /containers/create`` is the one that docker's own command line sends for the same words.

The bodies of docker 28.2.2 are kept in ``data/docker_create.json``; where a ``docker`` is on the path, it is asked too.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scow.cli.main import root
from tests.unit.cli_server import FakeEngine, Reply, serve

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "docker_create.json"
ENVIRONMENT = {"FROM_OUTSIDE": "outer", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
CASES = [line for line in (DATA / "create_lines.txt").read_text().splitlines() if line and not line.startswith("#")]
ACCEPTED = [line for line in CASES if not line.startswith("!")]
REFUSED = [line[1:].strip() for line in CASES if line.startswith("!")]


def normal(value: Any) -> Any:
    """Without what says nothing: null, zero, empty. Binds have no order in docker's client."""
    if isinstance(value, dict):
        cleaned = {key: normal(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item not in (None, "", 0, False, [], {})} or {}
    if isinstance(value, list):
        return [normal(item) if item != "" else "" for item in value]
    return value


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    host = body["HostConfig"]
    if host.get("MemorySwappiness") == -1:
        del host["MemorySwappiness"]
    host.pop("ConsoleSize", None)
    for name in ("Binds", "DnsOptions", "GroupAdd"):
        if host.get(name):
            host[name] = sorted(host[name])
    body["Env"] = sorted(body.get("Env") or [])  # docker's client sends them in any order
    entrypoint = body.get("Entrypoint")
    masked = {name: host.get(name) for name in ("MaskedPaths", "ReadonlyPaths")}
    result = normal(body)
    return {**result, "Entrypoint": entrypoint, "paths": masked}


def record(tmp_path: Path) -> Any:
    return serve(tmp_path / "s")


def body_of(engine: FakeEngine) -> dict[str, Any]:
    (request,) = engine.sent("POST", "/containers/create")
    return {"query": request.query, "body": comparable(request.json)}


def accept(engine: FakeEngine) -> None:
    engine.on("POST", "/containers/create", Reply(201, {"Id": "a" * 64, "Warnings": []}))


def by_docker(line: str, tmp_path: Path) -> dict[str, Any] | str:
    with record(tmp_path) as engine:
        accept(engine)
        done = subprocess.run(
            ["docker", "-H", engine.host, "create", *shlex.split(line)],
            capture_output=True,
            text=True,
            cwd=DATA,
            env=ENVIRONMENT,
            check=False,
        )
        return body_of(engine) if done.returncode == 0 else done.stderr


def by_scow(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(DATA)
    monkeypatch.setattr("os.environ", dict(ENVIRONMENT))
    with record(tmp_path) as engine:
        accept(engine)
        result = CliRunner().invoke(root, ["-H", engine.host, "create", *shlex.split(line)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert result.stdout == "a" * 64 + "\n"
        return body_of(engine)


def located(value: Any) -> Any:
    """The folder of the data as ``@DATA@``, the one above as ``@UNIT@``: the kept bodies hold no path of a machine."""
    return json.loads(json.dumps(value).replace(str(DATA), "@DATA@").replace(str(DATA.parent), "@UNIT@"))


@pytest.mark.parametrize("line", ACCEPTED)
def test_the_body_is_dockers(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert located(by_scow(line, tmp_path, monkeypatch)) == json.loads(GOLDEN.read_text())[line]


@pytest.mark.parametrize("line", REFUSED)
def test_what_docker_refuses_is_refused(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)
    with record(tmp_path) as engine:
        accept(engine)
        result = CliRunner().invoke(root, ["-H", engine.host, "create", *shlex.split(line)])
        assert result.exit_code != 0
        assert engine.sent("POST", "/containers/create") == []


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command on the path to compare with")
@pytest.mark.slow
def test_the_kept_bodies_are_what_docker_sends(tmp_path: Path) -> None:
    kept = json.loads(GOLDEN.read_text())
    for number, line in enumerate(ACCEPTED):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert located(by_docker(line, folder)) == kept[line], line
    for number, line in enumerate(REFUSED):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        assert isinstance(by_docker(line, folder), str), line
