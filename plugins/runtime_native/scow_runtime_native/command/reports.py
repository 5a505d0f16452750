"""list and ps."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument, NotFound, ScowError, Unavailable
from scow_runtime_native.command import store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_COLUMNS = (("ID", "id"), ("PID", "pid"), ("STATUS", "status"), ("BUNDLE", "bundle"), ("CREATED", "created"),
            ("OWNER", "owner"))  # fmt: skip


def states(root: str) -> list[dict[str, Any]]:
    """The state of each container of *root*; those that go meanwhile or whose state is damaged are left out."""
    found = []
    for id in store.all_ids(root):
        with contextlib.suppress(NotFound, InvalidArgument):
            found.append(store.find(root, id).state())
    return found


def table(rows: Iterable[dict[str, Any]]) -> str:
    """*rows* in columns."""
    lines = [[title for title, _ in _COLUMNS], *([str(row[key]) for _, key in _COLUMNS] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("   ".join(cells).rstrip() for cells in padded)


def processes(root: str, container: store.Container) -> list[int]:
    """The pids of the container's processes."""
    from scow_runtime_native.command.runtime import Driver

    return Driver(root, container).processes(container.id)


def process_table(pids: Iterable[int], words: Sequence[str]) -> str:
    """What ``ps`` with the arguments *words* prints of *pids*. Raises `Unavailable` where the host has no ps."""
    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable("the host has no ps", hint="install procps, or use --format json") from None
    if done.returncode:
        raise ScowError(f"ps {' '.join(words)}: {done.stderr.strip()}")
    header, *lines = done.stdout.splitlines()
    if "PID" not in header.split():
        raise InvalidArgument(f"ps {' '.join(words)} has no column PID")
    column, wanted = header.split().index("PID"), {str(pid) for pid in pids}
    kept = [line for line in lines if wanted & set(line.split()[column : column + 1])]
    return "\n".join([header, *kept])
