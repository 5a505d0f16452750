"""Folders of a driver that keeps each snapshot in a directory: ``s`` (snapshots), ``stage``, ``spare``, ``trash``."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import Conflict
from scow_storage_overlay.background import Trash
from scow_storage_overlay.host import spread
from scow_storage_overlay.index import Entry, Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scow.ports.storage import Usage

_SPARES = 8


class RootAttributes(NamedTuple):
    """Mode and owner of a root directory."""

    mode: int
    uid: int
    gid: int


DEFAULT_ROOT = RootAttributes(0o755, 0, 0)


class SnapshotFolder:
    """Snapshots below *state_dir*, each with the *parts* (directories) that an active one consists of.

    What a crash left half made is thrown away here; deleting happens on a thread that `close` ends.
    """

    def __init__(self, state_dir: Path, parts: tuple[str, ...]) -> None:
        self._parts = parts
        for name in ("s", "stage", "spare", "trash"):
            (state_dir / name).mkdir(parents=True, exist_ok=True)
        self._stage, self._spare = f"{state_dir}/stage", f"{state_dir}/spare"
        spread(self._stage)
        self._serial = itertools.count(time.time_ns())  # names that no earlier process gave
        self.index = Index(state_dir / "s")
        self._spares: deque[str] = deque()
        self.trash = Trash(f"{state_dir}/trash", self._refill)
        self._discard_leftovers()

    def active(self, key: str, parent: Entry | None, root: RootAttributes) -> Entry:
        """A new active snapshot with empty parts, the first of which looks like *root*. One rename where a spare is
        left."""
        entry = Entry(self.index.number(), key, parent, None)
        made = self._take_spare() or self._make(f"{self._stage}/{entry.number}")
        try:
            if root != DEFAULT_ROOT:
                os.chown(f"{made}/{self._parts[0]}", root.uid, root.gid)
                os.chmod(f"{made}/{self._parts[0]}", root.mode)
            self.index.add(entry, made)
        except BaseException:
            self.discard(made)
            raise
        if len(self._spares) < _SPARES // 2:
            self.trash.wake()
        return entry

    @contextlib.contextmanager
    def staged(self) -> Iterator[str]:
        """A directory that is gone after the block, unless it was renamed."""
        made = f"{self._stage}/new-{next(self._serial)}"
        os.mkdir(made, 0o755)
        try:
            yield made
        finally:
            self.discard(made)

    def publish(self, made: str, key: str, parent: Entry | None, usage: Usage) -> Entry:
        """*made* is the committed snapshot *key*, or another one that was there first."""
        entry = Entry(self.index.number(), key, parent, usage)
        try:
            self.index.add(entry, made)
        except Conflict:
            return self.index.get(key)
        return entry

    def remove(self, key: str) -> None:
        """As `StorageDriver.remove`: one rename; the rest is done later."""
        if self.index.take_away(key, f"{self.trash.folder}/{next(self._serial)}"):
            self.trash.wake()

    def discard(self, path: str) -> None:
        """*path* will be deleted; nothing happens where there is none."""
        try:
            os.rename(path, f"{self.trash.folder}/{next(self._serial)}")
        except FileNotFoundError:
            return
        self.trash.wake()

    def path(self, entry: Entry, part: str = "") -> str:
        """The directory of *entry*, or of a part of it."""
        return f"{self.index.path(entry)}/{part}" if part else self.index.path(entry)

    def close(self) -> None:
        """No thread runs any more."""
        self.trash.close()

    def _make(self, path: str) -> str:
        os.mkdir(path, 0o755)
        for part in self._parts:
            os.mkdir(f"{path}/{part}", 0o700)
        os.chmod(f"{path}/{self._parts[0]}", 0o755)  # whatever the umask
        return path

    def _take_spare(self) -> str | None:
        try:
            return self._spares.popleft()
        except IndexError:
            return None

    def _refill(self) -> None:
        while len(self._spares) < _SPARES:
            self._spares.append(self._make(f"{self._spare}/{next(self._serial)}"))

    def _discard_leftovers(self) -> None:
        """Before the thread begins: the spares that it makes are not those of a daemon that was killed."""
        for folder in (self._stage, self._spare):
            for name in os.listdir(folder):
                os.rename(f"{folder}/{name}", f"{self.trash.folder}/{next(self._serial)}")
        if os.listdir(self.trash.folder):
            self.trash.wake()
