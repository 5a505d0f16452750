"""``/scow/v1/images``: what images consist of and share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.api import images_json
from scow.api.call import answer
from scow.api.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from scow.api.call import Call


async def tree(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/images/tree``: the layers of all images, or of those that ``name`` (several) means, each on the
    one below it; ``Images`` tells the names of the ids in it."""
    images, refs = call.engine.images, call.texts("name")
    named = [images.get(ref) for ref in refs] or images.list(all=True)
    names = {image.id: images_json.repo_tags(image) or images_json.repo_digests(image) for image in named}
    return answer({"Layers": images.tree(refs), "Images": names})


async def diff(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/images/{name}/diff``: what each layer adds, changes and deletes, and the bytes that those above it
    make useless; with ``changes`` path by path."""
    return answer(await call.engine.images.diff(call.args["name"], with_changes=call.flag("changes")))


OWN_ROUTES = (
    Route("GET", "/scow/v1/images/tree", tree),
    Route("GET", "/scow/v1/images/{name...}/diff", diff),
)
