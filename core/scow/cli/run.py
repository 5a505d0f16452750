"""``scow run`` and ``scow create``: create → attach → wait → start, as docker's command line does it."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import Any

import click

from scow.cli import terminal
from scow.cli.client import Client, Response
from scow.cli.container_flags import container_flags
from scow.cli.grammar import command, flag, text
from scow.cli.run_options import create_body
from scow.cli.session import Session as Context
from scow.cli.session import note, write
from scow.errors import InvalidArgument, NotFound, ScowError

PULL_POLICIES = ("always", "missing", "never")
ENGINE_FAILED = 125


@command("create", runs=True, interspersed=False)
@container_flags
@click.argument("image")
@click.argument("arguments", metavar="[COMMAND] [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create(context: Context, /, image: str, arguments: tuple[str, ...], **flags: Any) -> None:
    """Create a new container."""
    body = create_body(image, arguments, flags)
    write(create_container(context, body, flags))


@command("run", runs=True, interspersed=False)
@flag("-d", "--detach", help="Run container in background and print container ID")
@text("--detach-keys", help="Override the key sequence for detaching a container")
@flag("--sig-proxy", help="Proxy received signals to the process", default=True)
@container_flags
@click.argument("image")
@click.argument("arguments", metavar="[COMMAND] [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(context: Context, /, image: str, arguments: tuple[str, ...], **flags: Any) -> int:
    """Create and run a new container from an image."""
    body = create_body(image, arguments, flags, detach=flags["detach"])
    if flags["detach"]:
        container = create_container(context, body, flags)
        context.client.post(f"/containers/{container}/start")
        write(container)
        return 0
    from scow.cli.attached import check_terminal

    check_terminal(stdin=body["AttachStdin"], tty=body["Tty"])
    terminal.detach_keys(flags["detach_keys"])
    if size := terminal.size():
        body["HostConfig"]["ConsoleSize"] = list(size)
    container = create_container(context, body, flags)
    streams = {name: body[f"Attach{name.capitalize()}"] for name in ("stdin", "stdout", "stderr")}
    if not streams["stdout"] and not streams["stderr"]:
        write(container)
    return run_attached(context, container, streams, tty=body["Tty"], remove=flags["rm"], flags=flags)


def run_attached(
    context: Context, container: str, streams: dict[str, bool], *, tty: bool, remove: bool, flags: dict[str, Any]
) -> int:
    """Attach, start and copy until the container ends; answers its exit code (0 after a detach)."""
    from scow.cli.attached import Forwarder, Session

    path = f"/containers/{container}"
    with ExitStack() as stack:
        session = None
        if any(streams.values()):
            query = {"stream": True, "detachKeys": flags["detach_keys"], **streams}
            connection = context.client.hijack(f"{path}/attach", query)
            session = Session(connection, tty=tty, stdin=streams["stdin"], detach_keys=flags["detach_keys"])
        waiter = open_wait(context.client, container, "removed" if remove else "next-exit")
        forwarder = Forwarder(context.another(), path)
        if flags["sig_proxy"] and not tty:
            stack.enter_context(forwarder.signals())
        context.client.post(f"{path}/start")
        if tty and terminal.size():
            stack.enter_context(forwarder.window())
        if session is not None and session.run():
            return 0
        return exit_code(waiter)


def open_wait(client: Client, container: str, condition: str) -> Response:
    """A wait that the daemon has registered when this returns."""
    return client.open("POST", f"/containers/{container}/wait", {"condition": condition})


def exit_code(waiter: Response) -> int:
    """What the wait ends with; an error of the daemon is told, and 125."""
    answer = waiter.json() or {}
    error = answer.get("Error") or {}
    if error.get("Message"):
        note(f"scow: {error['Message']}")
        return ENGINE_FAILED
    return int(answer.get("StatusCode", ENGINE_FAILED))


def create_container(context: Context, body: dict[str, Any], flags: dict[str, Any]) -> str:
    """The id of the new container; pulls the image as ``--pull`` says, writes ``--cidfile``."""
    policy, image = flags["pull"] or "missing", body["Image"]
    if policy not in PULL_POLICIES:
        raise InvalidArgument(f"invalid pull option: {policy!r}", hint=f"use one of {', '.join(PULL_POLICIES)}")
    cidfile = _new_cidfile(flags["cidfile"])
    try:
        if policy == "always":
            _pull(context, image, flags)
        answer = _create(context, body, flags, pull=policy == "missing")
    except ScowError:
        if cidfile is not None:
            os.unlink(flags["cidfile"])
        raise
    finally:
        if cidfile is not None:
            os.close(cidfile)
    if flags["cidfile"]:
        with open(flags["cidfile"], "w") as file:
            file.write(answer["Id"])
    for warning in answer.get("Warnings") or ():
        note(f"WARNING: {warning}")
    return str(answer["Id"])


def _create(context: Context, body: dict[str, Any], flags: dict[str, Any], *, pull: bool) -> Any:
    query = {"name": flags["name"], "platform": flags["platform"]}
    try:
        return context.client.request("POST", "/containers/create", query, body)
    except NotFound as error:
        if not pull or "no such image" not in error.message.lower():
            raise
    if not flags["quiet"]:
        from scow.reference import Reference

        note(f"Unable to find image '{Reference.parse(body['Image']).familiar}' locally")
    _pull(context, body["Image"], flags)
    return context.client.request("POST", "/containers/create", query, body)


def _pull(context: Context, image: str, flags: dict[str, Any]) -> None:
    from scow.cli.transfer import pull_image

    pull_image(context.client, image, platform=flags["platform"], quiet=flags["quiet"], output=sys.stderr)


def _new_cidfile(path: str | None) -> int | None:
    if not path:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        hint = "make sure the other container isn't running, or delete the file"
        raise InvalidArgument(f"container ID file found: {path}", hint=hint) from error
