"""How a run ended, read from what its monitor wrote (`scow.monitor.exit_record`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def read_exit(directory: Path, started_ns: int) -> dict[str, Any] | None:
    """The exit record of the run that began at *started_ns*, or None where there is none (of that run)."""
    try:
        record: dict[str, Any] = json.loads((directory / "exit.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if int(record.get("finished_ns") or 0) >= started_ns else None
