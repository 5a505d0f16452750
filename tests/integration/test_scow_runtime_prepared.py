"""``scow-runtime`` leaves for its later runs what those begin with (ADR 14)."""

from __future__ import annotations

import json
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import Unavailable
from scow_runtime_native.command import prepared
from tests.runtime_command import PROGRAM, Bench

pytestmark = pytest.mark.root


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Path]:
    """The command under a name that was never used, beside the Python of this environment."""
    folder = tmp_path / "it's bin"
    folder.mkdir()
    command = folder / "scow-runtime"
    shutil.copy(PROGRAM, command)
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    yield command
    shutil.rmtree(prepared.FOLDER + str(tmp_path), ignore_errors=True)


def run(command: Path, bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(command), "--root", str(bench.root), *words]
    return subprocess.run(
        arguments, cwd=bench.bundle, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def interpreter(command: Path, bench: Bench, id: str) -> str:
    """What the init of a container that waits for its start runs, through whose name nobody can write."""
    bench.configure("sleep", "1000")
    words = [str(command), "--root", str(bench.root), "create", id]
    subprocess.run(words, cwd=bench.bundle, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = json.loads(run(command, bench, "state", id).stdout)["pid"]
    exe = os.readlink(f"/proc/{pid}/exe")
    with pytest.raises(OSError):
        os.open(f"/proc/{pid}/exe", os.O_RDWR)
    run(command, bench, "delete", "--force", id)
    return exe


def test_the_first_run_has_a_copy_and_later_ones_a_mount(command: Path, bench: Bench) -> None:
    start = Path(prepared.FOLDER + str(command)) / "start"
    assert not start.exists() and interpreter(command, bench, "a").startswith("/memfd:")
    assert start.exists() and interpreter(command, bench, "b").startswith(prepared.FOLDER)
    assert start.stat().st_mode & 0o777 == 0o600
    assert Path(prepared.FOLDER).stat().st_mode & 0o777 == 0o700


def test_a_prepared_run_does_and_says_the_same(command: Path, bench: Bench) -> None:
    bench.configure("sh", "-c", "echo out; echo err >&2; exit 3")
    first, second = run(command, bench, "run", "a"), run(command, bench, "run", "a")
    assert (first.returncode, first.stdout, first.stderr) == (3, "out\n", "err\n")
    assert (second.returncode, second.stdout, second.stderr) == (3, "out\n", "err\n")
    assert "unknown command 'none'" in run(command, bench, "none").stderr
    (bench.bundle / "config.json").write_text("{")
    assert "is not JSON" in run(command, bench, "run", "a").stderr
    assert run(command, bench, "features").returncode == 0


def test_the_environment_of_the_caller_does_not_come_with_it(command: Path, bench: Bench) -> None:
    bench.configure("true")
    run(command, bench, "run", "a")
    spec = bench.configure("sleep", "1000")
    bench.write(spec)
    words = [str(command), "--root", str(bench.root), "create", "b"]
    secret = {**os.environ, "SECRET": "of-the-caller"}
    subprocess.run(words, cwd=bench.bundle, env=secret, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = json.loads(run(command, bench, "state", "b").stdout)["pid"]
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"SECRET" not in file.read()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            first, _, rest = line.partition("-")
            if "rw-p" in rest:
                memory.seek(int(first, 16))
                assert b"of-the-caller" not in memory.read(int(rest.split()[0], 16) - int(first, 16))
    run(command, bench, "delete", "--force", "b")


def test_a_changed_source_makes_the_next_run_prepare_anew(command: Path, bench: Bench) -> None:
    bench.configure("true")
    assert run(command, bench, "run", "a").returncode == 0
    folder = Path(prepared.FOLDER + str(command))
    code = (folder / "code").read_bytes()
    entries = marshal.loads(code)
    source, package, changed_ns, size, data = entries["scow_runtime_native.child"]
    entries["scow_runtime_native.child"] = (source, package, changed_ns - 1, size, data)
    (folder / "code").write_bytes(marshal.dumps(entries))
    assert run(command, bench, "run", "a").returncode == 0 and not (folder / "start").exists()
    assert run(command, bench, "run", "a").returncode == 0 and (folder / "code").read_bytes() == code


def test_through_a_link_it_is_the_same_command(command: Path, bench: Bench, tmp_path: Path) -> None:
    bench.configure("true")
    link = tmp_path / "link"
    link.symlink_to(command)
    for _ in range(2):
        assert run(link, bench, "run", "a").returncode == 0
    assert (Path(prepared.FOLDER + str(link)) / "start").exists()


def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    at = tmp_path / "prepared"
    at.mkdir(mode=0o755)
    with pytest.raises(Unavailable, match="open to others"):
        prepared.prepare("/a/scow-runtime", sys.executable, "/usr", (), [], str(at))
    assert not list(at.rglob("start"))
