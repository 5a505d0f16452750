"""Control groups: what the managers of both versions have in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scow.errors import Conflict
from scow.linux import cgroup_tree

if TYPE_CHECKING:
    pass


def remove_empty(mount: str, path: str) -> None:
    """*path* below *mount* and the folders above it are gone as far as they are empty."""
    while path:
        try:
            os.rmdir(f"{mount}/{path}")
        except OSError:  # in use, or gone
            return
        path = os.path.dirname(path)


def check_unused(directory: str) -> None:
    """The group *directory*, which was there before, can be a container's: no process is in it or below it, which would
    be killed with the container, and it is not frozen. Raises `Conflict`."""
    processes = cgroup_tree.processes(directory)
    if processes:
        raise Conflict(
            f"cgroup {directory} is in use by {len(processes)} other process(es), the first is {processes[0]}",
            hint="give the container a cgroup path of its own",
        )
    if (
        read(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")
        or read(f"{directory}/cgroup.freeze").strip() == "1"
    ):
        raise Conflict(f"cgroup {directory} is frozen: what joined it would stop")


def write(path: str, value: str) -> None:
    """*value* is written to *path* in one call, as control files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The text of *path*; ``""`` where it is missing, as is the control file of an absent feature."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    except OSError:  # ENODEV: the group went away between open and read
        return ""
    finally:
        os.close(fd)


def key_values(text: str) -> dict[str, int]:
    """Lines of ``key number`` as a mapping; other lines are left out."""
    values = {}
    for line in text.splitlines():
        key, _, number = line.partition(" ")
        if number.isdigit():
            values[key] = int(number)
    return values


def number(text: str, default: int = 0) -> int:
    """The integer in *text*; *default* for ``max`` and for no text."""
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else default
