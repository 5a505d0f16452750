"""The one store of the engine: objects, intents and events in SQLite.

One connection writes, on a daemon thread of its own that is fed by a queue; whatever waits there is committed in one
transaction (`scow.writer`). Reads go over a second, read-only connection. The event loop never calls sqlite3. Durable
commits are on disk (``synchronous=FULL``) when `State.commit` returns; the others survive a killed process, but the
last of them may not survive a power cut (``NORMAL``).
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from scow.engine.model import Event
from scow.errors import Unavailable
from scow.workers import Pool
from scow.writer import AppendEvent, Bounds, Change, CloseIntent, Delete, OpenIntent, Put, Writer, translate

__all__ = [
    "AppendEvent",
    "Bounds",
    "Change",
    "CloseIntent",
    "Delete",
    "Intent",
    "OpenIntent",
    "Put",
    "Record",
    "State",
    "StoredEvent",
]


Row: TypeAlias = tuple[Any, ...]  # what SQLite answers; the columns are typed by our own schema

MAX_NS = 2**63 - 1
READ_S = 60.0


class Record(NamedTuple):
    """A stored object."""

    id: str
    name: str | None
    data: bytes


class Intent(NamedTuple):
    """Something that was begun and of which nobody has said that it ended."""

    id: str
    kind: str
    object_id: str
    data: bytes
    driver: str
    hook: str
    created_ns: int


class StoredEvent(NamedTuple):
    """An event and its place in the history."""

    seq: int
    event: Event


class State:
    """Belongs to the event loop that opened it; `load` and `open_intents` block and are for the start."""

    def __init__(self, path: Path, writer: Writer, last_event: int) -> None:
        self.path = path
        self.last_event = last_event  # number of the newest event that was handed to the writer
        self._writer = writer
        self._closed = False
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._history = Pool("state", "history of events", size=1)

    @classmethod
    async def open(cls, path: Path, bounds: Bounds = Bounds()) -> State:  # noqa: B008  (immutable)
        """The file exists (mode 0600) and has this version's tables.

        Raises `Unsupported` for a file of a newer Scow, `Corrupt` for a damaged one or one of another program,
        `Unavailable` where it cannot be opened.
        """
        try:
            path.touch(mode=0o600)
        except OSError as exc:
            raise translate(exc, path) from exc
        writer = Writer(path, asyncio.get_running_loop(), bounds)
        return cls(path, writer, await writer.start())

    async def commit(self, *changes: Change, durable: bool = True) -> None:
        """All *changes* are stored, in this order, or none and the error says why (`Conflict`: a name is taken).

        Changes of one loop are committed in the order of the calls. A caller that is cancelled while it waits does
        not take them back. Raises `Unavailable` where the disk refuses, and after `close`.
        """
        await self.submit(*changes, durable=durable)

    def submit(self, *changes: Change, durable: bool = True) -> asyncio.Future[None]:
        """Like `commit`, but the place in the order is taken when it returns; the future is done when on disk."""
        if self._closed:
            raise Unavailable("the state is closed")
        return self._writer.submit(tuple(map(self._numbered, changes)), durable)

    def next_event(self) -> int:
        """A number for one more event; numbers rise in the order of the calls."""
        self.last_event += 1
        return self.last_event

    def load(self, kind: str) -> list[Record]:
        """Every object of *kind*, by id. Blocks: for the start only."""
        rows = self._query("SELECT id, name, data FROM objects WHERE kind = ? ORDER BY id", (kind,))
        return [Record(*row) for row in rows]

    def open_intents(self) -> list[Intent]:
        """What was begun and not ended, oldest first. Blocks: for the start only."""
        return [Intent(*row) for row in self._query("SELECT * FROM intents ORDER BY created_ns, id", ())]

    async def events(self, since_ns: int | None, until_ns: int | None, limit: int | None = None) -> list[Event]:
        """The newest *limit* events from *since_ns* to *until_ns* (both inclusive, None: no bound), oldest first."""
        rows = await self._history.call(
            self._query,
            "SELECT seq, time_ns, type, action, actor_id, attributes FROM events"
            " WHERE time_ns >= ? AND time_ns <= ? ORDER BY seq DESC LIMIT ?",
            (since_ns or 0, MAX_NS if until_ns is None else until_ns, -1 if limit is None else limit),
            deadline_s=READ_S,
        )
        return [event_of(row) for row in reversed(rows)]

    async def events_after(self, seq: int, since_ns: int, limit: int) -> list[StoredEvent]:
        """The first *limit* events behind number *seq* that are not older than *since_ns*, in their order."""
        rows = await self._history.call(
            self._query,
            "SELECT seq, time_ns, type, action, actor_id, attributes FROM events WHERE time_ns >= ?1 AND seq > ?2"
            " AND seq >= (SELECT coalesce(min(seq), 0) FROM events WHERE time_ns >= ?1) ORDER BY seq LIMIT ?3",
            (since_ns, seq, limit),
            deadline_s=READ_S,
        )
        return [StoredEvent(row[0], event_of(row)) for row in rows]

    async def close(self) -> None:
        """Everything submitted is on disk and no file is open; idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._writer.stop()
        self._history.close()
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _numbered(self, change: Change) -> Change:
        if isinstance(change, AppendEvent) and not change.seq:
            return AppendEvent(change.event, self.next_event())
        return change

    def _query(self, sql: str, args: tuple[object, ...]) -> list[Row]:
        try:
            with self._reading:
                if self._reader is None:
                    self._reader = connect_read_only(self.path)
                return self._reader.execute(sql, args).fetchall()
        except sqlite3.Error as exc:
            raise translate(exc, self.path) from exc


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; callers see to it that one thread at a time uses it."""
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    db.execute("PRAGMA query_only=1")  # not mode=ro: a WAL reader may have to make the -shm file
    return db


def event_of(row: Row) -> Event:
    """The event in a row (seq, time_ns, type, action, actor_id, attributes)."""
    _, time_ns, type_, action, actor_id, attributes = row
    return Event(
        type=type_,
        action=action,
        actor_id=actor_id,
        attributes=msgspec.json.decode(attributes, type=dict[str, str]),
        time_ns=time_ns,
    )
