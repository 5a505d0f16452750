"""What is installed: the entry points of Scow's groups, which distribution each is from, and which are disabled.

Nothing is imported here but metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from scow.errors import InvalidArgument
from scow.ports import KINDS

if TYPE_CHECKING:
    from scow.config import Config

PLUGINS_GROUP = "scow.plugins"
COMMANDS_GROUP = "scow.commands"


class Installed:
    """The entry points of this interpreter (a test gives *found*), read once; *disabled*: the rules of the config.

    *instances*, by kind and name, are further names of installed drivers: each is an entry point like its driver's, and
    takes the place of a driver that is called so.
    """

    def __init__(
        self,
        disabled: Sequence[str],
        found: Mapping[str, list[EntryPoint]] | None = None,
        instances: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self._rules = disabled
        self._found = found
        self._instances = {kind.group: _of_kind(instances or {}, kind.name) for kind in KINDS}

    def entries(self, group: str) -> list[EntryPoint]:
        """Those of *group*, disabled or not."""
        if self._found is None:
            everything = entry_points()  # one walk over all distributions: 1 to 10 ms
            groups = [*(kind.group for kind in KINDS), PLUGINS_GROUP, COMMANDS_GROUP]
            self._found = {name: list(everything.select(group=name)) for name in groups}
        installed = self._found.get(group, [])
        instances = self._instances.get(group)
        if not instances:
            return installed
        rest = [entry for entry in installed if entry.name not in instances]
        return rest + [
            _renamed(entry, name) for name, driver in instances.items() for entry in installed if entry.name == driver
        ]

    def disabled(self, kind: str, entry: EntryPoint) -> bool:
        """Whether a rule names its distribution, its name or ``kind:name``."""
        distribution = _normal(owner(entry).rpartition(" ")[0])
        names = (entry.name, f"{kind}:{entry.name}")
        return any(rule in names or _normal(rule) == distribution for rule in self._rules)


def instances(config: Config) -> dict[tuple[str, str], str]:
    """The drivers that are instances of others by their ``options``: kind and name → name of the driver. Raises
    `InvalidArgument` for what is no name."""
    found = {}
    for key, options in config.options.items():
        kind, dot, name = key.partition(".")
        driver = options.get("driver")
        if driver is not None and not (isinstance(driver, str) and driver):
            where = f"options.{key}.driver (from {config.origin(f'options.{key}')})"
            raise InvalidArgument(f"{where}: expected the name of a driver, got {driver!r}")
        if dot and driver:
            found[kind, name] = driver
    return found


def owner(entry: EntryPoint) -> str:
    """The distribution that *entry* belongs to, and its version: ``scow-storage-overlay 0.1.0``."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown 0"


def _of_kind(instances: Mapping[tuple[str, str], str], kind: str) -> dict[str, str]:
    return {name: driver for (of, name), driver in instances.items() if of == kind}


def _renamed(entry: EntryPoint, name: str) -> EntryPoint:
    renamed = EntryPoint(name, entry.value, entry.group)
    vars(renamed)["dist"] = entry.dist  # entry points are immutable; importlib.metadata itself does it so
    return renamed


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")
