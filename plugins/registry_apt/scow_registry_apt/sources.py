"""The host's package sources (sources.list(5): one-line and deb822 style)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from scow.errors import DriverUnusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)")
_SCHEMES = frozenset({"http", "https"})
_POCKETS = ("-updates", "-security")


@dataclass(frozen=True, slots=True)
class Source:
    """One suite at one place. *signed_by* is the path of a keyring, or ``""``: the host's trusted ones."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self, *, keyrings_below: Path | None = None) -> str:
        """The source as a line of sources.list; with *keyrings_below* as it holds inside that root: without a user name
        and password, and without a keyring that the root does not have."""
        uri, signed_by = self.uri, self.signed_by
        if keyrings_below is not None:
            parts = urlsplit(uri)
            uri = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            if not (keyrings_below / signed_by.lstrip("/")).is_file():
                signed_by = ""
        option = f"[signed-by={signed_by}] " if signed_by else ""
        return f"deb {option}{uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where the host's distribution comes from: *distribution* (``debian``), *suite* (``bookworm``) and its sources,
    that of the suite itself first, then its updates and security updates."""

    distribution: str
    suite: str
    sources: tuple[Source, ...]

    def of_suite(self, suite: str) -> tuple[Source, ...]:
        """The same sources for another *suite* of the distribution."""
        if suite in ("sid", "unstable", "experimental"):  # they have no updates of their own
            return (replace(self.sources[0], suite=suite),)
        return tuple(replace(source, suite=suite + source.suite.removeprefix(self.suite)) for source in self.sources)


def read_mirror(etc: Path = Path("/etc")) -> Mirror:
    """The host's mirror, as apt is configured below *etc*. Raises `DriverUnusable` where there is none."""
    release = _os_release(etc / "os-release")
    distribution, suite = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    found = [source for source in read_sources(etc / "apt") if urlsplit(source.uri).scheme in _SCHEMES]
    main = [source for source in found if source.components[:1] == ("main",)]
    if not suite and main:
        suite = main[0].suite
    first = [source for source in main if source.suite == suite]
    # A vendor may name its own suites after the distribution's: what looks like an archive goes before.
    first.sort(key=lambda source: not _looks_like_archive(source, distribution))
    if not distribution or not first:
        raise DriverUnusable(
            f"no package source for {distribution or 'this system'} {suite} below {etc / 'apt'}".replace("  ", " "),
            hint="images of apt.local are built from the mirror in the host's sources.list",
        )
    pockets = [source for pocket in _POCKETS for source in main if source.suite == suite + pocket]
    sources = [replace(source, components=("main", *_universe(source))) for source in (first[0], *pockets)]
    return Mirror(distribution, suite, tuple(sources))


def read_sources(apt: Path) -> list[Source]:
    """All binary sources below *apt*, in apt's order: ``sources.list``, then ``sources.list.d`` by name."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        if file.suffix == ".sources":
            found += _deb822(text)
        elif file.suffix == ".list":
            found += _one_lines(text.splitlines())
    return found


def _one_lines(lines: Iterable[str]) -> Iterator[Source]:
    for line in lines:
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        yield Source(
            match["uri"].rstrip("/"),
            match["suite"],
            tuple(match["components"].split()),
            _keyring(options.get("signed-by")),
        )


def _deb822(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri.rstrip("/"), suite, components, _keyring(fields.get("signed-by")))


def _keyring(signed_by: str | None) -> str:
    """The keyring's path; a key in the file itself or a fingerprint leaves the choice to apt's trusted keys."""
    first = (signed_by or "").split(",")[0].strip()
    return first if first.startswith("/") and " " not in first and "\n" not in first else ""


def _looks_like_archive(source: Source, distribution: str) -> bool:
    return (
        urlsplit(source.uri).path.rstrip("/").endswith(f"/{distribution}")
        or f"{distribution}-archive" in source.signed_by
    )


def _universe(source: Source) -> tuple[str, ...]:
    """Ubuntu keeps most servers in ``universe``."""
    return ("universe",) if "universe" in source.components else ()


def _os_release(path: Path) -> dict[str, str]:
    """os-release(5)."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=")[::2] for line in lines if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}
