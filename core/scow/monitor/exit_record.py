"""The exit record: how a container's init ended, on disk before anybody is told.

One JSON object: ``exit_code`` (128 + signal for a killed process), ``signal`` (0: none), ``oom_killed``,
``finished_ns`` (since the epoch), ``reason`` (empty; scowd writes ``monitor lost`` where it must guess).
"""

from __future__ import annotations

import os
import time
from typing import Any

from scow.plain_json import encode_json


def make(exit_code: int, signal: int, oom_killed: bool) -> dict[str, Any]:
    """The record of a process that ended just now."""
    return {
        "exit_code": exit_code,
        "signal": signal,
        "oom_killed": oom_killed,
        "finished_ns": time.time_ns(),
        "reason": "",
    }


def write(path: str, record: dict[str, Any]) -> None:
    """*path* holds *record*, put there by rename. Raises `OSError`.

    Not fsynced: after a crash of the host the container is gone whatever the record says, and the engine knows that by
    the boot id.
    """
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, encode_json(record) + b"\n")
    finally:
        os.close(fd)
    os.replace(temporary, path)


def remove(path: str) -> None:
    """There is no record: a new run begins."""
    if os.access(path, os.F_OK):  # an exception would touch more pages of a monitor
        os.unlink(path)
