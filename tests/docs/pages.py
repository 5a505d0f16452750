"""Reads the documentation: its pages, their links, and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: *language*, and the file that it is the content of (``title="…"``)."""

    language: str
    title: str
    text: str


def pages() -> list[Path]:
    """Every page: those of docs/, of the plugins, and README.md."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of *page*, in order."""
    return [Block(*match) for match in _FENCE.findall(page.read_text())]


def links(page: Path) -> list[str]:
    """The targets of the links of *page*."""
    text = _FENCE.sub("", page.read_text())
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """What ``#…`` may name in *page*: its titles, as GitHub makes anchors of them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
