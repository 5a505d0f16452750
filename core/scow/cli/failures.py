"""From the daemon's answer to an error, and from an error to what the user sees."""

from __future__ import annotations

import sys

from scow.errors import (
    CannotRun,
    CommandNotFound,
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    NotModified,
    ScowError,
    Unauthorized,
    Unavailable,
    Unsupported,
)

_BY_STATUS: dict[int, type[ScowError]] = {
    error.http_status: error
    for error in (
        InvalidArgument,
        Unauthorized,
        Forbidden,
        NotFound,
        NotModified,
        Conflict,
        Unsupported,
        Unavailable,
    )
}
# What docker's own command line looks for in a message, as the API has no field for it.
_NOT_FOUND = ("executable file not found", "no such file or directory")
_CANNOT_RUN = ("permission denied", "is a directory", "exec format error")


def failure(status: int, body: bytes, what: str) -> ScowError:
    """The error that an answer with *status* means; *what* was asked, for answers without a message."""
    import json

    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.get("message"):
        text = body.decode(errors="replace").strip()
        answer = {"message": text or f"{what}: the daemon answered {status} without a message"}
    message, _, hint = str(answer["message"]).strip().partition("\n")  # the daemon puts the hint on a line of its own
    return _BY_STATUS.get(status, ScowError)(message, hint=hint or None)


def cannot_start(error: ScowError) -> ScowError:
    """*error* of a start, as `CommandNotFound` (127) or `CannotRun` (126) where that is what it means."""
    text = error.message.lower()
    if isinstance(error, (Unavailable, Conflict)):
        return error
    if any(phrase in text for phrase in _NOT_FOUND):
        return CommandNotFound(error.message, hint=error.hint)
    if any(phrase in text for phrase in _CANNOT_RUN):
        return CannotRun(error.message, hint=error.hint)
    return error


def report(error: ScowError) -> None:
    """``scow: message`` and the hint on a line of its own, on standard error."""
    sys.stderr.write(f"scow: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    sys.stderr.flush()
