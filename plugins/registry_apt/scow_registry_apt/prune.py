"""What does not belong into an image: manuals, caches, logs and traces of the host."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SLIM = """\
# Containers do without manuals and translations; copyright files stay, and so do folders.
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
path-exclude=/usr/share/man/*
"""
_TRACES = (
    "etc/*-",  # passwd- and the like: the files before the last change
    "etc/.pwd.lock",
    "tmp/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/systemd/catalog/database",
    "var/log/alternatives.log",
    "var/log/apt/*",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/faillog",
    "var/log/lastlog",
    "var/tmp/*",
)
_EMPTY = ("etc/hostname", "etc/machine-id", "etc/resolv.conf")


def set_slim(root: Path) -> None:
    """Packages that are installed in *root* from now on leave their manuals out."""
    folder = root / "etc/dpkg/dpkg.cfg.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slim").write_text(_SLIM)


def finish(root: Path, links: Mapping[str, str]) -> None:
    """*root* is ready to be packed: without traces of its making, with *links*."""
    for pattern in _TRACES:
        _remove(root.glob(pattern))
    for path in list((root / "run").rglob("*")):  # folders there may be waited for, as /run/lock is
        if path.is_symlink() or not path.is_dir():
            path.unlink()
    for name in _EMPTY:
        path = root / name
        if path.is_symlink() or not path.exists() or path.stat().st_size:
            path.unlink(missing_ok=True)
            path.touch()
    for name, target in links.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
