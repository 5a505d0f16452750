"""The pages hold together: links lead somewhere, commands exist, nothing of one machine is in them."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from scow import config
from scow.cli.grammar import LazyGroup
from scow.cli.main import root
from tests.docs.pages import DOCS, ROOT, anchors, blocks, links, pages

NAMES = [str(path.relative_to(ROOT)) for path in pages()]
_OPTION = re.compile(r"--?[A-Za-z]")


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    ahead = [DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
        ahead += [target for target in targets if target.is_file()]
    parts = ("tutorials", "how-to", "reference", "explanation")
    assert {page for part in parts for page in (DOCS / part).glob("*.md")} <= reached


def commands(text: str) -> list[list[str]]:
    """The words of each ``scow …`` in the lines of a shell block, up to a pipe or the like."""
    found = []
    for line in text.splitlines():
        line = line.removeprefix("$ ")
        if match := re.match(r"(?:\w+=\S+ )*(?:sudo )?(?:[\w./$-]*/)?scow (.*)", line):
            lexer = shlex.shlex(match[1].split(" #")[0], posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words = []
            for word in lexer:
                if set(word) <= set("|&;<>"):
                    break
                words.append(word)
            found.append(words)
    return found


def shell_blocks(name: str) -> list[str]:
    """Blocks of commands: those called console, and in the READMEs those without a language."""
    wanted = ("console",) if name.startswith("docs/") else ("console", "")
    return [block.text for block in blocks(ROOT / name) if block.language in wanted]


@pytest.mark.parametrize("name", [name for name in NAMES if "reference/" not in name])
def test_every_command_and_option_exists(name: str) -> None:
    for text in shell_blocks(name):
        for words in commands(text):
            command: click.Command = root
            context = click.Context(root, info_name="scow")
            while words and isinstance(command, LazyGroup) and not words[0].startswith("-"):
                found = command.get_command(context, words[0])
                assert found is not None, words
                command, context = found, click.Context(found, info_name=words[0], parent=context)
                words = words[1:]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            interspersed = command.context_settings.get("allow_interspersed_args", True)
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in known, (words, word)
                elif _OPTION.match(word):
                    assert f"-{word[1]}" in known, (words, word)
                elif not interspersed and ("/" in word or word in ("nginx", "busybox", "web")):
                    break  # the image or container: what follows is its command


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_valid(name: str, tmp_path: Path) -> None:
    for block in blocks(ROOT / name):
        if block.language == "yaml" and block.title != "registry.yml":
            assert isinstance(yaml.safe_load(block.text), dict)
            file = tmp_path / "scow.yaml"
            file.write_text(block.text)
            config.load(file, {}, {})
        elif block.language == "toml":
            tomllib.loads(block.text)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_one_machine_is_in_it(name: str) -> None:
    text = (ROOT / name).read_text()
    assert str(ROOT) not in text
    assert not re.search(r"/(home|Users|root)/\w", text)


@pytest.mark.parametrize("folder", sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")), ids=str)
def test_every_plugin_says_what_it_is(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert text.startswith(f"# {project['name']}\n")
    assert "Needs" in text or "Host needs" in text
    for group, names in project["entry-points"].items():
        assert group == "scow.registry" or all(f"`{name}`" in text for name in names)
    source = "".join(path.read_text() for path in folder.rglob("*.py"))
    for option in re.findall(r"context\.options\.get\(\"(\w+)\"", source):
        assert f"`{option}`" in text or f"{option}:" in text, option


def test_decisions_are_numbered_and_in_one_form() -> None:
    files = sorted((DOCS / "adr").glob("*.md"))
    for number, file in enumerate(files, 1):
        text = file.read_text()
        assert file.name.startswith(f"{number:04d}-") and text.startswith(f"# {number}. ")
        titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert titles == ["Context", "Decision", "Consequences"] and "\nStatus: " in text
