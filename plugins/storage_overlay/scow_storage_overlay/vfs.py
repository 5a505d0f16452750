"""`VfsDriver`: every snapshot is a full copy. Slow and large, but needs nothing of the host."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import Conflict, InvalidArgument
from scow.layers import Whiteouts, apply_layer, tree_diff
from scow.linux.trees import tree_usage
from scow.ports import Mount
from scow.ports.storage import Snapshot, Usage
from scow_storage_overlay.folder import SnapshotFolder
from scow_storage_overlay.host import filesystem_name
from scow_storage_overlay.index import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scow.ports import DriverContext


class VfsDriver:
    """Storage in plain directories, mounted by bind. On btrfs and XFS the copies share their blocks (reflinks)."""

    def __init__(self, context: DriverContext) -> None:
        self._state_dir = context.state_dir
        self._folder = SnapshotFolder(context.state_dir, ("diff",))

    def check(self) -> None:
        """Every host can serve it."""

    def apply(
        self,
        key: str,
        parent: str | None,
        diff_id: str,
        layer: BinaryIO,
        parent_ready: Callable[[], None] | None = None,
    ) -> Usage:
        """Waits for *parent*, copies it and changes the copy; the usage is the layer's own, not the copy's."""
        there = self._folder.index.find(key)
        if there is not None and there.usage is not None:
            return there.usage
        if parent_ready is not None:
            parent_ready()
        below = self._folder.index.parent(parent)
        with self._folder.staged() as made:
            self._copy(below, f"{made}/diff")
            applied = apply_layer(layer, f"{made}/diff", Whiteouts.DELETE)
            usage = Usage(applied.size_bytes, applied.inodes)
            return self._folder.publish(made, key, below, usage).usage or usage

    def prepare(self, key: str, parent: str | None) -> list[Mount]:
        """Copies *parent*."""
        below = self._folder.index.parent(parent)
        if self._folder.index.find(key) is not None:
            raise Conflict(f"snapshot {key} already exists")
        with self._folder.staged() as made:
            self._copy(below, f"{made}/diff")
            entry = Entry(self._folder.index.number(), key, below, None)
            self._folder.index.add(entry, made)
        return self._bind(entry)

    def view(self, key: str) -> list[Mount]:
        """A read-only bind mount."""
        return self._bind(self._folder.index.get(key), "ro")

    def mounts(self, key: str) -> list[Mount]:
        """A bind mount."""
        entry = self._folder.index.get(key)
        if entry.usage is not None:
            raise InvalidArgument(f"snapshot {key} is committed: it cannot be mounted writable")
        return self._bind(entry)

    def commit(self, key: str, active: str) -> Usage:
        """Renames the directory."""
        entry = self._folder.index.get(active)
        if entry.usage is not None:
            raise InvalidArgument(f"snapshot {active} is committed already")
        usage = Usage(*tree_usage(self._folder.path(entry, "diff")))
        self._folder.index.replace(entry, Entry(self._folder.index.number(), key, entry.parent, usage))
        return usage

    def diff(self, key: str) -> Iterable[bytes]:
        """By comparing with the parent's copy, file by file."""
        entry = self._folder.index.get(key)
        parent = None if entry.parent is None else self._folder.path(entry.parent, "diff")
        return tree_diff(self._folder.path(entry, "diff"), parent)

    def remove(self, key: str) -> None:
        """One rename; a thread deletes."""
        self._folder.remove(key)

    def stat(self, key: str) -> Snapshot:
        """From memory."""
        return self._folder.index.get(key).snapshot

    def usage(self, key: str) -> Usage:
        """What `apply` or `commit` counted; walks the copy of an active one."""
        entry = self._folder.index.get(key)
        return entry.usage or Usage(*tree_usage(self._folder.path(entry, "diff")))

    def status(self) -> list[tuple[str, str]]:
        """The filesystem below."""
        return [("Backing Filesystem", filesystem_name(str(self._state_dir)))]

    def close(self) -> None:
        """The housekeeping thread has ended."""
        self._folder.close()

    def _copy(self, below: Entry | None, target: str) -> None:
        """Everything of *below*, times, owners, links and xattrs included; cp(1) knows reflinks and holes."""
        if below is None:
            os.mkdir(target, 0o755)
            return
        source = self._folder.path(below, "diff")
        command = ["cp", "-a", "--reflink=auto", source, target]
        result = subprocess.run(
            command, stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
        if result.returncode:
            code = errno.ENOSPC if "No space left" in result.stderr else errno.EIO
            raise OSError(code, f"cannot copy snapshot {below.key}: {result.stderr.strip()[:400]}")

    def _bind(self, entry: Entry, *options: str) -> list[Mount]:
        return [Mount("bind", self._folder.path(entry, "diff"), "", ("rbind", *options))]

    def list(self) -> list[Snapshot]:
        """From memory."""
        return [entry.snapshot for entry in self._folder.index.all()]
