"""``-e``, ``--env-file``, ``--label`` and ``--label-file``."""

from __future__ import annotations

import os
from collections.abc import Iterable

from scow.cli.sizes import pairs
from scow.errors import InvalidArgument


def env_of(files: Iterable[str], values: Iterable[str]) -> list[str]:
    """``KEY=VALUE`` words: those of *files* first; a bare ``KEY`` takes its value from our environment."""
    result = []
    for path in files:
        for line in _lines(path):
            if "=" in line:
                result.append(line)
            elif line in os.environ:
                result.append(f"{line}={os.environ[line]}")
    for value in values:
        name, equals, _ = value.partition("=")
        if not name:
            raise InvalidArgument(f"invalid environment variable: {value!r}")
        result.append(value if equals or name not in os.environ else f"{name}={os.environ[name]}")
    return result


def labels_of(files: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    """Labels: those of *files* first; a bare ``key`` has the value ``""``."""
    words = [line for path in files for line in _lines(path)]
    for value in values:
        if not value.partition("=")[0]:
            raise InvalidArgument(f"invalid label format: {value!r}")
        words.append(value)
    return pairs(words)


def _lines(path: str) -> Iterable[str]:
    """The lines of *path* that hold ``KEY[=VALUE]``; raises `InvalidArgument` naming the line in error."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not valid UTF-8") from error
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name:
            raise InvalidArgument(f"no variable name on line {number} of {path}: {line!r}")
        if any(letter.isspace() for letter in name):
            raise InvalidArgument(f"variable {name!r} on line {number} of {path} contains whitespaces")
        yield line
