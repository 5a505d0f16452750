"""What this host's filesystems can do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import tempfile

from scow.errors import DriverUnusable, SyscallError
from scow.linux import syscalls as sys

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS (linux/fs.h)
_TOP_OF_HIERARCHY = 0x00020000  # EXT4_TOPDIR_FL: `chattr +T`
_NOT_THERE = {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES}


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


def spread(folder: str) -> None:
    """What is made in *folder* from now on starts in a part of the disk of its own, where the filesystem is ext4
    (chattr(1), attribute ``T``); elsewhere nothing happens.

    Without a journal ext4 steps over every inode of a block group that was freed in the last minutes, for each one
    that it gives (`find_inode_bit` in fs/ext4/ialloc.c): after an image of 54,000 files was removed, unpacking it again
    beside where it lay took 30 s instead of 1.4 s (Linux 6.18).
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))
        if not flags & _TOP_OF_HIERARCHY:
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("i", flags | _TOP_OF_HIERARCHY))
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
    finally:
        os.close(fd)


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
