"""How things are shown: tables, sizes and ages as docker shows them, ``--format``."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MIN_WIDTH = 10  # Go's tabwriter.NewWriter(out, 10, 1, 3, ' ', 0), as docker's formatter makes it
PADDING = 3
ID_LENGTH = 12
Row = Mapping[str, Any]
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def table(rows: Iterable[Sequence[str]]) -> str:
    """*rows* (the first is the heading) in columns; the last column is not padded."""
    lines = [[cell.replace("\t", " ").replace("\n", " ") for cell in row] for row in rows]
    if not lines:
        return ""
    columns = max(len(line) for line in lines)
    widths = [
        max(MIN_WIDTH, PADDING + max((len(line[i]) for line in lines if len(line) > i + 1), default=0))
        for i in range(columns - 1)
    ]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)) + line[-1] + "\n"
        for line in lines
    )


def show(
    rows: Iterable[Row],
    columns: Mapping[str, str],
    *,
    default: str,
    template: str | None,
    quiet: Callable[[Row], str] | None = None,
) -> str:
    """The listing of *rows*: as a table of the *default* fields, or as ``--format`` *template* asks.

    *columns* names the heading of every field; *quiet* gives the one word a row that ``-q`` shows.
    """
    if quiet is not None and template is None:
        return "".join(quiet(row) + "\n" for row in rows)
    chosen = template or "table"
    if chosen == "json":
        from scow.cli.gotemplate import to_json

        return "".join(to_json({name: plain(row, name) for name in columns}) + "\n" for row in rows)
    if chosen == "table":
        fields = default.split()
        heading = [columns[name] for name in fields]
        return table([heading, *([str(plain(row, name)) for name in fields] for row in rows)])
    from scow.cli.gotemplate import Template

    text = chosen.removeprefix("table").strip() if chosen.startswith("table ") else chosen
    compiled = Template(text.replace("\\t", "\t").replace("\\n", "\n"))
    lines = [compiled.render(row) for row in rows]
    if not chosen.startswith("table "):
        return "".join(line + "\n" for line in lines)
    headings = _Headings(columns)
    return table(line.split("\t") for line in [compiled.render(headings), *lines])


def plain(row: Row, name: str) -> Any:
    """The field *name* of *row*; a field may be a function that makes it."""
    value = row.get(name, "")
    return value() if callable(value) else value


class _Headings(dict[str, Any]):
    """What a table's template is filled with for its first line: the heading in place of every value."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        super().__init__({**columns, "Label": lambda name="": name})


def human_size(size: float, precision: int = 4) -> str:
    """Bytes in powers of 1000 with *precision* digits: ``1.093MB`` (go-units ``HumanSize``)."""
    return _scaled(size, 1000, _DECIMAL, precision)


def binary_size(size: float) -> str:
    """Bytes in powers of 1024: ``1.5GiB`` (go-units ``BytesSize``)."""
    return _scaled(size, 1024, _BINARY, 4)


def _scaled(size: float, base: int, units: Sequence[str], precision: int) -> str:
    step = 0
    while size >= base and step < len(units) - 1:
        size /= base
        step += 1
    return f"{size:.{precision}g}{units[step]}"


def human_duration(seconds: float) -> str:
    """``3 minutes``, ``About an hour`` (go-units ``HumanDuration``)."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    minutes = int(seconds / 60)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, name in ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months")):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(created: float, now: float | None = None) -> str:
    """The age of *created* (seconds since the epoch)."""
    return f"{human_duration((time.time() if now is None else now) - created)} ago"


def seconds_of(text: str) -> float:
    """An RFC 3339 time of the API in seconds since the epoch; 0 for none or Go's zero time."""
    if not text or text.startswith("0001-"):
        return 0.0
    head, dot, tail = text.rstrip("Z").partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    offset = tail[digits:] or ("+00:00" if text.endswith("Z") else "")
    return datetime.datetime.fromisoformat(head + offset).timestamp() + (float(f"0.{tail[:digits]}") if digits else 0.0)


def local_time(seconds: float) -> str:
    """As Go prints a time: ``2026-01-02 03:04:05 +0000 UTC``."""
    moment = datetime.datetime.fromtimestamp(seconds).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S %z %Z")


def short_id(text: str) -> str:
    """The first 12 digits of an id, without ``sha256:``."""
    return text.partition(":")[2][:ID_LENGTH] if text.startswith("sha256:") else text[:ID_LENGTH]


def ellipsis(text: str, width: int) -> str:
    """*text* in at most *width* characters, with ``…`` at the end where it was cut."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…" if width > 1 else text[:width]


def emit(output: str) -> None:
    """*output* on standard output, as it is."""
    sys.stdout.write(output)


def labels_text(labels: Mapping[str, str] | None) -> str:
    """``a=b,c=d``."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def filters(values: Iterable[str]) -> dict[str, list[str]]:
    """Every ``--filter key=value`` in the API's form; raises `InvalidArgument`."""
    from scow.errors import InvalidArgument

    result: dict[str, list[str]] = {}
    for value in values:
        key, equals, wanted = value.partition("=")
        if not equals:
            raise InvalidArgument(f"invalid filter {value!r}", hint="use KEY=VALUE")
        result.setdefault(key.strip().lower(), []).append(wanted.strip())
    return result
