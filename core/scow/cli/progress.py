"""Docker's progress messages: bars on a terminal (rich, imported then), else one plain line for each new status."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Message = Mapping[str, Any]


def show_progress(messages: Iterable[Message], output: TextIO, *, quiet: bool = False) -> None:
    """Show *messages* until they end; *quiet* only waits for the end."""
    if quiet:
        for _ in messages:
            pass
    elif output.isatty():
        _Bars(output).show(messages)
    else:
        _lines(messages, output)


def _lines(messages: Iterable[Message], output: TextIO) -> None:
    """As docker without a terminal: a status once for each id, and no bytes."""
    last: dict[str, str] = {}
    for message in messages:
        line = plain_line(message)
        name = str(message.get("id", ""))
        if line and last.get(name) != line:
            last[name] = line
            output.write(line + "\n")
            output.flush()


def plain_line(message: Message) -> str:
    """``id: status``; empty for a message that only moves a bar."""
    if message.get("stream"):
        return str(message["stream"]).rstrip("\n")
    status, name = str(message.get("status", "")), str(message.get("id", ""))
    if (message.get("progressDetail") or {}).get("total"):
        return ""
    return f"{name}: {status}" if name and status else status


class _Bars:
    """One bar for each id that reports bytes."""

    def __init__(self, output: TextIO) -> None:
        self.output = output
        self.tasks: dict[str, TaskID] = {}

    def show(self, messages: Iterable[Message]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        sys.stdout.flush()
        console = Console(file=self.output)
        columns = (
            TextColumn("{task.fields[layer]}", style="cyan"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            for message in messages:
                self._update(progress, message)

    def _update(self, progress: Progress, message: Message) -> None:
        name, status = str(message.get("id", "")), str(message.get("status", ""))
        detail = message.get("progressDetail") or {}
        total = detail.get("total")
        if not total and name not in self.tasks:
            if line := plain_line(message):
                progress.console.print(line, highlight=False, markup=False)
            return
        if name not in self.tasks:
            self.tasks[name] = progress.add_task(status, total=total, layer=name)
        task = self.tasks[name]
        if total:
            progress.update(task, description=status, total=total, completed=detail.get("current", 0))
            return
        done = status.startswith(("Pull complete", "Pushed", "Already exists", "Download complete", "Layer already"))
        whole = next(t.total for t in progress.tasks if t.id == task)
        progress.update(task, description=status, completed=whole if done else None)
