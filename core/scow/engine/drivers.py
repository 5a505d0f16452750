"""Typed calls of drivers from the engine: the driver by kind and name, loaded once, called on its own threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.host import PluginHost
    from scow.ports import DriverKind

D = TypeVar("D")
T = TypeVar("T")

DEFAULT_DEADLINE_S = 120.0
