"""The pseudoterminal of a process, in the devpts of its own container, so that ``tty`` names a file that is there.

The process makes it and keeps the master open until the monitor has taken a duplicate (``console_fd``, see
`scow.ports.runtime`). Safe against what an image or a container has made of its /dev: nothing but the ptmx device is
opened, and the peer is asked of the kernel, not looked up by name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from scow.errors import SyscallError
from scow.linux import syscalls as sys

_PTMX = os.makedev(5, 2)
_TIOCSPTLCK = 0x40045431  # asm-generic/ioctls.h
_TIOCGPTPEER = 0x5441  # Linux 4.13
_NO_CONTROL = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def open_pair(root_fd: int) -> tuple[int, int]:
    """A new pseudoterminal (master, slave) of the devpts at /dev/pts below *root_fd*. Needs the host's /proc. Raises
    `OSError` where there is no such devpts."""
    resolve = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS
    found = sys.openat2(root_fd, "dev/pts/ptmx", os.O_PATH | os.O_NOFOLLOW, resolve=resolve)
    try:
        has = os.fstat(found)
        if not stat.S_ISCHR(has.st_mode) or has.st_rdev != _PTMX:
            raise SyscallError(errno.ENOTTY, "open", "/dev/pts/ptmx")
        master = os.open(f"/proc/self/fd/{found}", _NO_CONTROL)
    finally:
        os.close(found)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        return master, fcntl.ioctl(master, _TIOCGPTPEER, _NO_CONTROL)
    except BaseException:
        os.close(master)
        raise


def take(root_fd: int) -> int:
    """A new terminal of *root_fd*'s devpts is the caller's stdio, not its controlling terminal yet: its master, or -1
    where there is no devpts; then stdio stays what it is."""
    try:
        master, slave = open_pair(root_fd)
    except OSError:
        return -1
    for number in range(3):
        os.dup2(slave, number)
    os.close(slave)
    return master


def take_of(init_pid: int) -> int:
    """As `take`, in the container of *init_pid*, which the caller has not joined yet."""
    root_fd = os.open(f"/proc/{init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return take(root_fd)
    finally:
        os.close(root_fd)
