"""The tables of ``scow.db``, and how an older file becomes a newer one.

``PRAGMA user_version`` counts the migrations that a file has had. They run in one transaction, after a copy of the
file was made beside it; a file from a newer Scow is refused. A migration that has been released is never edited.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from scow.errors import Corrupt, Unsupported

APPLICATION_ID = 0x53434F57  # "SCOW": `file scow.db` and a second look at a wrong path tell what it is

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE objects (kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT, data BLOB NOT NULL,"
        " PRIMARY KEY (kind, id)) WITHOUT ROWID",
        "CREATE UNIQUE INDEX objects_by_name ON objects (kind, name) WHERE name IS NOT NULL",
        "CREATE TABLE intents (id TEXT PRIMARY KEY, kind TEXT NOT NULL, object_id TEXT NOT NULL, data BLOB NOT NULL,"
        " driver TEXT NOT NULL, hook TEXT NOT NULL, created_ns INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, type TEXT NOT NULL,"
        " action TEXT NOT NULL, actor_id TEXT NOT NULL, attributes BLOB NOT NULL)",
        "CREATE INDEX events_by_time ON events (time_ns)",
    ),
)
VERSION = len(MIGRATIONS)


def migrate(db: sqlite3.Connection, path: Path, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> int:
    """The file has the tables of this version; answers the version that it had before (0: it was new).

    *db* is in autocommit mode. Raises `Unsupported` for a file of a newer Scow and `Corrupt` for one that is not
    Scow's; neither is touched. A failing migration leaves the file as it was.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    owner: int = db.execute("PRAGMA application_id").fetchone()[0]
    tables: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (version or tables) and owner != APPLICATION_ID:
        raise Corrupt(f"{path} is a database of another program", hint="choose another data_root")
    if version > len(migrations):
        raise Unsupported(
            f"{path} has schema version {version}, this scow knows up to {len(migrations)}",
            hint=f"run the newer scow again, or restore {backup_path(path, len(migrations)).name} where there is one",
        )
    if version == len(migrations):
        return version
    if version:
        copy_before(db, backup_path(path, version))
    db.execute("BEGIN EXCLUSIVE")
    try:
        for statements in migrations[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(migrations)}")
        db.execute("COMMIT")
    except sqlite3.Error:
        db.execute("ROLLBACK")
        raise
    return version


def backup_path(path: Path, version: int) -> Path:
    """Where the copy of a file of that schema version is kept."""
    return path.with_name(f"{path.name}.v{version}")


def copy_before(db: sqlite3.Connection, target: Path) -> None:
    """*target* is a consistent copy of *db*; an older copy of that name is replaced only when this one is whole."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as copy:
        db.backup(copy)
    partial.replace(target)
