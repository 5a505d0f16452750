"""``/volumes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scow.api.call import answer, empty
from scow.api.routing import Route
from scow.api.times import rfc3339
from scow.engine.volumes import ANONYMOUS

if TYPE_CHECKING:
    from aiohttp import web

    from scow.api.call import Call
    from scow.engine.model import VolumeRecord


class VolumeRequest(msgspec.Struct, kw_only=True, rename="pascal"):
    """The body of ``POST /volumes/create``."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}


async def list_volumes(call: Call) -> web.StreamResponse:
    """``GET /volumes``."""
    found = call.engine.volumes.list(call.filters())
    return answer({"Volumes": [volume_json(record) for record in found], "Warnings": None})


async def create(call: Call) -> web.StreamResponse:
    """``POST /volumes/create``."""
    request = await call.body(VolumeRequest)
    record = await call.engine.volumes.create(request.name, request.driver, request.driver_opts, request.labels)
    return answer(volume_json(record), 201)


async def inspect(call: Call) -> web.StreamResponse:
    """``GET /volumes/{name}``."""
    return answer(volume_json(call.engine.volumes.get(call.args["name"])))


async def remove(call: Call) -> web.StreamResponse:
    """``DELETE /volumes/{name}``."""
    await call.engine.volumes.remove(call.args["name"], call.flag("force"))
    return empty()


def volume_json(record: VolumeRecord) -> dict[str, Any]:
    """Docker's Volume."""
    labels = dict(record.labels)
    if record.anonymous:
        labels.setdefault(ANONYMOUS, "")
    return {
        "CreatedAt": rfc3339(record.created_ns // 10**9 * 10**9),  # whole seconds, as Docker has them
        "Driver": record.driver,
        "Labels": labels or None,
        "Mountpoint": record.mountpoint,
        "Name": record.name,
        "Options": record.options or None,
        "Scope": "local",
    }


ROUTES = (
    Route("GET", "/volumes", list_volumes),
    Route("POST", "/volumes/create", create),
    Route("GET", "/volumes/{name}", inspect),
    Route("DELETE", "/volumes/{name}", remove),
)
