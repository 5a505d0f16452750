"""``scow logs``."""

from __future__ import annotations

import click

from scow.cli.client import path_of
from scow.cli.grammar import command, flag, text
from scow.cli.moments import timestamp
from scow.cli.session import Session
from scow.cli.streams import copy_output


@command("logs")
@flag("--details", help="Show extra details provided to logs")
@flag("-f", "--follow", help="Follow log output")
@text("--since", help="Show logs since timestamp or relative (e.g. 42m)")
@text("-n", "--tail", help="Number of lines to show from the end of the logs", default="all")
@flag("-t", "--timestamps", help="Show timestamps")
@text("--until", help="Show logs before a timestamp or relative (e.g. 42m)")
@click.argument("container")
@click.pass_obj
def logs(
    context: Session,
    /,
    container: str,
    details: bool,
    follow: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
    until: str | None,
) -> None:
    """Fetch the logs of a container."""
    client = context.client
    path = f"/containers/{path_of(container)}"
    tty = bool((client.get(f"{path}/json").get("Config") or {}).get("Tty"))
    query = {
        "stdout": True,
        "stderr": True,
        "follow": follow,
        "details": details,
        "timestamps": timestamps,
        "since": timestamp(since),
        "until": timestamp(until),
        "tail": tail,
    }
    copy_output(client.open("GET", f"{path}/logs", query).chunks(), tty=tty)
