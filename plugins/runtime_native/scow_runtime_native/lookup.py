"""Whether a program is there and may be executed, before its container is started: runc's create tells that."""

from __future__ import annotations

import errno
import os

from scow_runtime_native import explain
from scow_runtime_native.failure import NOT_FOUND, StageError


def look_up(name: str, environment: dict[str, str]) -> None:
    """Raises `StageError` where *name* is not in the PATH of *environment* or the caller may not execute it. Nothing
    is executed: a loader or an interpreter that is missing is found out at the start."""
    paths = [name] if "/" in name else [f"{each or '.'}/{name}" for each in environment.get("PATH", "").split(":")]
    denied = ""
    for path in paths:
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return
            denied = denied or path
        elif "/" in name and os.path.exists(path):
            denied = path
    if denied:
        raise explain.denied(denied)
    text = f"stat {name}: no such file or directory" if "/" in name else "executable file not found in $PATH"
    raise StageError(f'exec: "{name}": {text}', stage=explain.STAGE, kind=NOT_FOUND, errno=errno.ENOENT)
