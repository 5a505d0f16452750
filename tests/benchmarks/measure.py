"""What the benchmarks share: an engine's command line, interleaved rounds, rows of a table, the API, memory."""

from __future__ import annotations

import contextlib
import glob
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

ROWS: list[dict[str, object]] = []


class Engine:
    """A docker-compatible command line."""

    def __init__(self, name: str, argv: list[str]) -> None:
        self.name, self.argv = name, argv
        self.remove = ["rm", "-f", *(["-t", "0"] if "podman" in name else [])]

    def __call__(self, *words: str, check: bool = True, stdin: IO[bytes] | None = None) -> str:
        source = subprocess.DEVNULL if stdin is None else stdin
        done = subprocess.run([*self.argv, *words], stdin=source, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(words)}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def seconds(self, words: Sequence[str]) -> float:
        """How long the command took."""
        start = time.perf_counter()
        subprocess.run([*self.argv, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


def report(bench: str, engine: str, values: list[float], unit: str) -> None:
    """One row of the table."""
    ordered = sorted(values)
    row = {
        "bench": bench,
        "engine": engine,
        "unit": unit,
        "n": len(ordered),
        "median": statistics.median(ordered),
        "min": ordered[0],
        "max": ordered[-1],
    }
    ROWS.append(row)
    shown = " | ".join(f"{value:.2f}" for value in (statistics.median(ordered), ordered[0], ordered[-1]))
    print(f"| {bench} | {engine} | {shown} | {len(ordered)} | {unit} |", flush=True)


def rounds(bench: str, engines: list[Engine], n: int, one: Callable[[Engine], float], unit: str, scale: float) -> None:
    """*n* interleaved rounds of *one*."""
    values: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for number in range(n):
        for engine in engines if number % 2 == 0 else engines[::-1]:
            values[engine.name].append(one(engine) * scale)
    told(bench, values, unit)


def told(bench: str, values: dict[str, list[float]], unit: str) -> None:
    """A row for each engine's *values*, and Scow's ratio to each of the others."""
    for name, got in values.items():
        report(bench, name, got, unit)
    for name, got in values.items():
        if name != "scow" and "scow" in values:
            ratio = statistics.median(values["scow"]) / statistics.median(got)
            print(f"| {bench} | scow / {name} | **{ratio:.3f}** | | | | ratio |", flush=True)


class Api(http.client.HTTPConnection):
    """HTTP over the daemon's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("scow")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))

    def call(self, method: str, path: str, body: object = None) -> object:
        """The decoded answer; *body* is sent as JSON, bytes as they are. Of a progress stream, its last line."""
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        sent = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        self.request(method, path, sent, {"Content-Type": kind})
        answer = self.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data!r}")
        return json.loads(data.strip().splitlines()[-1]) if data.strip() else None


def pss_kib(pattern: str) -> int:
    """The PSS of all processes whose command line matches, and of the inits that wait for a container to be made."""
    lines: dict[int, str] = {}
    for folder in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):
            lines[int(folder[6:])] = Path(folder, "cmdline").read_text().replace("\0", " ")
    matching = {pid for pid, line in lines.items() if re.search(pattern, line) and pid != os.getpid()}
    total = 0
    for pid, line in lines.items():
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            waits = line.startswith("scow-init") and int(process.joinpath("stat").read_text().split()[3]) in matching
            if waits or pid in matching:
                match = re.search(r"^Pss: +(\d+)", process.joinpath("smaps_rollup").read_text(), re.M)
                total += int(match[1]) if match else 0
    return total
