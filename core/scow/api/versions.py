"""Which versions of the Engine API are spoken, and how a client names one in the path."""

from __future__ import annotations

import re

from scow.engine.system import API_VERSION, MIN_API_VERSION
from scow.errors import InvalidArgument

_PREFIX = re.compile(r"/v(\d{1,4})\.(\d{1,4})(?=/)")


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


CURRENT = _numbers(API_VERSION)
OLDEST = _numbers(MIN_API_VERSION)


def split_version(path: str) -> tuple[tuple[int, int], str]:
    """The API version that *path* names (the newest where it names none), and the rest of it.

    Raises `InvalidArgument` for a version that is not spoken, in Docker's words: clients look for them.
    """
    match = _PREFIX.match(path)
    if match is None:
        return CURRENT, path
    version = int(match[1]), int(match[2])
    if version < OLDEST:
        raise InvalidArgument(
            f"client version {version[0]}.{version[1]} is too old. Minimum supported API version is "
            f"{MIN_API_VERSION}, please upgrade your client to a newer version"
        )
    if version > CURRENT:
        raise InvalidArgument(
            f"client version {version[0]}.{version[1]} is too new. Maximum supported API version is {API_VERSION}"
        )
    return version, path[match.end() :]
