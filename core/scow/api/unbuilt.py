"""The routes of the Engine API that Scow does not serve yet: each is answered 501, and says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.api.routing import Route
from scow.errors import Unavailable, Unsupported

if TYPE_CHECKING:
    from aiohttp import web

    from scow.api.call import Call

_UNBUILT = """
GET    /containers/{id}/changes
GET    /containers/{id}/attach/ws
HEAD   /containers/{id}/archive
GET    /containers/{id}/archive
PUT    /containers/{id}/archive
POST   /build
POST   /build/cancel
GET    /images/{name...}/attestations
PUT    /volumes/{name}
POST   /networks/create
POST   /networks/{id}/connect
POST   /networks/{id}/disconnect
DELETE /networks/{id}
POST   /session
POST   /grpc
GET    /plugins
GET    /plugins/privileges
POST   /plugins/pull
POST   /plugins/create
GET    /plugins/{name...}/json
DELETE /plugins/{name...}
POST   /plugins/{name...}/enable
POST   /plugins/{name...}/disable
POST   /plugins/{name...}/upgrade
POST   /plugins/{name...}/push
POST   /plugins/{name...}/set
GET    /swarm
GET    /swarm/unlockkey
POST   /swarm/init
POST   /swarm/join
POST   /swarm/update
POST   /swarm/unlock
GET    /nodes
GET    /nodes/{id}
DELETE /nodes/{id}
POST   /nodes/{id}/update
GET    /services
POST   /services/create
GET    /services/{id}
DELETE /services/{id}
POST   /services/{id}/update
GET    /services/{id}/logs
GET    /tasks
GET    /tasks/{id}
GET    /tasks/{id}/logs
GET    /secrets
POST   /secrets/create
GET    /secrets/{id}
DELETE /secrets/{id}
POST   /secrets/{id}/update
GET    /configs
POST   /configs/create
GET    /configs/{id}
DELETE /configs/{id}
POST   /configs/{id}/update
"""


async def refuse(call: Call) -> web.StreamResponse:
    """Raises `Unsupported`, naming the route."""
    raise Unsupported(f"{call.request.method} {call.request.path} is not supported by this version of scow")


async def leave_swarm(call: Call) -> web.StreamResponse:
    """``POST /swarm/leave``: as ``GET /info`` says, there is none; Docker's answer to that."""
    raise Unavailable("This node is not part of a swarm")


ROUTES = (
    *(Route(method, path, refuse) for method, path in (line.split() for line in _UNBUILT.strip().splitlines())),
    Route("POST", "/swarm/leave", leave_swarm),
)
