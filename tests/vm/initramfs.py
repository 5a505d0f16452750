"""An initramfs image: cpio in the format that the kernel unpacks (Documentation/driver-api/early-userspace)."""

from __future__ import annotations

import stat


class Archive:
    """Files and directories are added in order; `finish` answers the image."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._number = 0

    def directory(self, name: str) -> None:
        """The directory *name* is in it."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """The file *name* is in it."""
        self._add(name, stat.S_IFREG | mode, content)

    def finish(self) -> bytes:
        """The image."""
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        self._number += 1
        encoded = name.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(head + encoded), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
