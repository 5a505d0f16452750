"""Why a process could not be made ready or executed, in the form that the status pipe carries."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from scow.errors import ScowError

if TYPE_CHECKING:
    from collections.abc import Iterator

SETUP = "setup"
CANNOT_RUN = "cannot_run"  # exit code 126
NOT_FOUND = "not_found"  # exit code 127


class StageError(ScowError):
    """Set-up or execve failed in *stage* (put before the message; ``""`` where that says enough); *kind* decides the
    exit code that the client sees."""

    def __init__(self, message: str, *, stage: str, kind: str = SETUP, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stage = stage
        self.kind = kind
        self.errno = errno


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """An `OSError` of the block becomes a `StageError` that names the stage."""
    try:
        yield
    except OSError as error:
        raise StageError(
            describe(error), stage=name, errno=error.errno or 0, hint=getattr(error, "hint", None)
        ) from error


def describe(error: OSError) -> str:
    """The error in lower case, with the file it is about."""
    if isinstance(error, ScowError):
        return str(error)
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"{os.fsdecode(error.filename)}: {text}" if error.filename else text
