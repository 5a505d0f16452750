"""The command line starts quickly: what it must not import, and how long it may take."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.cli_server import serve

HEAVY = "requests pyroute2 stevedore aiohttp msgspec pluggy asyncio rich http.client ssl subprocess yaml email hashlib"
CORE = "scow.engine scow.api scow.host scow.state scow.ports scow.types"
HELP_S = 0.060
PS_S = 0.080
GENEROUS = 6  # the machines that run this are shared; a heavy import costs more than that


def loaded(*words: str) -> set[str]:
    """The modules that are loaded when ``scow`` has done *words*."""
    code = (
        "import sys; sys.argv = ['scow', *sys.argv[1:]]\n"
        "from scow.cli.main import main\n"
        "main()\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize("words", [["--help"], ["ps"], ["run", "--help"], ["container", "--help"]])
def test_nothing_heavy_is_imported(words: list[str], tmp_path: Path) -> None:
    with serve(tmp_path / "s") as engine:
        engine.on("GET", "/containers/json", [])
        modules = loaded("-H", engine.host, *words)
    assert modules & set(HEAVY.split()) == set()
    assert modules & set(CORE.split()) == set()


def test_the_help_imports_no_command() -> None:
    modules = {name for name in loaded("--help") if name.startswith("scow.cli.")}
    assert modules == {f"scow.cli.{name}" for name in ("main", "commands", "grammar", "failures", "session", "hosts")}


def quickest(words: list[str]) -> float:
    times = []
    for _ in range(5):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "scow.cli.main", *words], capture_output=True, check=True)
        times.append(time.monotonic() - begin)
    return min(times)


def test_help_and_ps_are_quick(tmp_path: Path) -> None:
    assert quickest(["--help"]) < HELP_S * GENEROUS
    with serve(tmp_path / "s") as engine:
        engine.on("GET", "/containers/json", [])
        assert quickest(["-H", engine.host, "ps"]) < PS_S * GENEROUS
