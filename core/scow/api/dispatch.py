"""What every request passes through: version, route, readiness, errors."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from scow.api.call import Call, answer, empty
from scow.api.versions import CURRENT, split_version
from scow.errors import NotModified, ScowError

if TYPE_CHECKING:
    from scow.api.routing import Route, Router
    from scow.engine.engine import Engine

log = logging.getLogger(__name__)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHANGES = frozenset({"POST", "PUT", "DELETE"})


class Dispatcher:
    """Answers requests; an instance is aiohttp's low-level handler."""

    def __init__(self, engine: Engine, router: Router) -> None:
        self._engine = engine
        self._router = router
        self._changes: set[asyncio.Task[web.StreamResponse]] = set()
        self._others: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        """Waits and streams end; changes that are under way are finished."""
        for task in list(self._others):
            task.cancel()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The response to *request*; whatever is raised becomes Docker's ``{"message": …}``."""
        version = CURRENT
        try:
            version, path = split_version(request.path)
            route, args = self._router.find(request.method, path)
            if not route.early and not self._engine.ready.is_set():
                await self._engine.ready.wait()
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(CONTINUE)
                request.writer.output_size = 0  # the response itself has not begun
            call = Call(self._engine, request, args, version)
            if route.method in _CHANGES and not route.abandoned:
                return await self._to_the_end(route, call)
            return await self._while_wanted(route, call)
        except NotModified:
            return empty(304)
        except ScowError as error:
            _only_before_the_head(request, error)
            return _refusal(error.http_status, _text(error))
        except web.HTTPException as error:  # a body above the limit
            return _refusal(error.status, error.reason.lower())
        except Exception as error:  # noqa: BLE001 (the border: one failed request is not a failed daemon)
            if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
                raise  # the client is gone
            log.exception("%s %s failed (API %d.%d)", request.method, request.path, *version)
            _only_before_the_head(request, error)
            return _refusal(500, f"internal error: {type(error).__name__}: {error}")

    async def _to_the_end(self, route: Route, call: Call) -> web.StreamResponse:
        """Runs the handler apart from the connection: a client that goes away does not leave half of a change."""
        task: asyncio.Task[web.StreamResponse] = asyncio.ensure_future(_run(route, call))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _while_wanted(self, route: Route, call: Call) -> web.StreamResponse:
        """Runs the handler as long as the client and the server are there."""
        task = asyncio.current_task()
        assert task is not None
        self._others.add(task)
        try:
            return await route.handler(call)
        finally:
            self._others.discard(task)


async def _run(route: Route, call: Call) -> web.StreamResponse:
    return await route.handler(call)


def _only_before_the_head(request: web.BaseRequest, error: Exception) -> None:
    """Raises where a response is under way: all that is left to tell is that it was cut off."""
    if request.writer.output_size:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("the response was cut off") from error


def _text(error: ScowError) -> str:
    return f"{error.message}\n{error.hint}" if error.hint else error.message


def _refusal(status: int, message: str) -> web.Response:
    body: dict[str, Any] = {"message": message}
    return answer(body, status)
