"""The groups that a container has made below its own, by the thousand or a thousand deep if it is hostile.

One descriptor at a time and no path: neither PATH_MAX nor the limit of open files nor Python's stack ends the walk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 65536


def processes(directory: str) -> list[int]:
    """The host PIDs in the group *directory* and those below it; empty where there is none."""
    found: list[int] = []
    for group in _walk(directory):
        with contextlib.suppress(OSError):  # gone, or threaded (EOPNOTSUPP): its processes are listed further up
            found += [int(pid) for pid in _read(group, "cgroup.procs").split()]
    return found


def thaw(directory: str) -> None:
    """No group from *directory* on is frozen (version 1)."""
    for group in _walk(directory):
        with contextlib.suppress(OSError):  # gone
            fd = os.open("freezer.state", os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
            try:
                os.write(fd, b"THAWED")
            finally:
                os.close(fd)


def remove(directory: str) -> bool:
    """The group and those below it are gone; False while a process holds one."""
    if not _remove(directory):
        for _ in _walk(directory, removing=True):
            pass
        return _remove(directory)
    return True


def _remove(name: str, parent: int | None = None) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _walk(directory: str, *, removing: bool = False) -> Iterator[int]:
    """A descriptor of each group from *directory* on, parents first, open until the next is asked for. With *removing*
    each but *directory* itself is removed on the way back, where no process is in it."""
    try:
        here = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        yield here
        names: list[str] = []  # the way from *directory* to *here*
        todo = [_below(here)]
        while todo:
            if todo[-1]:
                name = todo[-1].pop()
                try:
                    child = os.open(name, _DIRECTORY, dir_fd=here)
                except FileNotFoundError:
                    continue
                os.close(here)
                here = child
                names.append(name)
                yield here
                todo.append(_below(here))
                continue
            todo.pop()
            if names:
                parent = os.open("..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = parent
                name = names.pop()
                if removing:
                    _remove(name, here)
    finally:
        os.close(here)


def _below(group: int) -> list[str]:
    try:
        with os.scandir(group) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:  # removed meanwhile
        return []


def _read(group: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=group)
    try:
        parts = []
        while data := os.read(fd, _CHUNK):
            parts.append(data)
        return b"".join(parts).decode()
    finally:
        os.close(fd)
