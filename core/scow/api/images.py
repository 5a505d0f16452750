"""``/images``: pull, push, import, list, inspect, tag, remove."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from scow.api import images_json, streams
from scow.api.call import answer, empty
from scow.api.routing import Route
from scow.errors import InvalidArgument, NotFound, Unauthorized, Unsupported
from scow.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from scow.api.call import Call

FILTER_UNTIL = (1, 41)  # before, ``filter`` named a reference
CONTAINERS_SINCE = (1, 51)  # before, nobody counted the containers of an image


async def list_images(call: Call) -> web.StreamResponse:
    """``GET /images/json``."""
    filters = call.filters()
    if call.text("filter") and call.version < FILTER_UNTIL:
        filters["reference"] = [*filters.get("reference", []), call.text("filter")]
    images = call.engine.images
    found = images.list(all=call.flag("all"), filters=filters)
    shared: Mapping[str, int] = {}
    users: Mapping[str, int] | None = None
    if call.flag("shared-size"):
        shared = {image.id: images.layers.shared_bytes(image.id) for image in found}
    if call.version >= CONTAINERS_SINCE:
        users = Counter(container.image_id for container in call.engine.containers.list(all=True))
    lines = [
        images_json.summary(image, -1 if users is None else users[image.id], shared.get(image.id, -1), call.version)
        for image in found
    ]
    return answer(lines)


async def inspect(call: Call) -> web.StreamResponse:
    """``GET /images/{name}/json``."""
    image = call.engine.images.get(call.args["name"], call.text("platform"))
    return answer(images_json.inspect(image, call.engine.config.drivers["storage"], call.version))


async def history(call: Call) -> web.StreamResponse:
    """``GET /images/{name}/history``."""
    return answer(call.engine.images.history(call.args["name"], call.text("platform")))


async def create(call: Call) -> web.StreamResponse:
    """``POST /images/create``: pull (``fromImage``) or import (``fromSrc``)."""
    if call.text("fromImage"):
        return await _pull(call)
    if call.text("fromSrc"):
        return await _import(call)
    raise InvalidArgument("images/create needs fromImage or fromSrc")


async def _pull(call: Call) -> web.StreamResponse:
    ref = with_tag(Reference.parse(call.text("fromImage"), default_tag=""), call.text("tag"))
    credentials, platform = call.credentials(), call.text("platform")
    all_tags = not (ref.tag or ref.digest)

    async def work(progress: streams.Progress) -> None:
        images = call.engine.images
        try:
            await images.pull(ref, platform=platform, credentials=credentials, progress=progress, all_tags=all_tags)
        except Unauthorized as error:  # 404, as Docker has it: at a 401 the docker CLI asks for a password
            raise NotFound(error.message, hint=error.hint) from error

    return await streams.send_progress(call.request, work)


async def _import(call: Call) -> web.StreamResponse:
    if call.text("fromSrc") != "-":
        hint = "send the archive itself: curl … | docker import - name"
        raise Unsupported(f"import from {call.text('fromSrc')!r} is not supported", hint=hint)
    target = None
    if call.text("repo"):
        named = Reference.parse(call.text("repo"), default_tag="")
        target = with_tag(named, call.text("tag") or named.tag or "latest")
    changes, message, platform = call.texts("changes"), call.text("message"), call.text("platform")

    async def work(progress: streams.Progress) -> None:
        image = await call.engine.images.import_tar(
            call.request.content.iter_any(),
            target,
            changes=changes,
            message=message,
            platform=platform,
            progress=progress,
        )
        progress({"status": image.id})

    return await streams.send_progress(call.request, work)


async def push(call: Call) -> web.StreamResponse:
    """``POST /images/{name}/push``; without a tag all tags of the repository."""
    ref = with_tag(Reference.parse(call.args["name"], default_tag=""), call.text("tag"))
    credentials, all_tags, platform = call.credentials(), not (ref.tag or ref.digest), call.text("platform")

    async def work(progress: streams.Progress) -> None:
        await call.engine.images.push(
            ref, credentials=credentials, progress=progress, all_tags=all_tags, platform=platform
        )

    return await streams.send_progress(call.request, work)


def with_tag(ref: Reference, tag: str) -> Reference:
    """*ref* with *tag*, which may be a digest; unchanged where it is empty. Raises `InvalidArgument`."""
    if not tag:
        return ref
    if ":" in tag:
        return ref.with_digest(tag)
    return Reference.parse(f"{ref.name}:{tag}")


async def tag(call: Call) -> web.StreamResponse:
    """``POST /images/{name}/tag``."""
    target = Reference.parse(call.text("repo"), default_tag="")
    if target.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    await call.engine.images.tag(call.args["name"], with_tag(target, call.text("tag") or target.tag or "latest"))
    return empty(201)


async def remove(call: Call) -> web.StreamResponse:
    """``DELETE /images/{name}``."""
    platforms = set(call.texts("platforms"))
    if len(platforms) > 1:
        raise InvalidArgument("an image here is for one platform", hint="remove one platform at a time")
    removed = await call.engine.images.remove(
        call.args["name"],
        force=call.flag("force"),
        prune=not call.flag("noprune"),
        platform="".join(platforms),
    )
    return answer(removed)


ROUTES = (
    Route("GET", "/images/json", list_images),
    Route("POST", "/images/create", create, abandoned=True),
    Route("GET", "/images/{name...}/json", inspect),
    Route("GET", "/images/{name...}/history", history),
    Route("POST", "/images/{name...}/push", push, abandoned=True),
    Route("POST", "/images/{name...}/tag", tag),
    Route("DELETE", "/images/{name...}", remove),
)
