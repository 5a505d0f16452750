"""``/auth``, ``/images/search``, ``/distribution``: what registries are asked without pulling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scow.api.call import answer
from scow.api.routing import Route
from scow.credentials import credentials_of, server_address_of
from scow.engine.filters import check_filters
from scow.errors import InvalidArgument
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from scow.api.call import Call
    from scow.ports.registry import SearchResult

    Wanted = Callable[[SearchResult], bool]

SEARCH_LIMIT = 25  # where a client says none
_TRUE, _FALSE = frozenset({"1", "true"}), frozenset({"0", "false"})


async def auth(call: Call) -> web.StreamResponse:
    """``POST /auth``: the credentials are tried at their registry."""
    try:
        config = msgspec.json.decode(await call.request.read() or b"{}")
    except msgspec.DecodeError:  # not chained: the decoder's error holds the text
        raise InvalidArgument("invalid JSON in the body") from None
    credentials = credentials_of(config)
    if credentials is None:
        raise InvalidArgument("no username and no identity token")
    return answer(await call.engine.images.registries.login(server_address_of(config), credentials))


async def search(call: Call) -> web.StreamResponse:
    """``GET /images/search``; ``is_automated`` is always false, as in Docker since 25."""
    wanted = search_filter(call.filters())
    registries = call.engine.images.registries
    found = await registries.search(call.text("term"), call.number("limit") or SEARCH_LIMIT, call.credentials())
    return answer([_search_result(result) for result in found if wanted(result)])


def search_filter(filters: dict[str, list[str]]) -> Wanted:
    """Whether a result passes Docker's filters ``is-official``, ``is-automated`` and ``stars``. Raises
    `InvalidArgument`."""
    known = check_filters(filters, ("is-automated", "is-official", "stars"))
    official, automated = _flag(known, "is-official"), _flag(known, "is-automated")
    try:
        stars = max(map(int, known.get("stars", ())), default=0)
    except ValueError:
        raise InvalidArgument(f"invalid filter 'stars={list(known['stars'])}'", hint="expected a number") from None

    def passes(result: SearchResult) -> bool:
        return result.stars >= stars and official in (None, result.official) and automated in (None, result.automated)

    return passes


def _flag(filters: Any, name: str) -> bool | None:
    values = {value.lower() for value in filters.get(name, ())}
    if not values:
        return None
    if values <= _TRUE or values <= _FALSE:
        return values <= _TRUE
    raise InvalidArgument(f"invalid filter '{name}={sorted(values)}'", hint="expected true or false")


def _search_result(result: SearchResult) -> dict[str, Any]:
    return {
        "star_count": result.stars,
        "is_official": result.official,
        "name": result.name,
        "is_automated": False,
        "description": result.description,
    }


async def inspect(call: Call) -> web.StreamResponse:
    """``GET /distribution/{name}/json``: what the registry has under that name, which is not pulled."""
    ref = Reference.parse(call.args["name"])
    return answer(await call.engine.images.registries.inspect(ref, call.credentials()))


ROUTES = (
    Route("POST", "/auth", auth),
    Route("GET", "/images/search", search),
    Route("GET", "/distribution/{name...}/json", inspect),
)
