"""Each attack that the security page lists is tried by tests that are there."""

from __future__ import annotations

import ast
import re

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "explanation" / "security.md"


def rows() -> list[list[str]]:
    section = PAGE.read_text().partition("## Each attack and its test")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def known_tests() -> set[str]:
    found = set()
    for folder in ("unit", "integration"):
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            found.add(path.name)
            tree = ast.parse(path.read_text())
            found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return found


def test_every_attack_names_tests_that_exist() -> None:
    known = known_tests()
    assert len(rows()) >= 35
    for attack, _harm, _why, names in rows():
        named = re.findall(r"`(test_\w+)`", names)
        assert named, attack
        assert [name for name in named if name not in known] == [], attack


def test_test_files_that_the_page_names_exist() -> None:
    assert set(re.findall(r"`(test_\w+\.py)`", PAGE.read_text())) <= known_tests()
