"""Who may import whom (docs/architecture.md, "Invariants"): read from the sources, and tried in a fresh interpreter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "scow"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
LINE_BUDGET = 400
FUNCTION_BUDGET = 80


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that *path* names in an import, wherever it stands; ``from a import b`` is ``a`` and ``a.b``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who needs whom"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def offenders(paths: list[Path], banned: Callable[[str], bool]) -> list[str]:
    return sorted(
        {f"{path.relative_to(ROOT)} imports {name}" for path in paths for name in imports(path) if banned(name)}
    )


def top(name: str) -> str:
    return name.partition(".")[0]


def plugin_sources() -> list[Path]:
    return [path for plugin in PLUGINS for path in sources(plugin)]


def test_core_imports_no_plugin() -> None:
    assert offenders(sources(CORE), lambda name: top(name).startswith("scow_")) == []


def test_no_plugin_imports_another() -> None:
    for plugin in PLUGINS:
        others = {f"scow_{other.name}" for other in PLUGINS if other != plugin}
        assert offenders(sources(plugin), lambda name, others=others: top(name) in others) == []  # type: ignore[misc]


def test_only_the_host_imports_pluggy_and_stevedore() -> None:
    users = [path for path in sources(CORE) if path != CORE / "host.py"] + plugin_sources()
    found = offenders(users, lambda name: top(name) in ("pluggy", "stevedore"))
    markers = [line for line in found if line.startswith("core/scow/hookspecs.py imports pluggy")]
    assert [line for line in found if line not in markers] == []
    assert "stevedore" not in {top(name) for name in imports(CORE / "hookspecs.py")}


def test_only_linux_and_the_native_runtime_import_ctypes() -> None:
    users = [path for path in sources(CORE) if CORE / "linux" not in path.parents]
    users += [path for path in plugin_sources() if "scow_runtime_native" not in path.parts]
    assert offenders(users, lambda name: top(name) in ("ctypes", "_ctypes", "cffi")) == []


@pytest.mark.parametrize(
    ("part", "banned"),
    [
        ("cli", ("scow.engine", "scow.api", "scow.state", "scow.host", "scow.monitor")),
        ("api", ("scow.cli", "scow.monitor", "scow.state", "scow.linux")),
        ("engine", ("scow.api", "scow.cli")),
        ("ports", ("scow.api", "scow.cli", "scow.engine", "scow.state", "scow.host", "scow.monitor", "scow.linux")),
        ("linux", ("scow.api", "scow.cli", "scow.engine", "scow.state", "scow.host", "scow.monitor", "scow.ports")),
        ("monitor", ("scow.api", "scow.cli", "scow.engine", "scow.state", "scow.host", "scow.ports")),
    ],
)
def test_layers_call_in_one_direction(part: str, banned: tuple[str, ...]) -> None:
    assert offenders(sources(CORE / part), lambda name: within(name, *banned)) == []


def test_plugins_use_the_ports_and_not_the_engine() -> None:
    banned = ("scow.api", "scow.cli", "scow.engine", "scow.state", "scow.host", "scow.config", "scow.writer")
    assert offenders(plugin_sources(), lambda name: within(name, *banned)) == []


def test_only_the_bridge_plugin_imports_pyroute2_and_only_the_state_sqlite() -> None:
    users = sources(CORE) + [path for path in plugin_sources() if "scow_net_bridge" not in path.parts]
    assert offenders(users, lambda name: top(name) in ("pyroute2", "nftables")) == []
    store = {CORE / "state.py", CORE / "writer.py", CORE / "schema.py"}
    users = [path for path in sources(CORE) + plugin_sources() if path not in store]
    assert offenders(users, lambda name: top(name) == "sqlite3") == []


def loaded_by(*modules: str) -> set[str]:
    """The modules that a fresh interpreter has loaded for *modules* and not by itself."""
    program = (
        "import sys, json; before = set(sys.modules)\n"
        f"import {', '.join(modules)}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_command_line_starts_without_heavy_modules() -> None:
    heavy = {"requests", "pyroute2", "stevedore", "aiohttp", "msgspec", "pluggy", "yaml", "asyncio", "sqlite3", "rich"}
    assert {top(name) for name in loaded_by("scow.cli.main")} & heavy == set()


def test_the_configuration_reads_no_yaml_without_a_file() -> None:
    assert {top(name) for name in loaded_by("scow.config")} & {"yaml", "msgspec", "pluggy"} == set()


def test_the_engines_own_modules_import_no_driver_library() -> None:
    heavy = {"requests", "pyroute2", "stevedore", "nftables", "yaml", "rich", "click"}
    assert {top(name) for name in loaded_by("scow.engine.engine", "scow.host")} & heavy == set()


def test_plugins_that_know_credentials_load_their_clouds_library_when_they_are_asked() -> None:
    heavy = {"botocore", "google", "requests", "urllib3", "cryptography"}
    assert {top(name) for name in loaded_by("scow_registry_ecr", "scow_registry_gcr")} & heavy == set()


def child_modules() -> list[str]:
    from scow_runtime_native import NativeRuntime
    from scow_runtime_oci import OciRuntime

    return [NativeRuntime.child_module, OciRuntime.child_module]


def test_the_zygote_side_is_standard_library_only() -> None:
    loaded = loaded_by("scow.monitor.zygote", "scow.monitor.monitor", *child_modules())
    allowed = (
        *("scow", "scow.errors", "scow.plain_json", "scow.linux", "scow.monitor"),
        *("scow_runtime_native", "scow_runtime_oci"),
    )
    foreign = {name for name in loaded if top(name) not in sys.stdlib_module_names and not within(name, *allowed[1:])}
    assert foreign - {"scow"} == set()
    assert {"asyncio", "sqlite3", "ssl", "logging", "threading", "dataclasses"} & loaded <= {"threading", "logging"}


def test_every_distribution_has_the_same_version_and_a_name_like_its_folder() -> None:
    files = [
        ROOT / "pyproject.toml",
        ROOT / "core" / "pyproject.toml",
        *(plugin / "pyproject.toml" for plugin in PLUGINS),
    ]
    projects = {path.parent.name: tomllib.loads(path.read_text())["project"] for path in files}
    assert len({project["version"] for project in projects.values()}) == 1
    for plugin in PLUGINS:
        assert projects[plugin.name]["name"] == "scow-" + plugin.name.replace("_", "-")
        assert (plugin / f"scow_{plugin.name}" / "__init__.py").exists()
        assert (plugin / f"scow_{plugin.name}" / "py.typed").exists()
        assert not (plugin / "__init__.py").exists()


def test_the_root_and_the_requirements_name_every_part() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = (ROOT / "requirements-dev.txt").read_text().splitlines()
    for folder in ["core", *(f"plugins/{plugin.name}" for plugin in PLUGINS)]:
        assert any(line.endswith(f"/{folder}") for line in root["project"]["dependencies"]), folder
        assert f"-e ./{folder}" in requirements
        assert folder in root["tool"]["mypy"]["mypy_path"].split(":")


def test_modules_have_names_that_say_something() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
    assert [path for path in sources(CORE) + plugin_sources() if path.stem in empty] == []


def test_files_and_functions_stay_readable() -> None:
    long_files, long_functions = [], []
    for path in sources(CORE) + plugin_sources():
        if len(path.read_text().splitlines()) > LINE_BUDGET:
            long_files.append(str(path.relative_to(ROOT)))
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_BUDGET:
                    long_functions.append(f"{path.relative_to(ROOT)}:{node.name} ({lines})")
    assert (long_files, long_functions) == ([], [])
