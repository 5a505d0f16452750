"""What this host's filesystems can do."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from scow.errors import DriverUnusable, SyscallError
from scow.linux import syscalls as sys


def check_overlay(state_dir: str) -> None:
    """overlayfs works with upper directories below *state_dir*; raises `DriverUnusable` saying what does not.

    The trial mount is never attached to any mount namespace: it is gone with its descriptor, even if scowd dies.
    """
    if os.geteuid() != 0:
        raise DriverUnusable("overlay needs root", hint="use the driver vfs, or run scowd as root")
    if "\\" in state_dir:
        raise DriverUnusable(f"overlayfs does not take a backslash in a name: {state_dir!r}")
    try:
        with tempfile.TemporaryDirectory(prefix="check-", dir=state_dir) as trial:
            _try(trial)
    except OSError as error:
        where = f"{state_dir} ({filesystem_name(state_dir)})"
        hint = "load the module overlay, put data_root on ext4, XFS or btrfs, or use the driver vfs"
        raise DriverUnusable(f"overlayfs does not work on {where}: {error}", hint=hint) from error


def _try(trial: str) -> None:
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{trial}/{name}")
    with open(f"{trial}/lower/file", "w", encoding="ascii") as file:
        file.write("x")
    context = sys.fsopen("overlay")
    try:
        for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")):
            path = f"{trial}/{name}"
            sys.fsconfig(context, sys.FSCONFIG_SET_STRING, key, path.replace(":", "\\:") if key == "lowerdir" else path)
        with contextlib.suppress(SyscallError):  # without it the unmount syncs the whole filesystem below
            sys.fsconfig(context, sys.FSCONFIG_SET_FLAG, "volatile")
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        mount = sys.fsmount(context)
    finally:
        os.close(context)
    try:
        os.unlink("file", dir_fd=mount)
    finally:
        os.close(mount)
    if not stat.S_ISCHR(os.stat(f"{trial}/upper/file").st_mode):
        raise SyscallError(0, "unlink", "a deletion left no whiteout")


def filesystem_name(path: str) -> str:
    """The type of the filesystem that *path* lies on, ``ext4``; ``unknown`` where /proc does not tell."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            if left.split(" ", 3)[2] == wanted:
                return right.split(" ", 1)[0]
    return "unknown"
