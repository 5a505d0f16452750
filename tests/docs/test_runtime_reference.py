"""docs/reference/runtime.md: each line of its tables names tests that are there, and each line of the spec has one."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "reference/runtime.md"
SPEC = ROOT / "tests/docs/runtime_spec.txt"


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


def spoken_of(cell: str) -> set[str]:
    """What a cell of the first column is about: itself, and each name in it, also with the object of the one before."""
    found, parent = {cell}, ""
    for name in re.findall(r"`([^`]+)`", cell):
        found |= {name, f"{parent}.{name}"}
        if not name.startswith("/") and "." in name:
            parent = name.rpartition(".")[0]
    return found


def lines_of_the_spec() -> list[str]:
    return [line for line in SPEC.read_text().splitlines() if line and not line.startswith("#")]


def is_covered(line: str, names: set[str]) -> bool:
    """Whether a row speaks of *line*, or of the array in whose elements it is."""
    parts = line.split("[]")
    return any("[]".join(parts[:count]) in names for count in range(1, len(parts) + 1))


def test_every_line_has_a_property_a_way_and_tests_that_exist() -> None:
    tests = written()
    for row in rows():
        assert len(row) == 3 and all(row), row
        assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", row[2]), row[2]
        assert [name for name in re.findall(r"\w+", row[2]) if name not in tests] == [], row[0]


def test_every_line_of_the_spec_has_one_here() -> None:
    names = {name for row in rows() for name in spoken_of(row[0])}
    assert [line for line in lines_of_the_spec() if not is_covered(line, names)] == []


def test_names_without_a_dot_stand_in_the_object_of_the_one_before() -> None:
    found = spoken_of("`a.b.c`, `d` and `/dev/x.y`, `e`")
    assert {"a.b.c", "a.b.d", "d", "/dev/x.y", "a.b.e"} <= found
    assert is_covered("m[].o[].p", {"m"}) and is_covered("m[].o[].p", {"m[].o"})
    assert not is_covered("m.o", {"m"}) and not is_covered("m[].o", {"m[].p"})


@pytest.mark.parametrize("title", ["Lifecycle", "Root and mounts", "Process", "Namespaces", "Devices", "Seccomp"])
def test_the_parts_of_the_spec_have_their_tables(title: str) -> None:
    assert f"\n## {title}\n\n| property | how | test |\n" in PAGE.read_text()
