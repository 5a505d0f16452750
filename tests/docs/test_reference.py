"""The reference is complete, and is what ``make docs`` writes."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import click
import pytest

from docs import generate
from scow import config
from scow.api import scow_v1, server
from scow.cli.grammar import LazyGroup
from scow.cli.main import root
from scow.ports import KINDS

ROOT = Path(__file__).parent.parent.parent


def page(name: str) -> str:
    """The text of a page as it lies on disk."""
    return (generate.REFERENCE / name).read_text()


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_page_is_what_the_generator_writes(name: str) -> None:
    assert page(name) == generate.PAGES[name](), "run make docs"


def test_there_is_no_page_that_nobody_writes() -> None:
    by_hand = {"runtime.md"}  # has a test of its own
    assert {path.name for path in generate.REFERENCE.iterdir()} == set(generate.PAGES) | by_hand


def test_every_hook_is_there_with_its_arguments() -> None:
    text = page("hooks.md")
    hooks = generate.hook_functions()
    assert len(hooks) >= 3
    for name, function in hooks.items():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert all(argument in section for argument in inspect.signature(function).parameters), name


def test_every_method_of_every_driver_protocol_is_there() -> None:
    text = page("drivers.md")
    for kind in KINDS:
        section = text.partition(f"## {kind.name}\n")[2].partition("\n## ")[0]
        assert f"`{kind.group}`" in section
        for name, member in vars(kind.protocol).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                assert f"#### {kind.protocol.__name__}.{name}\n" in section, (kind.name, name)
        for attribute in kind.protocol.__annotations__:
            assert f"\n{attribute}: " in section, (kind.name, attribute)


def test_every_error_is_there_with_its_status_and_exit_code() -> None:
    text = page("errors.md")
    assert len(generate.error_classes()) >= 19
    for error in generate.error_classes():
        row = re.search(rf"^\| `{error.__name__}` \|.*$", text, re.MULTILINE)
        assert row is not None, error
        assert f"| {error.http_status} | {error.exit_code} |" in row[0], error


def test_every_config_key_is_there_with_its_variable() -> None:
    rows = dict(re.findall(r"^\| `([a-z_.]+?)(?:\.…)?` \|(.*)$", page("config.md"), re.MULTILINE))
    assert set(rows) == {*config.PARSERS, *config.OPEN_PARSERS}
    for variable, key in config.VARIABLES.items():
        assert f"`{variable}`" in rows[key]
    assert all(f"`{field.name}`" in rows["registries"] for field in dataclasses.fields(config.RegistryConfig))


def commands(group: LazyGroup, path: str) -> list[tuple[str, click.Command]]:
    """Every command below *group*, by its words."""
    context = click.Context(group, info_name=path)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{path} {name}", command))
        if isinstance(command, LazyGroup):
            found += commands(command, f"{path} {name}")
    return found


def test_every_command_is_there_with_its_options() -> None:
    text = page("cli.md")
    for path, command in commands(root, "scow"):
        section = re.search(rf"^##+ {path}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None, path
        if "The same as" in section[1]:
            continue
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1] in section[1], (path, option.opts)


def test_every_route_is_there_once() -> None:
    text = page("api.md")
    built, _, unbuilt = text.partition("## Not built")
    for route in [*server.routes(), *scow_v1.ROUTES]:
        rows = built.count(f"| {route.method} | `{route.path}` |")
        lines = len(re.findall(rf"^{route.method} +{re.escape(route.path)}$", unbuilt, re.MULTILINE))
        assert rows + lines == 1, route.path
