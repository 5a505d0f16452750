"""``/scow/v1``: what Scow offers beyond Docker's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scow import rates
from scow.api import disk_usage, image_layers, prune
from scow.api.call import answer
from scow.api.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from scow.api.call import Call


async def plugins(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/plugins``: every installed driver and plugin with its state."""
    return answer([entry._asdict() for entry in call.engine.host.report()])


async def timeline(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/containers/{id}/timeline``: the steps of its creation and last start, in ms."""
    return answer(call.engine.containers.live(call.args["id"]).timeline.steps)


class NetRate(msgspec.Struct, rename="pascal"):
    """The body of ``POST /scow/v1/containers/{id}/net-rate``, and its answer."""

    rate: str = ""


async def net_rate(call: Call) -> web.StreamResponse:
    """``POST /scow/v1/containers/{id}/net-rate``: `{"Rate": "in=10mbit,out=off"}` changes the sides that it names, at
    once; answers both."""
    request = await call.body(NetRate)
    now = await call.engine.containers.set_net_rate(call.args["id"], request.rate)
    return answer({"Rate": rates.show(now)})


async def repairs(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/repairs``: what this daemon mended when it started."""
    return answer(call.engine.repaired)


ROUTES = [
    Route("GET", "/scow/v1/plugins", plugins),
    Route("GET", "/scow/v1/containers/{id}/timeline", timeline),
    Route("POST", "/scow/v1/containers/{id}/net-rate", net_rate),
    Route("GET", "/scow/v1/repairs", repairs),
    *disk_usage.OWN_ROUTES,
    *prune.OWN_ROUTES,
    *image_layers.OWN_ROUTES,
]
