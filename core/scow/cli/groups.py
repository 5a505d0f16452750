"""The management groups: ``scow container …`` and so on."""

from __future__ import annotations

from collections.abc import Mapping

from scow.cli.commands import CONTAINERS, IMAGE, NETWORK, PLUGIN, SYSTEM, VOLUME
from scow.cli.grammar import Entry, LazyGroup


def _group(name: str, help: str, entries: Mapping[str, Entry]) -> LazyGroup:
    return LazyGroup(name, help=help, table={"Commands": entries})


container = _group("container", "Manage containers.", CONTAINERS)
container.aliases["ps"] = "ls"
image = _group("image", "Manage images.", IMAGE)
network = _group("network", "Manage networks.", NETWORK)
plugin = _group("plugin", "Manage plugins and drivers.", PLUGIN)
system = _group("system", "Manage Scow.", SYSTEM)
volume = _group("volume", "Manage volumes.", VOLUME)
