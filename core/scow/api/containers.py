"""``/containers``: create, list, inspect and the operations of the life cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.api import inspect, streams
from scow.api.call import answer, empty
from scow.api.routing import Route
from scow.engine.times import parse_time_ns
from scow.errors import InvalidArgument, NotFound, ScowError, Unsupported
from scow.ports.log import LogQuery
from scow.types import CreateRequest, Resources, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from scow.api.call import Call
    from scow.engine.engine import Engine

WAIT_CONDITIONS = ("not-running", "next-exit", "removed")
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
MULTIPLEXED_SINCE = (1, 42)


class UpdateRequest(Resources):
    """The body of ``POST /containers/{id}/update``."""

    restart_policy: RestartPolicy | None = None


async def create(call: Call) -> web.StreamResponse:
    """``POST /containers/create``."""
    request = await call.body(CreateRequest)
    name, platform = call.text("name"), call.text("platform")
    container_id, warnings = await call.engine.containers.create(request, name, platform)
    return answer({"Id": container_id, "Warnings": warnings}, 201)


async def list_containers(call: Call) -> web.StreamResponse:
    """``GET /containers/json``."""
    containers = call.engine.containers
    limit = max(0, call.number("limit") or 0)
    found = containers.list(all=call.flag("all"), limit=limit, filters=call.filters())
    size = call.flag("size")
    image_id = image_ids(call.engine)
    return answer([inspect.summary(c, image_id, await containers.size(c.id) if size else None) for c in found])


def image_ids(engine: Engine) -> Callable[[str], str | None]:
    """What each reference names now, looked up once per reference."""
    known: dict[str, str | None] = {}

    def image_id(ref: str) -> str | None:
        if ref not in known:
            try:
                known[ref] = engine.images.get(ref).id
            except ScowError:  # the name is gone, or was given to several
                known[ref] = None
        return known[ref]

    return image_id


async def inspect_container(call: Call) -> web.StreamResponse:
    """``GET /containers/{id}/json``."""
    containers = call.engine.containers
    container = containers.get(call.args["id"])
    size = await containers.size(container.id) if call.flag("size") else None
    return answer(inspect.inspect(container, call.engine.config.data_root, size, call.engine.execs.of(container.id)))


async def start(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/start``."""
    await call.engine.containers.start(call.args["id"])
    return empty()


async def stop(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/stop``; ``t`` in seconds, -1 waits for ever."""
    await call.engine.containers.stop(call.args["id"], call.number("t"), call.text("signal"))
    return empty()


async def restart(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/restart``."""
    await call.engine.containers.restart(call.args["id"], call.number("t"), call.text("signal"))
    return empty()


async def kill(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/kill``."""
    await call.engine.containers.kill(call.args["id"], call.text("signal") or "KILL")
    return empty()


async def pause(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/pause``."""
    await call.engine.containers.pause(call.args["id"])
    return empty()


async def unpause(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/unpause``."""
    await call.engine.containers.unpause(call.args["id"])
    return empty()


async def rename(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/rename``."""
    await call.engine.containers.rename(call.args["id"], call.text("name"))
    return empty()


async def remove(call: Call) -> web.StreamResponse:
    """``DELETE /containers/{id}``."""
    if call.flag("link"):
        raise Unsupported("links are not supported by this version of scow")
    await call.engine.containers.remove(call.args["id"], force=call.flag("force"), volumes=call.flag("v"))
    return empty()


async def update(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/update``."""
    request = await call.body(UpdateRequest)
    warnings = await call.engine.containers.update(call.args["id"], request, request.restart_policy)
    return answer({"Warnings": warnings})


async def resize(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/resize``."""
    rows, columns = console_size(call)
    await call.engine.containers.resize(call.args["id"], rows, columns)
    return empty(200)


def console_size(call: Call) -> tuple[int, int]:
    """Rows and columns from ``h`` and ``w``; raises `InvalidArgument` where one is missing."""
    rows, columns = call.number("h"), call.number("w")
    if rows is None or columns is None:
        raise InvalidArgument("resize needs h and w, the rows and columns of the terminal")
    return rows, columns


async def top(call: Call) -> web.StreamResponse:
    """``GET /containers/{id}/top``."""
    titles, processes = await call.engine.containers.top(call.args["id"], call.text("ps_args") or "-ef")
    return answer({"Titles": titles, "Processes": processes})


async def wait(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/wait``: the head at once, which tells ``docker run`` that the wait is registered; the
    body when the container ends."""
    condition = call.text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidArgument(f"invalid condition: {condition!r}", hint=f"known: {', '.join(WAIT_CONDITIONS)}")
    result = call.engine.containers.wait(call.args["id"], condition)
    try:
        return await streams.send_later(call.request, result)
    finally:
        result.cancel()


async def logs(call: Call) -> web.StreamResponse:
    """``GET /containers/{id}/logs``."""
    container = call.engine.containers.get(call.args["id"])
    tty = container.config.tty
    query = LogQuery(
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        since_ns=parse_time_ns(call.text("since")),
        until_ns=parse_time_ns(call.text("until")),
        tail=_tail(call.text("tail")),
        timestamps=call.flag("timestamps"),
        framed=not tty,
    )
    if not (query.stdout or query.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    chunks = call.engine.containers.logs(container.id, query, call.flag("follow"))
    return await streams.send_chunks(call.request, stream_type(tty, call.version), chunks)


def _tail(text: str) -> int:
    return int(text) if text.isdigit() else -1  # Docker too takes what is no number for "all"


def stream_type(tty: bool, version: tuple[int, int]) -> str:
    """The media type of output: which of the two was not told apart before API 1.42."""
    return RAW_STREAM if tty or version < MULTIPLEXED_SINCE else MULTIPLEXED_STREAM


async def stats(call: Call) -> web.StreamResponse:
    """``GET /containers/{id}/stats``: one sample, or one each second."""
    containers = call.engine.containers
    container_id = containers.get(call.args["id"]).id

    async def sample() -> dict[str, Any]:
        return streams.stats_json(containers.get(container_id), await containers.stats(container_id))

    if not call.flag("stream", True):
        return answer(await streams.one_sample(sample, wait=not call.flag("one-shot")))
    samples = streams.samples(sample, until=(NotFound,))
    return await streams.send_objects(call.request, "application/json", samples)


ROUTES = (
    Route("GET", "/containers/json", list_containers),
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/{id}/json", inspect_container),
    Route("GET", "/containers/{id}/top", top),
    Route("GET", "/containers/{id}/logs", logs),
    Route("GET", "/containers/{id}/stats", stats),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/resize", resize),
    Route("POST", "/containers/{id}/update", update),
    Route("POST", "/containers/{id}/wait", wait, abandoned=True),
    Route("DELETE", "/containers/{id...}", remove),
)
