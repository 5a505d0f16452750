"""A package index of our own: apt on the host, with its state below a folder, for any suite of the host's mirror.

The host's own apt state is neither read nor changed; of its configuration only how to reach mirrors (proxies, retries)
counts. Packages are looked up, checked and downloaded here, so that a root under construction needs no network.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scow_registry_apt.sources import Source

INSTALL = ("--yes", "--quiet", "--no-install-recommends")
_INSTALLS = re.compile(r"^Inst (\S+) .*?\(([^ )]+)", re.MULTILINE)
_FORWARDED = re.compile(
    r"^Acquire::(?!IndexTargets|Languages|cdrom|CompressionTypes|Changelogs|GzipIndexes)", re.MULTILINE
)
_SECRET = re.compile(r"(?<=://)[^/@\s]+@")


class DownloadFailed(Unavailable):
    """An archive that the index names cannot be had; a newer index may name another."""


@dataclass(frozen=True, slots=True)
class Change:
    """A package that would be installed or upgraded."""

    package: str
    version: str


class PackageIndex:
    """The index of *suite* below *folder*, from *sources*. Not thread-safe: one at a time holds it."""

    def __init__(self, folder: Path, suite: str, sources: Sequence[Source]) -> None:
        self.folder, self.suite, self.sources = folder, suite, tuple(sources)
        self.lists = folder / "lists"
        self._config = folder / "apt.conf"
        self._stamp = folder / "updated"

    @property
    def digest(self) -> str:
        """Of the release files: the same as long as the mirror says the same. ``""`` before the first update."""
        digest = hashlib.sha256()
        files = sorted(self.lists.glob("*Release"))
        for file in files:
            digest.update(file.read_bytes())
        return digest.hexdigest() if files else ""

    def age_s(self) -> float:
        """Seconds since the last successful update; infinite where there was none."""
        try:
            return time.time() - self._stamp.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def update(self) -> None:
        """The index is what the mirror has now. Raises `NotFound` where the mirror has no such suite, `Unavailable`."""
        self._prepare()
        done = self._run("apt-get", "--quiet", "-o", "APT::Update::Error-Mode=any", "update")
        if done.returncode:
            text = _errors(done)
            if "does not have a Release file" in text or " 404 " in text:
                raise NotFound(f"no suite {self.suite!r} at the host's package mirror: {text}")
            raise Unavailable(f"cannot read the package index of {self.suite}: {text}")
        self._stamp.touch()

    def check_names(self, packages: Sequence[str]) -> None:
        """Raises `NotFound` naming the first of *packages* that the index does not have.

        Asked for before anything is installed: apt takes a name that it does not know for a pattern.
        """
        for package in packages:
            if not self.has(package):
                raise NotFound(
                    f"no package named {package!r} in {self.suite}", hint=f"apt-cache search {package} looks for others"
                )

    def has(self, package: str) -> bool:
        """Whether the index has a package of exactly that name."""
        return package in self._run("apt-cache", "pkgnames", package).stdout.decode("utf-8", "replace").split()

    def required(self) -> list[str]:
        """The packages that every root has: of priority ``required``, or essential (debian-policy 2.5, 3.8)."""
        found: set[str] = set()
        for file in self.lists.glob("*_Packages"):
            for paragraph in file.read_text("utf-8", "replace").split("\n\n"):
                if "\nPriority: required\n" in paragraph or "\nEssential: yes\n" in paragraph:
                    found.add(paragraph.split("\n", 1)[0].removeprefix("Package: "))
        return sorted(found)

    def installs(self, packages: Sequence[str], status: Path) -> list[Change]:
        """What installing *packages* on a root with the dpkg *status* would change."""
        return self._simulate(status, "install", *INSTALL, "--", *packages)

    def upgrades(self, status: Path) -> list[Change]:
        """What there is to upgrade on a root with the dpkg *status*."""
        return self._simulate(status, "dist-upgrade", *INSTALL)

    def download(self, packages: Sequence[str], status: Path, archives: Path) -> None:
        """*archives* holds what installing *packages* on a root with the dpkg *status* needs; else `DownloadFailed`."""
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={archives}/"]
        done = self._run("apt-get", *options, "install", *INSTALL, "--download-only", "--", *packages)
        if done.returncode:
            raise DownloadFailed(f"cannot download {' '.join(packages[:5])}: {_errors(done)}")

    def download_one(self, package: str, folder: Path) -> Path:
        """The path of *package*'s archive, downloaded to *folder* without what it depends on."""
        done = self._run("apt-get", "--quiet", "download", package, folder=folder)
        found = list(folder.glob(f"{package}_*.deb"))
        if done.returncode or len(found) != 1:
            raise Unavailable(f"cannot download {package}: {_errors(done)}")
        return found[0]

    def _simulate(self, status: Path, *arguments: str) -> list[Change]:
        done = self._run("apt-get", "-o", f"Dir::State::status={status}", "--simulate", *arguments)
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise Unavailable(f"the packages cannot be installed: {_errors(done)}")
        return [Change(name, version) for name, version in _INSTALLS.findall(text)]

    def _run(self, *command: str, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "APT_CONFIG": str(self._config),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        return subprocess.run(command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, cwd=folder)

    def _prepare(self) -> None:
        for name in ("lists/partial", "cache/archives/partial", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text("".join(source.line() + "\n" for source in self.sources))
        base = str(self.folder)
        self._config.write_text(
            f'#clear APT::Architectures;\nAPT::Architectures:: "{_architecture()}";\n'
            + "".join(
                f'{name} "{value}";\n'
                for name, value in {
                    "Dir::Etc::Main": "/dev/null",  # the host's hooks are not for this index
                    "Dir::Etc::Parts": "/dev/null",
                    "Dir::Etc::Preferences": "/dev/null",
                    "Dir::Etc::PreferencesParts": "/dev/null",
                    "Dir::Etc::SourceList": f"{base}/sources.list",
                    "Dir::Etc::SourceParts": "/dev/null",
                    "Dir::State": f"{base}/state/",
                    "Dir::State::lists": f"{base}/lists/",
                    "Dir::State::status": f"{base}/status",
                    "Dir::Cache": f"{base}/cache/",
                    "APT::Sandbox::User": "root",  # the folder is closed to everybody else
                    "APT::Install-Recommends": "false",
                    "Acquire::Languages": "none",
                    "Acquire::GzipIndexes": "false",
                    "Acquire::Retries": "2",  # somebody waits; the host's own settings follow and win
                    "Acquire::http::Timeout": "15",
                    "Acquire::https::Timeout": "15",
                }.items()
            )
            + _forwarded()
        )
        self._config.chmod(0o600)  # a proxy may hold a password


def _architecture() -> str:
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, check=True)
    return done.stdout.decode().strip()


def _forwarded() -> str:
    """The lines of the host's configuration that say how mirrors are reached."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, check=True).stdout.decode("utf-8", "replace")
    return "".join(line + "\n" for line in dump.splitlines() if _FORWARDED.match(line))


def _errors(done: subprocess.CompletedProcess[bytes]) -> str:
    """apt's first error lines, without credentials in addresses."""
    text = _SECRET.sub("", done.stderr.decode("utf-8", "replace"))
    lines = [line[2:].strip() for line in text.splitlines() if line.startswith("E:")]
    return "; ".join(lines[:2]) or f"apt ended with {done.returncode}"
