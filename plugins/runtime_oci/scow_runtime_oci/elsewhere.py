"""Bind mounts of what another container has mounted, its ``/dev/shm``: a program cannot make them, since mount(2) takes
no source of another mount namespace. Standard library and ``scow.linux`` only."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from scow.linux import mounts
from scow.linux import syscalls as sys

PREFIX = "elsewhere-"
"""How the mount points in the bundle are called."""

_SOURCE = re.compile(r"/proc/(\d+)/root(/.*)")  # as the engine names it
_FLAGS = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC


def bring(config: dict[str, Any], bundle: str) -> None:
    """The sources of such mounts in *config* are in this mount namespace, in the folder *bundle*, which is the working
    directory."""
    for number, mount in enumerate(config.get("mounts") or ()):
        source = _SOURCE.fullmatch(mount.get("source") or "")
        if not source:
            continue
        flags = _FLAGS | (sys.AT_RECURSIVE if "rbind" in mount["options"] else 0)
        tree = mounts.open_elsewhere(f"/proc/{source[1]}/ns/mnt", source[2], flags)
        try:
            os.chdir(bundle)
            mount["source"] = f"{bundle}/{PREFIX}{number}"
            _attach(tree, mount["source"])
        finally:
            os.close(tree)


def _attach(tree: int, point: str) -> None:
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(point, mode=0o700, exist_ok=True)
    else:
        os.close(os.open(point, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sys.move_mount(tree, "", sys.AT_FDCWD, point, sys.MOVE_MOUNT_F_EMPTY_PATH)


def tidy(bundle: str) -> None:
    """The mount points are gone from *bundle*; what was mounted there went with the mount namespace."""
    for name in os.listdir(bundle) if os.path.isdir(bundle) else ():
        if name.startswith(PREFIX):
            path = f"{bundle}/{name}"
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)
