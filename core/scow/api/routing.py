"""From method and path to a handler."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scow.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aiohttp import web

    from scow.api.call import Call

    Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """*path* may hold ``{x}``, one segment, and ``{x...}``, one or more (names of images).

    *early* routes answer before the engine is ready. An operation that changes something is finished even if its
    client goes away, unless it is *abandoned* (waiting, streaming, pulling).
    """

    method: str
    path: str
    handler: Handler
    early: bool = False
    abandoned: bool = False


@dataclass(slots=True)
class Router:
    """Finds routes: fixed paths by one dictionary look-up, the others by patterns grouped by their first segment."""

    _fixed: dict[tuple[str, str], Route] = field(default_factory=dict)
    _patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = field(default_factory=dict)

    @classmethod
    def of(cls, routes: Iterable[Route]) -> Router:
        """A router for *routes*; of two that match the same path the first wins."""
        router = cls()
        for route in routes:
            if "{" not in route.path:
                router._fixed.setdefault((route.method, route.path), route)
                continue
            key = route.method, route.path.split("/", 2)[1]
            router._patterns.setdefault(key, []).append((_pattern(route.path), route))
        return router

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route for *path* and the values of its variable parts; raises `NotFound`."""
        route = self._fixed.get((method, path))
        if route is not None:
            return route, {}
        _, _, rest = path.partition("/")
        for pattern, candidate in self._patterns.get((method, rest.partition("/")[0]), ()):
            if match := pattern.fullmatch(path):
                return candidate, match.groupdict()
        raise NotFound("page not found")


def _pattern(path: str) -> re.Pattern[str]:
    pattern = re.sub(r"\\{(\w+)\\.\\.\\.\\}", r"(?P<\1>.+)", re.escape(path))
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>/?[^/]+)", pattern))
