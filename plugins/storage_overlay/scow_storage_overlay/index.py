"""Which snapshots there are, kept in the names of their directories: one listing at start reads it, and one rename
publishes a snapshot with all that is known of it.

A name is ``<number>+<number of the parent, or nothing>+<key>`` and, for a committed one, ``+<bytes>+<entries>``. In
keys ``:`` becomes ``=``, so that overlayfs's option string needs no escapes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scow.errors import Conflict, InvalidArgument, NotFound
from scow.ports.storage import Snapshot, Usage

if TYPE_CHECKING:
    from pathlib import Path

_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789:._-")
_KEY_LIMIT = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """One snapshot; *usage* is None while it is active."""

    number: int
    key: str
    parent: Entry | None
    usage: Usage | None

    @property
    def directory(self) -> str:
        """The name of its directory."""
        above = "" if self.parent is None else str(self.parent.number)
        name = f"{self.number}+{above}+{self.key.replace(':', '=')}"
        return name if self.usage is None else f"{name}+{self.usage.size_bytes}+{self.usage.inodes}"

    @property
    def snapshot(self) -> Snapshot:
        """As core sees it."""
        return Snapshot(self.key, None if self.parent is None else self.parent.key, self.usage is not None)

    def chain(self) -> list[Entry]:
        """This one and those below it, lowest last."""
        entries = [self]
        while (parent := entries[-1].parent) is not None:
            entries.append(parent)
        return entries


class Index:
    """The snapshots in *directory*. Its methods do no more to the disk than one rename."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, int] = {}
        self._number = 0
        self._load()

    def number(self) -> int:
        """A number that nothing has."""
        with self._lock:
            self._number += 1
            return self._number

    def find(self, key: str) -> Entry | None:
        """The snapshot *key*, or None; raises `InvalidArgument` for what cannot be a key."""
        return self._entries.get(check_key(key))

    def get(self, key: str) -> Entry:
        """The snapshot *key*; raises `NotFound`."""
        entry = self.find(key)
        if entry is None:
            raise NotFound(f"no such snapshot: {key}")
        return entry

    def parent(self, key: str | None) -> Entry | None:
        """The committed snapshot *key* to build on. Raises `NotFound`, `InvalidArgument` where it is active."""
        if key is None:
            return None
        entry = self.get(key)
        if entry.usage is None:
            raise InvalidArgument(f"snapshot {key} is active: nothing can be built on it before it is committed")
        return entry

    def add(self, entry: Entry, made: str) -> None:
        """*entry* exists: its directory is *made*, renamed. Raises `Conflict` where its key is taken."""
        check_key(entry.key)
        with self._lock:
            if entry.key in self._entries:
                raise Conflict(f"snapshot {entry.key} already exists")
            if entry.parent is not None and self._entries.get(entry.parent.key) is not entry.parent:
                raise NotFound(f"no such snapshot: {entry.parent.key}")
            os.rename(made, self.path(entry))
            self._put(entry)

    def replace(self, old: Entry, new: Entry) -> None:
        """*new* is there with what *old* held; *old* is gone. Raises `Conflict`, `NotFound`."""
        check_key(new.key)
        with self._lock:
            if new.key in self._entries:
                raise Conflict(f"snapshot {new.key} already exists")
            if self._entries.get(old.key) is not old:
                raise NotFound(f"no such snapshot: {old.key}")
            os.rename(self.path(old), self.path(new))
            self._drop(old)
            self._put(new)

    def take_away(self, key: str, to: str) -> bool:
        """The snapshot *key* is gone, its directory lies at *to*; False where there was none. Raises `Conflict` while
        it has children."""
        check_key(key)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return False
            if self._children.get(key):
                raise Conflict(f"snapshot {key} is in use by {self._children[key]} snapshots above it")
            os.rename(self.path(entry), to)
            self._drop(entry)
        return True

    def all(self) -> list[Entry]:
        """Every snapshot, parents before children."""
        with self._lock:
            entries = list(self._entries.values())
        return sorted(entries, key=lambda entry: (len(entry.chain()), entry.number))

    def path(self, entry: Entry) -> str:
        """The directory of *entry*."""
        return f"{self.directory}/{entry.directory}"

    def _put(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        if entry.parent is not None:
            self._children[entry.parent.key] = self._children.get(entry.parent.key, 0) + 1

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        if entry.parent is not None:
            self._children[entry.parent.key] -= 1

    def _load(self) -> None:
        """Parents have lower numbers than their children. What does not parse or lost its parent is not ours to use."""
        by_number: dict[int, Entry] = {}
        for number, above, key, usage in sorted(filter(None, map(_parse, os.listdir(self.directory)))):
            self._number = max(self._number, number)
            if above and int(above) not in by_number:
                continue
            held = Usage(*usage) if usage else None
            by_number[number] = Entry(number, key, by_number[int(above)] if above else None, held)
            self._put(by_number[number])


def check_key(key: str) -> str:
    """*key* itself; raises `InvalidArgument` where it could not be a part of a file name."""
    if not key or len(key) > _KEY_LIMIT or not _KEY_CHARACTERS.issuperset(key) or key.startswith("."):
        raise InvalidArgument(f"invalid snapshot key {key!r}", hint="a key holds a-z, 0-9 and :._-")
    return key


def _parse(name: str) -> tuple[int, str, str, tuple[int, int] | tuple[()]] | None:
    fields = name.split("+")
    if len(fields) not in (3, 5) or not fields[0].isdigit() or not (fields[1].isdigit() or not fields[1]):
        return None
    key = fields[2].replace("=", ":")
    if len(fields) == 3:
        return int(fields[0]), fields[1], key, ()
    if not (fields[3].isdigit() and fields[4].isdigit()):
        return None
    return int(fields[0]), fields[1], key, (int(fields[3]), int(fields[4]))
