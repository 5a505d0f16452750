"""``POST /containers/{id}/attach``: the connection becomes the container's streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from scow.api.containers import RAW_STREAM, stream_type
from scow.api.hijack import Taken, relay, take_over
from scow.api.routing import Route

if TYPE_CHECKING:
    from scow.api.call import Call
    from scow.engine.sessions import Session


async def attach(call: Call) -> web.StreamResponse:
    """``POST /containers/{id}/attach``; valid before the container starts."""
    stdin = call.flag("stdin")
    session = await call.engine.containers.attach(
        call.args["id"],
        stdin=stdin,
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        logs=call.flag("logs"),
        stream=call.flag("stream"),
        detach_keys=call.text("detachKeys"),
    )
    return await hand_over(call, session, stdin, session.tty)


async def hand_over(call: Call, session: Session, stdin: bool, tty: bool) -> web.StreamResponse:
    """The client's connection is *session*'s until one of them ends; see `relay`. *tty* says that its output is not in
    frames."""
    try:
        connection, handler = take_over(call.request, head(call, tty))
    except BaseException:
        session.abort()
        raise
    try:
        await relay(connection, session, stdin)
    finally:
        connection.give_back(handler)
    return Taken()


def head(call: Call, tty: bool) -> bytes:
    """The response's head: ``101`` for a client that asked to upgrade, else the ``200`` of older ones."""
    if "Upgrade" not in call.request.headers:
        return f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n\r\n".encode()
    content_type = stream_type(tty, call.version)
    upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    return f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\n{upgrade}\r\n".encode()


ROUTES = (Route("POST", "/containers/{id}/attach", attach, abandoned=True),)
