"""``scow stats``: one sample, or a table that is drawn anew when there are new figures."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from scow.cli import format as fmt
from scow.cli.client import path_of
from scow.cli.grammar import command, flag, objects, text
from scow.cli.session import Session
from scow.errors import ScowError

COLUMNS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
DEFAULT = "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs"
RELIST_S = 1.0
FIRST_S = 1.5  # until then a table is not drawn without the figures of all
GATHER_S = 0.5
_HOME, _TO_LINE_END, _TO_SCREEN_END = "\033[H", "\033[K", "\033[J"
Sample = Mapping[str, Any]


@command("stats")
@flag("-a", "--all", help="Show all containers (default shows just running)")
@text("--format", help="Format output: 'table', 'table TEMPLATE', 'json' or a Go template")
@flag("--no-stream", help="Disable streaming stats and only pull the first result")
@flag("--no-trunc", help="Do not truncate output")
@objects("container", required=False)
@click.pass_obj
def stats(
    context: Session, /, container: tuple[str, ...], all: bool, format: str | None, no_stream: bool, no_trunc: bool
) -> None:
    """Display a live stream of container(s) resource usage statistics."""

    def names() -> list[str]:
        return list(container) or [entry["Id"] for entry in context.client.get("/containers/json", all=all)]

    def draw(samples: list[Sample]) -> str:
        rows = [stats_row(sample, trunc=not no_trunc) for sample in samples]
        return fmt.show(rows, COLUMNS, default=DEFAULT, template=format)

    if no_stream:
        sys.stdout.write(draw(_once(context, names())))
    else:
        _live(context, names, draw)


def _once(context: Session, names: list[str]) -> list[Sample]:
    """A sample of each container, taken at the same time; a failure of one is raised after all have answered."""
    samples: dict[str, Sample] = {}
    errors: list[ScowError] = []

    def one(name: str) -> None:
        try:
            samples[name] = context.another().get(f"/containers/{path_of(name)}/stats", stream="false")
        except ScowError as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [samples[name] for name in names]


def _live(context: Session, names: Callable[[], list[str]], draw: Callable[[list[Sample]], str]) -> None:
    """Draw until interrupted; containers that come and go are followed."""
    samples: dict[str, Sample] = {}
    followed: dict[str, threading.Thread] = {}
    news = threading.Event()

    def follow(name: str) -> None:
        try:
            response = context.another().open("GET", f"/containers/{path_of(name)}/stats", {"stream": "true"})
            for sample in response.messages():
                samples[name] = sample
                news.set()
        except ScowError:  # it is gone: its line goes too
            pass
        samples.pop(name, None)
        news.set()

    begun, wanted = time.monotonic(), names()
    for name in wanted:
        context.client.get(f"/containers/{path_of(name)}/json")  # a name that does not exist is an error at once
    terminal = sys.stdout.isatty()
    while True:
        for name in wanted:
            if name not in followed or not followed[name].is_alive():
                followed[name] = threading.Thread(target=follow, args=(name,), daemon=True)
                followed[name].start()
        news.wait(RELIST_S)
        news.clear()
        if samples.keys() >= set(wanted) or time.monotonic() > begun + FIRST_S:
            text = draw([samples[name] for name in wanted if name in samples])
            sys.stdout.write(_in_place(text) if terminal else text)
            sys.stdout.flush()
            time.sleep(GATHER_S)
        wanted = names()


def _in_place(text: str) -> str:
    """*text* over what the terminal shows, without a moment in which it shows nothing."""
    return _HOME + text.replace("\n", f"{_TO_LINE_END}\n") + _TO_SCREEN_END


def stats_row(sample: Sample, *, trunc: bool) -> dict[str, str]:
    """The fields of one sample, computed as docker's command line does."""
    memory = sample.get("memory_stats") or {}
    used, limit = memory_used(memory), memory.get("limit") or 0
    received, sent = network_bytes(sample)
    read, written = block_bytes(sample)
    identity = str(sample.get("id") or "")
    return {
        "Container": identity[: fmt.ID_LENGTH] if trunc else identity,
        "ID": identity[: fmt.ID_LENGTH] if trunc else identity,
        "Name": str(sample.get("name") or "--").removeprefix("/"),
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{fmt.binary_size(used)} / {fmt.binary_size(limit)}",
        "MemPerc": f"{100 * used / limit if limit else 0:.2f}%",
        "NetIO": f"{fmt.human_size(received, 3)} / {fmt.human_size(sent, 3)}",
        "BlockIO": f"{fmt.human_size(read, 3)} / {fmt.human_size(written, 3)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current") or 0),
    }


def cpu_percent(sample: Sample) -> float:
    """Share of one CPU, in percent, between the sample and the one before it."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    usage = now.get("cpu_usage") or {}
    used = (usage.get("total_usage") or 0) - ((before.get("cpu_usage") or {}).get("total_usage") or 0)
    system = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cpus = now.get("online_cpus") or len(usage.get("percpu_usage") or ())
    return used / system * cpus * 100 if used > 0 and system > 0 else 0.0


def memory_used(memory: Sample) -> float:
    """Without the page cache that the kernel would give back first."""
    usage, details = memory.get("usage") or 0, memory.get("stats") or {}
    inactive = details.get("total_inactive_file", details.get("inactive_file", 0))
    return float(usage - inactive if inactive < usage else usage)


def network_bytes(sample: Sample) -> tuple[float, float]:
    """Received and sent, over all interfaces."""
    networks = (sample.get("networks") or {}).values()
    return sum(n.get("rx_bytes", 0) for n in networks), sum(n.get("tx_bytes", 0) for n in networks)


def block_bytes(sample: Sample) -> tuple[float, float]:
    """Read and written, over all devices."""
    entries = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    totals = {"r": 0.0, "w": 0.0}
    for entry in entries:
        kind = str(entry.get("op", ""))[:1].lower()
        if kind in totals:
            totals[kind] += entry.get("value") or 0
    return totals["r"], totals["w"]
