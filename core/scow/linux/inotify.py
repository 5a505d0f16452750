"""inotify(7): be told of changes in a directory instead of looking again and again."""

from __future__ import annotations

import ctypes
import os
import struct

from scow.errors import SyscallError

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
IN_ONLYDIR = 0x01000000
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC


class Inotify:
    """One inotify instance; *fd* is readable when something happened. The kernel allows few a user
    (``fs.inotify.max_user_instances``, 128 by default): share one."""

    def __init__(self) -> None:
        self.fd: int = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self.fd < 0:
            raise SyscallError(ctypes.get_errno(), "inotify_init1", hint="raise fs.inotify.max_user_instances")

    def watch(self, directory: str | os.PathLike[str], mask: int) -> int:
        """The watch descriptor by which `read` tells of changes in *directory*; the same one for the same directory."""
        watch: int = _libc.inotify_add_watch(self.fd, os.fsencode(directory), ctypes.c_uint32(mask))
        if watch < 0:
            raise SyscallError(ctypes.get_errno(), "inotify_add_watch", str(os.fspath(directory)))
        return watch

    def unwatch(self, watch: int) -> None:
        """*watch* tells no more; no error where its directory is gone already."""
        _libc.inotify_rm_watch(self.fd, ctypes.c_int(watch))

    def read(self) -> set[int]:
        """The watches that something happened to since the last call; -1 stands for all (the queue overflowed)."""
        told: set[int] = set()
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return told
            offset = 0
            while offset < len(data):
                watch, _mask, _cookie, length = _EVENT.unpack_from(data, offset)
                told.add(watch)
                offset += _EVENT.size + length

    def close(self) -> None:
        """The instance and its watches are gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
