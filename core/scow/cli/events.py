"""``scow events``."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.grammar import command, many, text
from scow.cli.moments import timestamp
from scow.cli.session import Session


@command("events")
@many("-f", "--filter", help="Filter output based on conditions provided", metavar="filter")
@text("--format", help="Format output using 'json' or a Go template")
@text("--since", help="Show all events created since timestamp")
@text("--until", help="Stream events until this timestamp")
@click.pass_obj
def events(
    context: Session, /, filter: tuple[str, ...], format: str | None, since: str | None, until: str | None
) -> None:
    """Get real time events from the server."""
    from scow.cli.gotemplate import Template, to_json

    template = Template(format) if format and format != "json" else None
    query = {"since": timestamp(since), "until": timestamp(until), "filters": fmt.filters(filter)}
    for event in context.client.open("GET", "/events", query).messages():
        if template is not None:
            line = template.render(event)
        else:
            line = to_json(event) if format == "json" else event_line(event)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def event_line(event: Mapping[str, Any]) -> str:
    """``2026-01-02T03:04:05.123456789Z container start <id> (image=…, name=…)``."""
    nanoseconds = event.get("timeNano") or (event.get("time") or 0) * 10**9
    moment = datetime.datetime.fromtimestamp(nanoseconds // 10**9).astimezone()
    zone = moment.strftime("%z")
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}" + (f"{zone[:3]}:{zone[3:]}" if zone else "Z")
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    words = [stamp, event.get("Type", ""), event.get("Action", ""), actor.get("ID", "")]
    return " ".join(str(word) for word in words) + (f" ({attributes})" if attributes else "")
