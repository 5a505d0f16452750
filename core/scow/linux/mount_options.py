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
_RECURSIVE = {
    "rro": sys.MOUNT_ATTR_RDONLY,
    "rnosuid": sys.MOUNT_ATTR_NOSUID,
    "rnodev": sys.MOUNT_ATTR_NODEV,
    "rnoexec": sys.MOUNT_ATTR_NOEXEC,
    "rnosymfollow": sys.MOUNT_ATTR_NOSYMFOLLOW,
}
_ATTRIBUTES = {
    sys.MS_RDONLY: sys.MOUNT_ATTR_RDONLY,
    sys.MS_NOSUID: sys.MOUNT_ATTR_NOSUID,
    sys.MS_NODEV: sys.MOUNT_ATTR_NODEV,
    sys.MS_NOEXEC: sys.MOUNT_ATTR_NOEXEC,
    sys.MS_NOSYMFOLLOW: sys.MOUNT_ATTR_NOSYMFOLLOW,
    sys.MS_NOATIME: sys.MOUNT_ATTR_NOATIME,
}


class Options(NamedTuple):
    """What mount(8) option words mean to the system calls."""

    flags: int  # MS_*
    cleared: int  # MS_* that were asked to be off
    propagation: tuple[int, ...]
    recursive: int  # MOUNT_ATTR_* for the whole tree
    data: tuple[str, ...]  # for the filesystem itself


def parse_options(options: Iterable[str]) -> Options:
    """The meaning of *options*; a later word wins over an earlier one, an unknown one is the filesystem's."""
    flags = cleared = recursive = 0
    propagation: list[int] = []
    data: list[str] = []
    for option in options:
        if option in _SET:
            flags |= _SET[option]
            cleared &= ~_SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
            cleared |= _CLEAR[option]
        elif option in _PROPAGATION:
            propagation.append(_PROPAGATION[option])
        elif option in _RECURSIVE:
            recursive |= _RECURSIVE[option]
        elif option:
            data.append(option)
    return Options(flags, cleared, tuple(propagation), recursive, tuple(data))


def known() -> frozenset[str]:
    """Every word that is not a filesystem's own."""
    return frozenset((*_SET, *_CLEAR, *_PROPAGATION, *_RECURSIVE))


def attributes(flags: int) -> int:
    """The ``MOUNT_ATTR_*`` of the ``MS_*`` in *flags*."""
    found = 0
    for flag, attribute in _ATTRIBUTES.items():
        if flags & flag:
            found |= attribute
    return found
