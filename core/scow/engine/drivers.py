"""Typed calls of drivers from the engine: the driver by kind and name, loaded once, called on its own threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.host import PluginHost
    from scow.ports import DriverKind

D = TypeVar("D")
T = TypeVar("T")

DEFAULT_DEADLINE_S = 120.0


class Drivers:
    """The drivers of one engine, by kind and name (``""``: the configured one)."""

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self._loaded: dict[tuple[str, str], object] = {}

    def get(self, kind: DriverKind[D], name: str = "") -> D:
        """The driver; blocks while it is loaded for the first time. Raises what `PluginHost.driver` raises."""
        found = self._loaded.get((kind.name, name))
        if found is None:
            found = self._loaded[kind.name, name] = self.host.driver(kind, name or None)
        return cast("D", found)

    async def driver(self, kind: DriverKind[D], name: str = "") -> D:
        """As `get`, off the event loop."""
        found = self._loaded.get((kind.name, name))
        if found is not None:
            return cast("D", found)
        driver: D = await self.host.load(kind, name or None)
        self._loaded[kind.name, name] = driver
        return driver

    async def call(
        self,
        kind: DriverKind[D],
        name: str,
        method: str,
        fn: Callable[[Any], T],
        *,
        deadline_s: float | None = DEFAULT_DEADLINE_S,
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """What *fn* answers for that driver, on one of its threads; *method* is its name in errors.

        Past *deadline_s* it is abandoned and a late result given to *undo*; see `scow.workers.Pool.call`.
        """
        driver = await self.driver(kind, name)

        def run() -> T:
            return fn(driver)

        run.__name__ = method
        return await self.host.call(kind, name or None, run, deadline_s=deadline_s, undo=undo)
