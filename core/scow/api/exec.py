"""``/exec``: processes beside the container's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from scow.api.attach import hand_over, head
from scow.api.call import answer, empty
from scow.api.containers import console_size
from scow.api.hijack import Taken, take_over
from scow.api.routing import Route
from scow.engine.framing import STDERR, frame
from scow.errors import CannotRun, CommandNotFound, ScowError
from scow.types import ExecRequest

if TYPE_CHECKING:
    from scow.api.call import Call
    from scow.engine.model import ExecRecord
    from scow.engine.sessions import StreamSession


class ExecStart(msgspec.Struct, kw_only=True, rename="pascal"):
    """The body of ``POST /exec/{id}/start``."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


async def create(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/exec``."""
    request = await call.body(ExecRequest)
    return answer({"Id": await call.engine.execs.create(call.args["id"], request)}, 201)


async def start(call: Call) -> web.StreamResponse:
    """``POST /exec/{id}/start``: detached, or the connection becomes the process's streams."""
    options = await call.body(ExecStart)
    exec_id = call.args["id"]
    size = options.console_size
    console = (size[0], size[1]) if size and len(size) == 2 and any(size) else None
    execs = call.engine.execs
    starting = asyncio.ensure_future(execs.start(exec_id, detach=options.detach, tty=options.tty, console_size=console))
    try:
        session = await asyncio.shield(starting)
    except asyncio.CancelledError:  # the client is gone; the start is finished all the same
        starting.add_done_callback(_abandon)
        raise
    except (CannotRun, CommandNotFound) as error:
        if options.detach:
            raise
        return await _tell(call, error, options.tty)
    if session is None:
        return empty(200)
    stdin = execs.get(exec_id).request.attach_stdin
    return await hand_over(call, session, stdin, options.tty)


def _abandon(starting: asyncio.Task[StreamSession | None]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        session = starting.result()
        if session is not None:
            session.abort()


async def _tell(call: Call, error: ScowError, tty: bool) -> web.StreamResponse:
    """A program that cannot be run is told on the stream, as Docker does: the client then asks for the exit code (126
    or 127) instead of ending with its own."""
    text = f"{error.message}\r\n".encode()
    if not tty:
        text = frame(text, STDERR)
    connection, handler = take_over(call.request, head(call, tty))
    try:
        await connection.head_read()
        await connection.send(text)
    finally:
        connection.give_back(handler)
    return Taken()


async def resize(call: Call) -> web.StreamResponse:
    """``POST /exec/{id}/resize``."""
    rows, columns = console_size(call)
    await call.engine.execs.resize(call.args["id"], rows, columns)
    return empty(200)


async def inspect(call: Call) -> web.StreamResponse:
    """``GET /exec/{id}/json``."""
    return answer(exec_json(call.engine.execs.get(call.args["id"])))


def exec_json(record: ExecRecord) -> dict[str, Any]:
    """Docker's ExecInspectResponse."""
    request = record.request
    return {
        "CanRemove": False,
        "ContainerID": record.container_id,
        "DetachKeys": request.detach_keys,
        "ExitCode": record.exit_code,
        "ID": record.id,
        "OpenStderr": request.attach_stderr,
        "OpenStdin": request.attach_stdin,
        "OpenStdout": request.attach_stdout,
        "Running": record.running,
        "Pid": record.pid,
        "ProcessConfig": {
            "entrypoint": request.cmd[0] if request.cmd else "",
            "arguments": request.cmd[1:],
            "privileged": request.privileged,
            "tty": request.tty,
            "user": request.user,
        },
    }


ROUTES = (
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start, abandoned=True),
    Route("POST", "/exec/{id}/resize", resize),
    Route("GET", "/exec/{id}/json", inspect),
)
