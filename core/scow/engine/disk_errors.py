"""What the filesystem said, as an error for users."""

from __future__ import annotations

import errno

from scow.errors import ScowError, Unavailable


class NoSpace(Unavailable):
    """The disk is full."""


def disk_error(error: OSError, what: str) -> ScowError:
    """What stopped *what* (``download blob …``): `NoSpace`, or a `ScowError` that it was already."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "docker system df shows what uses it; docker system prune frees it"
        return NoSpace(f"cannot {what}: no space left on device", hint=hint)
    return error if isinstance(error, ScowError) else ScowError(f"cannot {what}: {error}")
