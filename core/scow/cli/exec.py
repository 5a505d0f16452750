"""``scow exec``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from scow.cli import terminal
from scow.cli.client import path_of
from scow.cli.environment import env_of
from scow.cli.grammar import command, flag, many, text
from scow.cli.session import Session as Context


@command("exec", runs=True, interspersed=False)
@flag("-d", "--detach", help="Detached mode: run command in the background")
@text("--detach-keys", help="Override the key sequence for detaching a container")
@many("-e", "--env", help="Set environment variables")
@many("--env-file", help="Read in a file of environment variables")
@flag("-i", "--interactive", help="Keep STDIN open even if not attached")
@flag("--privileged", help="Give extended privileges to the command")
@flag("-t", "--tty", help="Allocate a pseudo-TTY")
@text("-u", "--user", help="Username or UID (format: <name|uid>[:<group|gid>])")
@text("-w", "--workdir", help="Working directory inside the container")
@click.argument("container")
@click.argument("arguments", metavar="COMMAND [ARG...]", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(context: Context, /, container: str, arguments: tuple[str, ...], **flags: Any) -> int:
    """Execute a command in a running container."""
    detach, tty, stdin = flags["detach"], flags["tty"], flags["interactive"] and not flags["detach"]
    size = terminal.size() if tty else None
    body = {
        "User": flags["user"] or "",
        "Privileged": flags["privileged"],
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": flags["detach_keys"] or "",
        "Env": env_of(flags["env_file"], flags["env"]),
        "WorkingDir": flags["workdir"] or "",
        "Cmd": list(arguments),
        "ConsoleSize": list(size) if size else None,
    }
    client = context.client
    if not detach:
        from scow.cli.attached import check_terminal

        check_terminal(stdin=stdin, tty=tty)
    path = f"/exec/{client.post(f'/containers/{path_of(container)}/exec', body)['Id']}"
    start = {"Detach": detach, "Tty": tty, "ConsoleSize": list(size) if size else None}
    if detach:
        client.post(f"{path}/start", start)
        return 0
    return _attached(context, path, start, stdin=stdin, tty=tty, detach_keys=flags["detach_keys"])


def _attached(
    context: Context, path: str, start: dict[str, Any], *, stdin: bool, tty: bool, detach_keys: str | None
) -> int:
    from scow.cli.attached import Forwarder, Session

    with ExitStack() as stack:
        session = Session(
            context.client.hijack(f"{path}/start", {}, start), tty=tty, stdin=stdin, detach_keys=detach_keys
        )
        if tty and terminal.size():
            stack.enter_context(Forwarder(context.another(), path).window())
        session.run()
    return int(context.client.get(f"{path}/json").get("ExitCode") or 0)
