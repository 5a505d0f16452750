"""The option words of mount(8), and what they mean to the system calls. Standard library only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scow.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Iterable

_SET = {
    "ro": sys.MS_RDONLY,
    "nosuid": sys.MS_NOSUID,
    "nodev": sys.MS_NODEV,
    "noexec": sys.MS_NOEXEC,
    "sync": sys.MS_SYNCHRONOUS,
    "dirsync": sys.MS_DIRSYNC,
    "mand": sys.MS_MANDLOCK,
    "noatime": sys.MS_NOATIME,
    "nodiratime": sys.MS_NODIRATIME,
    "relatime": sys.MS_RELATIME,
    "strictatime": sys.MS_STRICTATIME,
    "iversion": sys.MS_I_VERSION,
    "lazytime": sys.MS_LAZYTIME,
    "nosymfollow": sys.MS_NOSYMFOLLOW,
    "silent": sys.MS_SILENT,
    "remount": sys.MS_REMOUNT,
    "bind": sys.MS_BIND,
    "rbind": sys.MS_BIND | sys.MS_REC,
}
_CLEAR = {
    "defaults": 0,
    "rw": sys.MS_RDONLY,
    "suid": sys.MS_NOSUID,
    "dev": sys.MS_NODEV,
    "exec": sys.MS_NOEXEC,
    "async": sys.MS_SYNCHRONOUS,
    "nomand": sys.MS_MANDLOCK,
    "atime": sys.MS_NOATIME,
    "diratime": sys.MS_NODIRATIME,
    "norelatime": sys.MS_RELATIME,
    "nostrictatime": sys.MS_STRICTATIME,
    "noiversion": sys.MS_I_VERSION,
    "nolazytime": sys.MS_LAZYTIME,
    "symfollow": sys.MS_NOSYMFOLLOW,
    "loud": sys.MS_SILENT,
}
_PROPAGATION = {
    "private": sys.MS_PRIVATE,
    "slave": sys.MS_SLAVE,
    "shared": sys.MS_SHARED,
    "unbindable": sys.MS_UNBINDABLE,
    "rprivate": sys.MS_PRIVATE | sys.MS_REC,
    "rslave": sys.MS_SLAVE | sys.MS_REC,
    "rshared": sys.MS_SHARED | sys.MS_REC,
    "runbindable": sys.MS_UNBINDABLE | sys.MS_REC,
}
_RECURSIVE = {  # which attributes are set, and which are cleared
    "rro": (sys.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, sys.MOUNT_ATTR_RDONLY),
    "rnosuid": (sys.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, sys.MOUNT_ATTR_NOSUID),
    "rnodev": (sys.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, sys.MOUNT_ATTR_NODEV),
    "rnoexec": (sys.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, sys.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (sys.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, sys.MOUNT_ATTR_NODIRATIME),
    "rnosymfollow": (sys.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, sys.MOUNT_ATTR_NOSYMFOLLOW),
    "rnoatime": (sys.MOUNT_ATTR_NOATIME, sys.MOUNT_ATTR__ATIME),
    "rstrictatime": (sys.MOUNT_ATTR_STRICTATIME, sys.MOUNT_ATTR__ATIME),
    "rrelatime": (0, sys.MOUNT_ATTR__ATIME),
    "ratime": (0, sys.MOUNT_ATTR__ATIME),  # without the others, relatime is what the kernel does
    "rnorelatime": (0, sys.MOUNT_ATTR__ATIME),
    "rnostrictatime": (0, sys.MOUNT_ATTR__ATIME),
}
_ACCESS_TIMES = sys.MS_NOATIME | sys.MS_RELATIME | sys.MS_STRICTATIME  # one of them holds
_ATTRIBUTES = {
    sys.MS_RDONLY: sys.MOUNT_ATTR_RDONLY,
    sys.MS_NOSUID: sys.MOUNT_ATTR_NOSUID,
    sys.MS_NODEV: sys.MOUNT_ATTR_NODEV,
    sys.MS_NOEXEC: sys.MOUNT_ATTR_NOEXEC,
    sys.MS_NOSYMFOLLOW: sys.MOUNT_ATTR_NOSYMFOLLOW,
    sys.MS_NOATIME: sys.MOUNT_ATTR_NOATIME,
    sys.MS_STRICTATIME: sys.MOUNT_ATTR_STRICTATIME,
    sys.MS_NODIRATIME: sys.MOUNT_ATTR_NODIRATIME,
}


class Options(NamedTuple):
    """What mount(8) option words mean to the system calls."""

    flags: int  # MS_*
    cleared: int  # MS_* that were asked to be off
    propagation: tuple[int, ...]
    recursive: int  # MOUNT_ATTR_* for the whole tree
    data: tuple[str, ...]  # for the filesystem itself
    recursive_cleared: int = 0  # MOUNT_ATTR_* that the whole tree must not have
    copy_up: bool = False  # tmpcopyup: a tmpfs begins with what it covers


def parse_options(options: Iterable[str]) -> Options:
    """The meaning of *options*; a later word wins over an earlier one, an unknown one is the filesystem's."""
    flags = cleared = recursive = recursive_cleared = 0
    propagation: list[int] = []
    data: list[str] = []
    copy_up = False
    for option in options:
        if option in _SET:
            if _SET[option] & _ACCESS_TIMES:
                flags &= ~_ACCESS_TIMES
            flags |= _SET[option]
            cleared &= ~_SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
            cleared |= _CLEAR[option]
        elif option in _PROPAGATION:
            propagation.append(_PROPAGATION[option])
        elif option in _RECURSIVE:
            wanted, unwanted = _RECURSIVE[option]
            recursive = recursive & ~unwanted | wanted
            recursive_cleared = recursive_cleared & ~wanted | unwanted
        elif option == "tmpcopyup":
            copy_up = True
        elif option:
            data.append(option)
    return Options(flags, cleared, tuple(propagation), recursive, tuple(data), recursive_cleared, copy_up)


def known() -> frozenset[str]:
    """Every word that is not a filesystem's own."""
    return frozenset((*_SET, *_CLEAR, *_PROPAGATION, *_RECURSIVE, "tmpcopyup"))


def attributes(flags: int) -> int:
    """The ``MOUNT_ATTR_*`` of the ``MS_*`` in *flags*."""
    found = 0
    for flag, attribute in _ATTRIBUTES.items():
        if flags & flag:
            found |= attribute
    return found


def attribute_changes(options: Options) -> tuple[int, int]:
    """The ``MOUNT_ATTR_*`` that *options* set and clear on a mount that has some already (mount_setattr(2)): access
    times are a field, cleared as a whole whatever is set in it."""
    wanted = attributes(options.flags)
    unwanted = attributes(options.cleared) & ~wanted
    if (options.flags | options.cleared) & _ACCESS_TIMES:
        unwanted |= sys.MOUNT_ATTR__ATIME
    return wanted, unwanted
