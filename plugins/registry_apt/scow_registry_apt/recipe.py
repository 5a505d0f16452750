"""Which image a reference to ``apt.local`` asks for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.errors import NotFound
from scow_registry_apt.known import KNOWN

if TYPE_CHECKING:
    from scow.reference import Reference

BUSYBOX = "busybox"
MOST_PACKAGES = 32

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # debian-policy 5.6.7
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")


@dataclass(frozen=True, slots=True)
class Recipe:
    """*packages* (sorted, as the mirror names them) on a minimal root of *suite*; none is that root itself.

    *name* is what users call it, *leading* the entry of `KNOWN` that says how it is started.
    """

    name: str
    suite: str
    packages: tuple[str, ...] = ()
    leading: str = ""

    @property
    def key(self) -> str:
        """Names the image among those kept; a file name. The leading package counts: it decides the command."""
        name = "_".join((self.suite, self.leading or "base", *self.packages))
        return name if len(name) <= 150 else f"{name[:80]}_{hashlib.sha256(name.encode()).hexdigest()}"


def recipe_of(ref: Reference, distribution: str, host_suite: str) -> Recipe:
    """What *ref* asks for, where the host runs *distribution* (``debian``) in *host_suite*.

    Raises `NotFound` for what cannot be a package or a suite.
    """
    suite = host_suite if ref.tag in ("", "latest") else ref.tag.removesuffix("-slim")
    if not _SUITE.fullmatch(suite):
        raise NotFound(
            f"manifest for {ref.familiar} not found: manifest unknown: {suite!r} is not a suite",
            hint=f"the tag names a suite of {distribution}, as in {ref.name}:{host_suite}",
        )
    names = ref.repository.split("/")
    if names == [distribution]:
        return Recipe(ref.name, suite)
    if names == [BUSYBOX]:
        return Recipe(ref.name, suite, ("busybox-static",), BUSYBOX)
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise NotFound(f"manifest for {ref.familiar} not found: manifest unknown: no package is named {name!r}")
    packages = sorted({KNOWN[name].package or name if name in KNOWN else name for name in names})
    if len(packages) > MOST_PACKAGES:
        raise NotFound(f"manifest for {ref.familiar} not found: more than {MOST_PACKAGES} packages")
    return Recipe(ref.name, suite, tuple(packages), names[0])
