"""Tar archives and what makes images of containers: ``/images/load``, ``/images/get``, ``/commit``, ``…/export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.api import streams
from scow.api.call import answer
from scow.api.images import with_tag
from scow.api.routing import Route
from scow.engine.commit import Wish
from scow.errors import InvalidArgument
from scow.oci import Platform
from scow.reference import Reference
from scow.types import ContainerConfig

if TYPE_CHECKING:
    from typing import Any

    from aiohttp import web

    from scow.api.call import Call

TAR = "application/x-tar"


async def load(call: Call) -> web.StreamResponse:
    """``POST /images/load``; with ``quiet`` only the names of what was loaded are told."""
    platform, quiet = _platform(call), call.flag("quiet")

    async def work(progress: streams.Progress) -> None:
        def tell(message: dict[str, Any]) -> None:
            if not quiet or "stream" in message:
                progress(message)

        await call.engine.archives.load(call.request.content.iter_any(), platform, tell)

    return await streams.send_progress(call.request, work)


async def save_one(call: Call) -> web.StreamResponse:
    """``GET /images/{name}/get``."""
    flow = await call.engine.archives.save([call.args["name"]], _platform(call))
    return await streams.send_chunks(call.request, TAR, flow)


async def save(call: Call) -> web.StreamResponse:
    """``GET /images/get?names=a&names=b``."""
    names = call.texts("names")
    if not names:
        raise InvalidArgument("images/get needs at least one name")
    return await streams.send_chunks(call.request, TAR, await call.engine.archives.save(names, _platform(call)))


async def export(call: Call) -> web.StreamResponse:
    """``GET /containers/{id}/export``."""
    return await streams.send_chunks(call.request, TAR, await call.engine.archives.export(call.args["id"]))


async def commit(call: Call) -> web.StreamResponse:
    """``POST /commit``; the body may hold a configuration that stands for the container's."""
    if not call.text("container"):
        raise InvalidArgument("commit needs the parameter container")
    body = (await call.request.read()).strip()
    wish = Wish(
        config=await call.body(ContainerConfig) if body not in (b"", b"null") else None,
        changes=call.texts("changes"),
        author=call.text("author"),
        message=call.text("comment"),
        tags=_target(call),
        pause=call.flag("pause", default=True),
    )
    image = await call.engine.archives.commit(call.text("container"), wish)
    return answer({"Id": image.id}, 201)


def _target(call: Call) -> list[str]:
    if not call.text("repo"):
        return []
    named = Reference.parse(call.text("repo"), default_tag="")
    if named.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    return [str(with_tag(named, call.text("tag") or named.tag or "latest"))]


def _platform(call: Call) -> Platform | None:
    return Platform.decode(call.text("platform")) if call.text("platform") else None


ROUTES = (
    Route("POST", "/images/load", load, abandoned=True),
    Route("GET", "/images/get", save),
    Route("GET", "/images/{name...}/get", save_one),
    Route("GET", "/containers/{id}/export", export),
    Route("POST", "/commit", commit),
)
