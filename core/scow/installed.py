"""What is installed: the entry points of Scow's groups, which distribution each is from, and which are disabled.

Nothing is imported here but metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from scow.ports import KINDS

PLUGINS_GROUP = "scow.plugins"
COMMANDS_GROUP = "scow.commands"


class Installed:
    """The entry points of this interpreter (a test gives *found*), read once; *disabled*: the rules of the config."""

    def __init__(self, disabled: Sequence[str], found: Mapping[str, list[EntryPoint]] | None = None) -> None:
        self._rules = disabled
        self._found = found

    def entries(self, group: str) -> list[EntryPoint]:
        """Those of *group*, disabled or not."""
        if self._found is None:
            everything = entry_points()  # one walk over all distributions: 1 to 10 ms
            groups = [*(kind.group for kind in KINDS), PLUGINS_GROUP, COMMANDS_GROUP]
            self._found = {name: list(everything.select(group=name)) for name in groups}
        return self._found.get(group, [])

    def disabled(self, kind: str, entry: EntryPoint) -> bool:
        """Whether a rule names its distribution, its name or ``kind:name``."""
        distribution = _normal(owner(entry).rpartition(" ")[0])
        names = (entry.name, f"{kind}:{entry.name}")
        return any(rule in names or _normal(rule) == distribution for rule in self._rules)


def owner(entry: EntryPoint) -> str:
    """The distribution that *entry* belongs to, and its version: ``scow-storage-overlay 0.1.0``."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown 0"


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")
