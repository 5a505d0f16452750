"""The thread that owns the writing connection of the state, and the changes that it is given.

Everything that waits in its queue goes into one transaction (group commit): the disk is told to sync once for all of
it. Each commit has a savepoint of its own there, so that one that fails (a name that is taken) fails alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from scow.errors import Conflict, Corrupt, ScowError, Unavailable
from scow.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.engine.model import Event

log = logging.getLogger(__name__)

BATCH = 256  # commits in one transaction at most
IDLE_S = 1.0  # without work for so long, the log is written back into the database
AUTOCHECKPOINT_PAGES = 4000  # 16 MiB: only under steady load; else the pause of IDLE_S comes first
TRIM_EVERY = 2000  # events between two looks at their bound


class Put(NamedTuple):
    """The object *id* of *kind* is stored with these *data*; a *name* is unique within its kind."""

    kind: str
    id: str
    name: str | None
    data: bytes


class Delete(NamedTuple):
    """The object is gone; no error where there was none."""

    kind: str
    id: str


class OpenIntent(NamedTuple):
    """Something is about to be done to *object_id*; *driver* and *hook* say who is called, should it never return."""

    id: str
    kind: str
    object_id: str
    data: bytes = b""
    driver: str = ""
    hook: str = ""


class CloseIntent(NamedTuple):
    """What was intended is done or undone; no error where the intent is not open."""

    id: str


class AppendEvent(NamedTuple):
    """*event* becomes part of the history. *seq* orders events; 0 lets the state number it."""

    event: Event
    seq: int = 0


Change: TypeAlias = Put | Delete | OpenIntent | CloseIntent | AppendEvent


class Bounds(NamedTuple):
    """How much history is kept: the youngest *rows* events, none older than *age_s*."""

    rows: int = 100_000
    age_s: float = 30 * 86400.0


class Request(NamedTuple):
    """One call of `State.commit` on its way."""

    changes: tuple[Change, ...]
    durable: bool
    done: asyncio.Future[None]


class Writer:
    """Runs the thread. `submit` is called on the event loop only; futures are answered there."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, bounds: Bounds) -> None:
        self._path = path
        self._loop = loop
        self._bounds = bounds
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scow-state", daemon=True)
        self._opened: asyncio.Future[int] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._full: bool | None = None
        self._appended = 0

    async def start(self) -> int:
        """The database is open and of this version; answers the number of the last event."""
        self._thread.start()
        return await self._opened

    def submit(self, changes: tuple[Change, ...], durable: bool) -> asyncio.Future[None]:
        """The future is done when the changes are committed, or carries the error that kept them out."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(Request(changes, durable, done))
        return done

    async def stop(self) -> None:
        """All that was submitted is committed, the log is written back and the file is closed."""
        self._queue.put(None)
        await asyncio.shield(self._closed)

    # --- on the thread ------------------------------------------------

    def _run(self) -> None:
        try:
            db = self._open()
        except (ScowError, sqlite3.Error, OSError) as exc:
            self._call(answer, self._opened, None, translate(exc, self._path))
            return
        try:
            self._serve(db)
        finally:
            db.close()
            self._call(answer, self._closed, None, None)

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            migrate(db, self._path)  # first: a file that is refused is not touched
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_PAGES}")
            db.execute("PRAGMA synchronous=FULL")
            last: int = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
        except BaseException:
            db.close()
            raise
        self._call(answer, self._opened, last, None)
        return db

    def _serve(self, db: sqlite3.Connection) -> None:
        dirty = False
        while True:
            try:
                first = self._queue.get(timeout=IDLE_S if dirty else None)
            except queue.Empty:
                self._tidy(db)
                dirty = False
                continue
            batch, stopping = self._gather(first)
            if batch:
                self._commit(db, batch)
                dirty = True
            if stopping:
                self._tidy(db)
                return

    def _gather(self, first: Request | None) -> tuple[list[Request], bool]:
        batch: list[Request] = []
        item = first
        while item is not None:
            batch.append(item)
            if len(batch) == BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, db: sqlite3.Connection, batch: list[Request]) -> None:
        errors: list[ScowError | None] = []
        try:
            self._set_durability(db, any(request.durable for request in batch))
            if len(batch) == 1:
                errors = [self._commit_one(db, batch[0].changes)]
            else:
                db.execute("BEGIN IMMEDIATE")
                errors = [self._apply_alone(db, request.changes) for request in batch]
                db.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001  (this thread must live: everybody waits for it)
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                db.execute("ROLLBACK")
            errors = [translate(exc, self._path) for _ in batch]
            log.error("%d commits failed: %s", len(batch), errors[0])
        self._call(settle, batch, errors)
        if self._appended >= TRIM_EVERY:
            self._tidy(db)

    def _commit_one(self, db: sqlite3.Connection, changes: tuple[Change, ...]) -> ScowError | None:
        # As few statements as possible: each gives up the GIL, and has to wait for it again while the loop computes.
        # One statement is a transaction of its own, and one commit needs no savepoint.
        if len(changes) == 1:
            return self._apply(db, changes)
        db.execute("BEGIN IMMEDIATE")
        error = self._apply(db, changes)
        db.execute("COMMIT" if error is None else "ROLLBACK")
        return error

    def _set_durability(self, db: sqlite3.Connection, full: bool) -> None:
        # not possible inside a transaction; a later FULL commit also syncs what NORMAL ones left in the log
        if full is not self._full:
            db.execute("PRAGMA synchronous=FULL" if full else "PRAGMA synchronous=NORMAL")
            self._full = full

    def _apply_alone(self, db: sqlite3.Connection, changes: tuple[Change, ...]) -> ScowError | None:
        db.execute("SAVEPOINT one")
        error = self._apply(db, changes)
        if error is not None:
            db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")
        return error

    def _apply(self, db: sqlite3.Connection, changes: tuple[Change, ...]) -> ScowError | None:
        change = None
        try:
            for change in changes:
                self._apply_change(db, change)
        except sqlite3.IntegrityError as exc:
            return conflict(db, change, exc)
        except (sqlite3.Error, TypeError) as exc:
            if not db.in_transaction:
                raise  # a full disk: SQLite has given up the whole transaction
            return translate(exc, self._path)
        return None

    def _apply_change(self, db: sqlite3.Connection, change: Change) -> None:
        match change:
            case Put():
                db.execute(
                    "INSERT INTO objects (kind, id, name, data) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, data = excluded.data",
                    change,
                )
            case Delete():
                db.execute("DELETE FROM objects WHERE kind = ? AND id = ?", change)
            case OpenIntent():
                db.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)", (*change, time.time_ns()))
            case CloseIntent():
                db.execute("DELETE FROM intents WHERE id = ?", change)
            case AppendEvent(event, seq):
                self._appended += 1
                attributes = msgspec.json.encode(event.attributes)
                row = (seq, event.time_ns, event.type, event.action, event.actor_id, attributes)
                db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)

    def _tidy(self, db: sqlite3.Connection) -> None:
        try:
            self._trim(db)
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as exc:  # nothing is lost: the next commit or pause tries again
            log.warning("%s was not tidied: %s", self._path, exc)

    def _trim(self, db: sqlite3.Connection) -> None:
        if self._appended:
            self._appended = 0
            oldest_ns = time.time_ns() - int(self._bounds.age_s * 1e9)
            db.execute("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (self._bounds.rows,))
            db.execute("DELETE FROM events WHERE time_ns < ?", (oldest_ns,))

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("the loop is closed: nobody waits for the state any more")


def answer(future: asyncio.Future[Any], value: object, error: ScowError | None) -> None:
    """*future* is done with *value* or *error*, unless its waiter is gone (on the loop)."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def settle(batch: list[Request], errors: list[ScowError | None]) -> None:
    """Everybody who waits for the batch learns how it went (on the loop). Cancelled or not, the commits stand."""
    for request, error in zip(batch, errors, strict=True):
        answer(request.done, None, error)


def conflict(db: sqlite3.Connection, change: Change | None, cause: sqlite3.IntegrityError) -> ScowError:
    """Why SQLite refused *change*, in words of the engine."""
    match change:
        case Put(kind, _, str(name), _):
            row = db.execute("SELECT id FROM objects WHERE kind = ? AND name = ?", (kind, name)).fetchone()
            if row is not None:
                return Conflict(f"the {kind} name {name!r} is already in use by {row[0]}")
        case OpenIntent(intent_id):
            return Conflict(f"intent {intent_id} is already open")
    return Conflict(f"the state refuses {change!r:.120}: {cause}")


def translate(error: Exception, path: Path) -> ScowError:
    """An error of SQLite or the file system by its nature."""
    if isinstance(error, ScowError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(f"{path} is damaged: {error}", hint="move it away, or restore a copy")
    return Unavailable(f"{path} cannot be used: {error}", hint="see that the disk is there, writable and not full")
