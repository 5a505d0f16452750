"""``scow attach`` and ``scow start``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from scow.cli import terminal
from scow.cli.client import path_of
from scow.cli.grammar import command, flag, objects, text
from scow.cli.lifecycle import each
from scow.cli.session import Session as Context
from scow.errors import Conflict, InvalidArgument


@command("attach")
@text("--detach-keys", help="Override the key sequence for detaching a container")
@flag("--no-stdin", help="Do not attach STDIN")
@flag("--sig-proxy", help="Proxy all received signals to the process", default=True)
@click.argument("container")
@click.pass_obj
def attach(context: Context, /, container: str, detach_keys: str | None, no_stdin: bool, sig_proxy: bool) -> int:
    """Attach local standard input, output, and error streams to a running container."""
    from scow.cli.attached import Forwarder, Session, check_terminal
    from scow.cli.run import exit_code, open_wait

    details = context.client.get(f"/containers/{path_of(container)}/json")
    state, config = details["State"], details["Config"]
    if not state.get("Running"):
        raise Conflict("cannot attach to a stopped container, start it first")
    for condition in ("Paused", "Restarting"):
        if state.get(condition):
            raise Conflict(f"cannot attach to a {condition.lower()} container, {_CURE[condition]} first")
    tty, stdin = bool(config.get("Tty")), bool(config.get("OpenStdin")) and not no_stdin
    check_terminal(stdin=not no_stdin, tty=tty)
    path = f"/containers/{details['Id']}"
    query = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": detach_keys}
    with ExitStack() as stack:
        waiter = open_wait(context.client, details["Id"], "not-running")
        connection = context.client.hijack(f"{path}/attach", query)
        session = Session(connection, tty=tty, stdin=stdin, detach_keys=detach_keys)
        forwarder = Forwarder(context.another(), path)
        if tty and terminal.size():
            stack.enter_context(forwarder.window())
        elif sig_proxy and not tty:
            stack.enter_context(forwarder.signals())
        if session.run():
            return 0
        return exit_code(waiter)


_CURE = {"Paused": "unpause it", "Restarting": "wait until it runs"}


@command("start", runs=False)
@flag("-a", "--attach", help="Attach STDOUT/STDERR and forward signals")
@text("--detach-keys", help="Override the key sequence for detaching a container")
@flag("-i", "--interactive", help="Attach container's STDIN")
@flag("--sig-proxy", default=True, hidden=True)
@objects("container")
@click.pass_obj
def start(context: Context, /, container: tuple[str, ...], **flags: Any) -> int:
    """Start one or more stopped containers."""
    if not flags["attach"] and not flags["interactive"]:
        return each(container, lambda name: context.client.post(f"/containers/{path_of(name)}/start"))
    if len(container) > 1:
        raise InvalidArgument("you cannot start and attach multiple containers at once")
    from scow.cli.run import run_attached

    details = context.client.get(f"/containers/{path_of(container[0])}/json")
    config = details["Config"]
    stdin = flags["interactive"] and bool(config.get("OpenStdin"))
    from scow.cli.attached import check_terminal

    check_terminal(stdin=stdin, tty=bool(config.get("Tty")))
    streams = {"stdin": stdin, "stdout": True, "stderr": True}
    remove = bool((details.get("HostConfig") or {}).get("AutoRemove"))
    tty = bool(config.get("Tty"))
    return run_attached(context, details["Id"], streams, tty=tty, remove=remove, flags=flags)
