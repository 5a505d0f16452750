"""The log drivers ``local`` and ``json-file`` (one and the same) and ``none``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scow.errors import InvalidArgument, Unsupported
from scow.ports import DriverContext
from scow.ports.log import LogLimits, LogQuery
from scow_log_local.reader import SegmentReader

DEFAULT_MAX_BYTES = 20 * 1000 * 1000
DEFAULT_MAX_FILES = 5
_IGNORED = ("compress", "env", "env-regex", "labels", "labels-regex", "max-buffer-size", "mode", "tag")
_KNOWN = ("max-file", "max-size", *_IGNORED)
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


class LocalLog:
    """Keeps *max-file* segments of *max-size* bytes (5 of 20 MB); unlike Docker's json-file, bounded by default.

    ``compress``, ``labels``, ``env``, ``tag``, ``mode`` and their kin are taken and change nothing.
    """

    readable = True

    def __init__(self, context: DriverContext) -> None:
        self._context = context

    def check(self) -> None:
        """Works on every host."""

    def limits(self, options: Mapping[str, str]) -> LogLimits:
        """See `scow.ports.log.LogDriver.limits`; sizes as Docker has them (``10m`` is 10 x 1024 x 1024)."""
        unknown = sorted(set(options) - set(_KNOWN))
        if unknown:
            raise InvalidArgument(
                f"unknown log opt '{unknown[0]}' for {self._context.name} log driver",
                hint=f"it knows {', '.join(sorted(_KNOWN))}",
            )
        max_bytes = _size(options["max-size"]) if "max-size" in options else DEFAULT_MAX_BYTES
        max_files = _count(options["max-file"]) if "max-file" in options else DEFAULT_MAX_FILES
        return LogLimits(max_bytes, max_files)

    def open(self, directory: Path, query: LogQuery) -> SegmentReader:
        """See `scow.ports.log.LogDriver.open`."""
        return SegmentReader(directory, query)

    def close(self) -> None:
        """Nothing runs."""


class NoLog:
    """Keeps nothing."""

    readable = False

    def __init__(self, context: DriverContext) -> None:
        self._context = context

    def check(self) -> None:
        """Works on every host."""

    def limits(self, options: Mapping[str, str]) -> LogLimits:
        """Nothing is kept; there are no options."""
        if options:
            raise InvalidArgument(f"unknown log opt '{sorted(options)[0]}' for none log driver", hint="it takes none")
        return LogLimits(0, 0)

    def open(self, directory: Path, query: LogQuery) -> SegmentReader:
        """Raises `Unsupported`, in Docker's words."""
        raise Unsupported("configured logging driver does not support reading")

    def close(self) -> None:
        """Nothing runs."""


def _size(value: str) -> int:
    match = _SIZE.match(value.strip().lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size <= 0:
        raise InvalidArgument(f"invalid value for max-size: {value!r}", hint="a number and k, m or g, as in 10m")
    return size


def _count(value: str) -> int:
    if not value.strip().isdigit() or int(value) < 1:
        raise InvalidArgument(f"invalid value for max-file: {value!r}", hint="a whole number from 1")
    return int(value)
