"""execve with the PATH of the container; where it fails, `scow_runtime_native.explain` says why."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from scow_runtime_native import explain
from scow_runtime_native.failure import NOT_FOUND, StageError


def find(args: list[str], environment: dict[str, str]) -> str:
    """Where `execute` will most likely find its program."""
    if "/" in args[0]:
        return args[0]
    paths = [f"{directory or '.'}/{args[0]}" for directory in environment.get("PATH", "").split(":")]
    return next((path for path in paths if not _absent(path)), args[0])


def execute(args: list[str], environment: dict[str, str]) -> NoReturn:
    """The process image is ``args[0]``, looked for in the container's PATH. Raises `StageError` with the cause."""
    name = args[0]
    if "/" in name:
        _try(name, args, environment)
        raise StageError(
            f'exec: "{name}": stat {name}: no such file or directory',
            stage=explain.STAGE,
            kind=NOT_FOUND,
            errno=errno.ENOENT,
        )
    denied = ""
    for directory in environment.get("PATH", "").split(":"):
        path = f"{directory or '.'}/{name}"
        if _absent(path):
            continue
        try:
            _try(path, args, environment)
        except StageError as error:
            if error.errno != errno.EACCES:
                raise
            denied = denied or path
    if denied:
        raise explain.denied(denied)
    raise StageError(
        f'exec: "{name}": executable file not found in $PATH',
        stage=explain.STAGE,
        kind=NOT_FOUND,
        errno=errno.ENOENT,
        hint=None if environment.get("PATH") else "the environment has no PATH",
    )


def _absent(path: str) -> bool:
    """Whether *path* is surely not there; asked first because an execve that fails costs ten times as much."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # execve tells
    return False


def _try(path: str, args: list[str], environment: dict[str, str]) -> None:
    """execve; returns only where there is no such file."""
    try:
        os.execve(path, args, environment)
    except FileNotFoundError as error:
        if os.path.lexists(path):
            raise explain.missing(path) from error
    except NotADirectoryError:
        return
    except PermissionError as error:
        if error.errno == errno.EACCES:
            raise explain.denied(path) from error
        raise explain.other(path, errno.EPERM, args, environment) from error
    except OSError as error:
        raise explain.other(path, error.errno or 0, args, environment) from error
