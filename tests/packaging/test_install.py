"""The distributions as a user installs them: ``pip install .`` into a fresh environment, then without each plugin."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PLUGINS = sorted("scow-" + path.parent.name.replace("_", "-") for path in ROOT.glob("plugins/*/pyproject.toml"))
REPORT = (
    "import json, sys; from scow.config import Config; from scow.host import PluginHost\n"
    "print(json.dumps([line._asdict() for line in PluginHost(Config()).report()]))"
)


class Installed:
    """A virtual environment and what is in it."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The finished command, run outside the repository and without a developer's variables."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("SCOW_", "PYTHON"))}
        command = [str(self.bin / words[0]), *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environ)

    def pip(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *words)

    def report(self) -> list[dict[str, str]]:
        done = self.run("python", "-c", REPORT)
        assert done.returncode == 0, done.stderr
        lines: list[dict[str, str]] = json.loads(done.stdout)
        return lines


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment = Installed(tmp_path_factory.mktemp("venv") / "env")
    done = environment.pip("install", str(ROOT))
    if done.returncode and ("No matching distribution" in done.stderr or "Connection" in done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return environment


def test_one_command_installs_every_part(installed: Installed) -> None:
    names = {line["distribution"] for line in installed.report()}
    assert names == set(PLUGINS)
    assert {line["state"] for line in installed.report()} == {"unused"}


def test_the_programs_start(installed: Installed) -> None:
    for program in ("scow", "scowd"):
        done = installed.run(program, "--version")
        assert done.returncode == 0, done.stderr
        assert "0.1.0" in done.stdout


def test_the_sources_are_not_needed(installed: Installed) -> None:
    done = installed.run("python", "-c", "import scow, scow_storage_overlay as s; print(scow.__file__, s.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout


def test_every_driver_that_is_installed_can_be_imported(installed: Installed) -> None:
    program = (
        "from importlib.metadata import entry_points; from scow.ports import KINDS\n"
        "print([entry.load() for kind in KINDS for entry in entry_points(group=kind.group)])"
    )
    done = installed.run("python", "-W", "error", "-c", program)
    assert done.returncode == 0, done.stderr


def test_each_plugin_can_be_removed_and_the_rest_goes_on(installed: Installed) -> None:
    remaining = set(PLUGINS)
    for plugin in PLUGINS:
        done = installed.pip("uninstall", "--yes", plugin)
        assert done.returncode == 0, done.stderr
        remaining.discard(plugin)
        assert {line["distribution"] for line in installed.report()} == remaining
        assert installed.run("scow", "plugin", "ls", "--help").returncode == 0
        assert installed.run("scowd", "--help").returncode == 0


def test_installing_again_refreshes_the_parts(installed: Installed) -> None:
    done = installed.pip("install", str(ROOT))
    assert done.returncode == 0, done.stderr
    assert {line["distribution"] for line in installed.report()} == set(PLUGINS)
