"""Docker's ``/…/prune``, and Scow's own that shows its plan first: ``GET`` and ``POST /scow/v1/prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import msgspec

from scow.api.call import answer
from scow.api.routing import Route
from scow.engine.prune import Filters, Item, Kind, Outcome
from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from aiohttp import web

    from scow.api.call import Call

ANONYMOUS_SINCE = (1, 42)  # before, all unused volumes were pruned


async def containers(call: Call) -> web.StreamResponse:
    """``POST /containers/prune``."""
    done = await _prune(call, "container", call.filters())
    return answer({"ContainersDeleted": _ids(done), "SpaceReclaimed": done.space_reclaimed})


async def networks(call: Call) -> web.StreamResponse:
    """``POST /networks/prune``."""
    done = await _prune(call, "network", call.filters())
    return answer({"NetworksDeleted": [item.names[0] for item in done.removed]})


async def volumes(call: Call) -> web.StreamResponse:
    """``POST /volumes/prune``."""
    filters = call.filters()
    if call.version < ANONYMOUS_SINCE:
        filters["all"] = ["true"]
    done = await _prune(call, "volume", filters)
    return answer({"VolumesDeleted": _ids(done), "SpaceReclaimed": done.space_reclaimed})


async def images(call: Call) -> web.StreamResponse:
    """``POST /images/prune``."""
    done = await _prune(call, "image", call.filters())
    return answer({"ImagesDeleted": done.images, "SpaceReclaimed": done.space_reclaimed})


async def build_cache(call: Call) -> web.StreamResponse:
    """``POST /build/prune``: nothing is built here, so there is no cache; ``docker system prune`` asks all the same."""
    return answer({"CachesDeleted": [], "SpaceReclaimed": 0})


async def _prune(call: Call, kind: Kind, filters: Filters) -> Outcome:
    plan = await call.engine.prune.plan({kind: filters})
    return await call.engine.prune.apply(plan.items)


def _ids(done: Outcome) -> list[str]:
    return [item.id for item in done.removed]


async def plan(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/prune``: what would be removed. ``kind`` (container, network, volume, image, orphan; several)
    chooses, ``filters`` hold for all, ``images=all`` and ``volumes=all`` mean those with names, too."""
    kinds: list[Kind] = [kind for kind in get_args(Kind) if kind in call.texts("kind")]
    unknown = set(call.texts("kind")).difference(kinds)
    if unknown or not kinds:
        known = ", ".join(get_args(Kind))
        raise InvalidArgument(f"unknown kind: {', '.join(sorted(unknown)) or 'none'}", hint=f"known: {known}")
    wanted: dict[Kind, Filters] = {kind: call.filters() for kind in kinds}
    if "image" in wanted and call.text("images") == "all":
        wanted["image"]["dangling"] = ["false"]
    if "volume" in wanted and call.text("volumes") == "all":
        wanted["volume"]["all"] = ["true"]
    return answer(await call.engine.prune.plan(wanted))


class Apply(msgspec.Struct, rename="pascal"):
    """The body of ``POST /scow/v1/prune``: the items of a plan, or some of them."""

    items: list[Item] = []


async def apply(call: Call) -> web.StreamResponse:
    """``POST /scow/v1/prune``: of the items of a plan those are removed that are still what they were and still
    unused; answers what was removed, what was kept and why."""
    request = await call.body(Apply)
    return answer(await call.engine.prune.apply(request.items))


ROUTES = (
    Route("POST", "/containers/prune", containers),
    Route("POST", "/networks/prune", networks),
    Route("POST", "/volumes/prune", volumes),
    Route("POST", "/images/prune", images),
    Route("POST", "/build/prune", build_cache),
)
OWN_ROUTES = (
    Route("GET", "/scow/v1/prune", plan),
    Route("POST", "/scow/v1/prune", apply),
)
