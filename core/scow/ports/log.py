"""Log drivers. The monitor always writes *segments* (see ``scow.monitor.segments``); a log driver says how many are
kept, and reads or forwards them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much the monitor keeps: *max_files* segments of *max_bytes* each; 0 files keeps nothing at all."""

    max_bytes: int
    max_files: int


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What a reader wants. Times are ns since the epoch (0: no bound); *tail* is a number of lines (-1: all).

    *framed* asks for Docker's multiplexed stream (an 8-byte header before each line); else the plain bytes (tty).
    """

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int = -1
    timestamps: bool = False
    framed: bool = True


@runtime_checkable
class LogReader(Protocol):
    """A cursor in one container's log. Not thread-safe: one caller at a time."""

    def read(self, max_bytes: int) -> bytes:
        """The next bytes for the client, about *max_bytes* (whole frames; at least one line when there is one);
        ``b""`` when everything written so far was given. Never waits for new output. A last line without newline is
        given when `finish` was called, or when it is older than one second."""

    def finish(self) -> None:
        """What is written by now is all: the next calls of `read` give it, even half a line, and nothing later."""

    def done(self) -> bool:
        """Whether the query's ``until_ns`` lies behind: nothing more will ever come."""

    def close(self) -> None:
        """No file is open any more."""


@runtime_checkable
class LogDriver(Protocol):
    """Turns ``--log-opt`` into limits, and segments into a client's stream."""

    readable: bool  # whether `open` works

    def check(self) -> None:
        """Raise `DriverUnusable` where this host cannot serve the driver."""

    def limits(self, options: Mapping[str, str]) -> LogLimits:
        """What the monitor keeps under these ``--log-opt``. Raises `InvalidArgument` for an unknown option or a
        malformed value, naming the options it knows."""

    def open(self, directory: Path, query: LogQuery) -> LogReader:
        """A reader of the segments in *directory*. Raises `Unsupported` where the driver cannot read back."""

    def close(self) -> None:
        """Nothing of the driver runs any more in this process."""
