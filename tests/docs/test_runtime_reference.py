"""docs/reference/runtime.md: each line of its tables names a test, and that test is there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "reference/runtime.md"


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| property")
    ]


def written() -> set[str]:
    """The names of all tests, those of the conformance kit too."""
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("core/scow/testing/*.py")]
    return {
        name for source in sources for name in re.findall(r"^ *(?:async )?def (test_\w+)", source.read_text(), re.M)
    }


def test_every_line_has_a_property_a_way_and_a_test_that_exists() -> None:
    tests = written()
    for row in rows():
        assert len(row) == 3 and all(row), row
        named = re.fullmatch(r"`(test_\w+)`", row[2])
        assert named and named[1] in tests, row[2]


@pytest.mark.parametrize("title", ["Lifecycle", "Root and mounts", "Process", "Namespaces", "Devices", "Seccomp"])
def test_the_parts_of_the_spec_have_their_tables(title: str) -> None:
    assert f"\n## {title}\n\n| property | how | test |\n" in PAGE.read_text()
