"""``/_ping``, ``/version``, ``/info``, ``/events``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from scow.api import streams
from scow.api.call import HEADERS, answer
from scow.api.routing import Route
from scow.api.times import SECOND_NS
from scow.engine.times import parse_time_ns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scow.api.call import Call
    from scow.engine.model import Event

Json = dict[str, Any]

PING_HEADERS = {
    **HEADERS,
    "Builder-Version": "1",
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Content-Type": "text/plain; charset=utf-8",
}
JSON_SEQUENCE = "application/json-seq"
RECORD_SEPARATOR = b"\x1e"  # RFC 7464


async def ping(call: Call) -> web.StreamResponse:
    """``GET`` and ``HEAD /_ping``: that the API is served, and which versions of it."""
    return web.Response(body=b"OK", headers=PING_HEADERS)


async def version(call: Call) -> web.StreamResponse:
    """``GET /version``."""
    return answer(await call.engine.system.version())


async def info(call: Call) -> web.StreamResponse:
    """``GET /info``."""
    return answer(await call.engine.system.info())


async def events(call: Call) -> web.StreamResponse:
    """``GET /events``: stored ones since ``since``, then live ones until ``until``."""
    since, until = call.text("since"), call.text("until")
    found = call.engine.events.subscribe(
        parse_time_ns(since) if since else None, parse_time_ns(until) if until else None, call.filters()
    )
    content_type, prefix = _stream_form(call.request.headers.get("Accept", ""))
    return await streams.send_objects(call.request, content_type, _messages(found), prefix)


def _stream_form(accept: str) -> tuple[str, bytes]:
    """The media type that a client asked for by name, and what goes before each message."""
    if JSON_SEQUENCE in accept:
        return JSON_SEQUENCE, RECORD_SEPARATOR
    for content_type in ("application/jsonl", "application/x-ndjson"):
        if content_type in accept:
            return content_type, b""
    return "application/json", b""


async def _messages(events: AsyncIterator[Event]) -> AsyncIterator[Json]:
    try:
        async for event in events:
            yield event_json(event)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def event_json(event: Event) -> Json:
    """Docker's EventMessage. API 1.52 dropped its last three fields, but docker-py, of any version, reads them."""
    value: Json = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // SECOND_NS,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        value |= {"status": event.action, "id": event.actor_id}
        if event.type == "container" and "image" in event.attributes:
            value["from"] = event.attributes["image"]
    return value


ROUTES = (
    Route("GET", "/_ping", ping, early=True),
    Route("HEAD", "/_ping", ping, early=True),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/events", events),
)
