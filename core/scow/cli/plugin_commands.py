"""Commands of plugins (entry-point group ``scow.commands``): looked up for an unknown word and ``scow help --all``."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points

import click

from scow.errors import DriverLoadError

GROUP = "scow.commands"


def installed() -> list[EntryPoint]:
    """All of them, by name; none where ``SCOW_NO_PLUGINS`` or ``SCOW_DISABLED_PLUGINS`` says so."""
    disabled = os.environ.get("SCOW_DISABLED_PLUGINS", "").split(",")
    if os.environ.get("SCOW_NO_PLUGINS") == "1":
        return []
    return sorted((entry for entry in entry_points(group=GROUP) if entry.name not in disabled), key=lambda e: e.name)


def find(name: str) -> click.Command | None:
    """The command that a plugin calls *name*; raises `DriverLoadError` naming the plugin that cannot be imported."""
    entry = next((entry for entry in installed() if entry.name == name), None)
    if entry is None:
        return None
    owner = entry.dist.name if entry.dist else entry.value
    try:
        command = entry.load()
    except Exception as error:  # noqa: BLE001 (the plugin's own code: whatever it raises is named and contained)
        raise DriverLoadError(f"command {name!r} from {owner} failed: {error}") from error
    if not isinstance(command, click.Command):
        raise DriverLoadError(f"command {name!r} from {owner} is {type(command).__name__}, not a click command")
    return command
