from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from scow.engine.model import Event
from scow.errors import Conflict, Corrupt, Unavailable, Unsupported
from scow.schema import APPLICATION_ID, MIGRATIONS, VERSION, backup_path, migrate
from scow.state import AppendEvent, Bounds, CloseIntent, Delete, Intent, OpenIntent, Put, Record, State

DEFAULT = Bounds()


def event(action: str, time_ns: int = 0) -> Event:
    return Event(type="container", action=action, actor_id="c1", attributes={"name": "web"}, time_ns=time_ns)


def with_state(path: Path, body: Callable[[State], Awaitable[None]], bounds: Bounds = DEFAULT) -> None:
    async def run() -> None:
        state = await State.open(path, bounds)
        try:
            await body(state)
        finally:
            await state.close()

    asyncio.run(run())


def test_what_is_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    async def first(state: State) -> None:
        await state.commit(Put("container", "b", "web", b"1"), Put("container", "a", None, b"2"))
        await state.commit(Put("container", "b", "www", b"3"), Delete("container", "nothing"), durable=False)

    async def second(state: State) -> None:
        assert state.load("container") == [Record("a", None, b"2"), Record("b", "www", b"3")]
        assert state.load("image") == []

    with_state(tmp_path / "scow.db", first)
    with_state(tmp_path / "scow.db", second)


def test_the_file_is_private(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        await state.commit(Put("container", "a", None, b""))

    with_state(tmp_path / "scow.db", body)
    assert (tmp_path / "scow.db").stat().st_mode & 0o777 == 0o600


def test_a_taken_name_is_a_conflict_that_names_the_owner(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        await state.commit(Put("container", "a", "web", b""))
        await state.commit(Put("network", "n", "web", b""))  # names are unique within a kind
        with pytest.raises(Conflict, match="the container name 'web' is already in use by a"):
            await state.commit(Put("container", "b", "web", b""))

    with_state(tmp_path / "scow.db", body)


def test_a_commit_that_fails_changes_nothing_and_fails_alone(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        await state.commit(Put("container", "a", "web", b""))
        results = await asyncio.gather(
            state.commit(Put("container", "x", None, b"")),
            state.commit(Put("container", "lost", None, b""), Put("container", "b", "web", b"")),
            state.commit(Put("container", "y", None, 7)),  # type: ignore[arg-type]  # stored as it is
            state.commit(Put("container", "bad", None, object())),  # type: ignore[arg-type]
            state.commit(Put("container", "z", None, b"")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), Conflict, type(None), Unavailable, type(None)]
        assert [record.id for record in state.load("container")] == ["a", "x", "y", "z"]

    with_state(tmp_path / "scow.db", body)


def test_a_single_bad_change_fails_and_the_state_goes_on(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        with pytest.raises(Unavailable):
            await state.commit(Put("container", "bad", None, object()))  # type: ignore[arg-type]
        await state.commit(Put("container", "good", None, b""))
        assert [record.id for record in state.load("container")] == ["good"]

    with_state(tmp_path / "scow.db", body)


def test_waiting_commits_share_one_transaction(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        began = time.perf_counter()
        await asyncio.gather(*(state.commit(Put("container", str(n), None, b"x" * 500)) for n in range(2000)))
        assert time.perf_counter() - began < 2.0, "2000 separate syncs take longer than that on any disk"
        assert len(state.load("container")) == 2000

    with_state(tmp_path / "scow.db", body)


def test_a_cancelled_caller_does_not_take_its_change_back(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        task = asyncio.ensure_future(state.commit(Put("container", "a", None, b"")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await state.commit(Put("container", "b", None, b""))
        assert [record.id for record in state.load("container")] == ["a", "b"]

    with_state(tmp_path / "scow.db", body)


def test_intents_stay_open_until_they_are_closed(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        await state.commit(
            OpenIntent("i1", "start", "c1", b"{}", "network:bridge", "attach"), OpenIntent("i2", "rm", "c2")
        )
        await state.commit(CloseIntent("i2"), CloseIntent("never opened"))
        with pytest.raises(Conflict, match="intent i1 is already open"):
            await state.commit(OpenIntent("i1", "start", "c1"))

    async def later(state: State) -> None:
        [intent] = state.open_intents()
        assert intent == Intent("i1", "start", "c1", b"{}", "network:bridge", "attach", intent.created_ns)
        assert 0 < time.time_ns() - intent.created_ns < 60e9

    with_state(tmp_path / "scow.db", body)
    with_state(tmp_path / "scow.db", later)


def test_events_come_in_order_within_inclusive_bounds(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        now = time.time_ns()
        await state.commit(*(AppendEvent(event(str(n), now + n)) for n in range(6)), durable=False)
        assert [e.action for e in await state.events(now + 1, now + 4, 3)] == ["2", "3", "4"]
        assert [e.action for e in await state.events(None, None)] == list("012345")
        assert (await state.events(None, now))[0] == event("0", now)
        assert [(s.seq, s.event.action) for s in await state.events_after(2, now, 2)] == [(3, "2"), (4, "3")]
        assert [s.event.action for s in await state.events_after(0, now + 4, 9)] == ["4", "5"]

    with_state(tmp_path / "scow.db", body)


def test_event_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    async def first(state: State) -> None:
        await state.commit(AppendEvent(event("a", time.time_ns())), AppendEvent(event("b", time.time_ns())))

    async def second(state: State) -> None:
        assert state.last_event == 2

    with_state(tmp_path / "scow.db", first)
    with_state(tmp_path / "scow.db", second)


def test_history_is_bounded_by_rows_and_by_age(tmp_path: Path) -> None:
    async def body(state: State) -> None:
        now = time.time_ns()
        old = [AppendEvent(event("old", now - int(7200e9)))]
        await state.commit(*old, *(AppendEvent(event(str(n), now)) for n in range(20)), durable=False)

    async def later(state: State) -> None:
        assert [e.action for e in await state.events(None, None)] == [str(n) for n in range(10, 20)]

    with_state(tmp_path / "scow.db", body, Bounds(rows=10, age_s=3600))
    with_state(tmp_path / "scow.db", later)


def test_a_closed_state_refuses_and_closes_twice(tmp_path: Path) -> None:
    async def run() -> None:
        state = await State.open(tmp_path / "scow.db")
        await state.close()
        await state.close()
        with pytest.raises(Unavailable, match="the state is closed"):
            await state.commit(Delete("container", "a"))

    asyncio.run(run())


def test_what_was_submitted_before_close_is_stored(tmp_path: Path) -> None:
    async def run() -> None:
        state = await State.open(tmp_path / "scow.db")
        pending = [state.submit(Put("container", str(n), None, b"")) for n in range(300)]
        await state.close()
        await asyncio.gather(*pending)

    async def later(state: State) -> None:
        assert len(state.load("container")) == 300

    asyncio.run(run())
    with_state(tmp_path / "scow.db", later)


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "scow.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(Unsupported, match=f"has schema version {VERSION + 1}, this scow knows up to {VERSION}"):
        asyncio.run(State.open(path))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scow.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(Corrupt, match="a database of another program"):
        asyncio.run(State.open(path))


def test_a_damaged_file_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "scow.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(Corrupt, match="is damaged"):
        asyncio.run(State.open(path))


def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be used"):
        asyncio.run(State.open(tmp_path / "missing" / "scow.db"))


def test_an_older_file_is_migrated_after_a_copy_was_made(tmp_path: Path) -> None:
    path = tmp_path / "scow.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, MIGRATIONS[:1])
        db.execute("INSERT INTO objects VALUES ('container', 'a', 'web', x'01')")
        assert not backup_path(path, 1).exists(), "a new file needs no copy"
        assert migrate(db, path, (*MIGRATIONS[:1], ("ALTER TABLE objects ADD COLUMN extra",))) == 1
        assert db.execute("SELECT id, extra FROM objects").fetchall() == [("a", None)]
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    with closing(sqlite3.connect(backup_path(path, 1))) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT id FROM objects").fetchall() == [("a",)]


def test_a_failing_migration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "scow.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, MIGRATIONS[:1])
        with pytest.raises(sqlite3.OperationalError):
            migrate(db, path, (*MIGRATIONS[:1], ("DROP TABLE events", "CREATE NONSENSE")))
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)


WRITER = """
import asyncio, sys
from pathlib import Path
from scow.state import OpenIntent, Put, State

async def main():
    state = await State.open(Path(sys.argv[1]))
    for number in range(100_000):
        await state.commit(Put("container", str(number), None, b"x" * 2000), OpenIntent(str(number), "start", ""))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


@pytest.mark.parametrize("commits", [1, 40, 120])
def test_a_killed_writer_loses_nothing_that_it_had_committed(tmp_path: Path, commits: int) -> None:
    path = tmp_path / "scow.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(commits):
            writer.stdout.readline()
        writer.kill()
        committed = commits + len(writer.stdout.readlines())

    async def later(state: State) -> None:
        stored = {record.id for record in state.load("container")}
        assert {str(number) for number in range(committed)} <= stored
        assert {intent.id for intent in state.open_intents()} == stored, "all of a commit or nothing"

    with_state(path, later)


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from scow.errors import Unavailable
from scow.state import Put, State

async def main():
    state = await State.open(Path(sys.argv[1]))
    await state.commit(Put("container", "before", None, b""))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    results = await asyncio.gather(
        *(state.commit(Put("container", str(n), None, b"x" * 20_000)) for n in range(100)), return_exceptions=True
    )
    assert any(isinstance(result, Unavailable) for result in results), results
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await state.commit(Put("container", "after", None, b""))
    stored = {record.id for record in state.load("container")}
    assert stored == {str(n) for n, result in enumerate(results) if result is None} | {"before", "after"}
    await state.close()

asyncio.run(main())
"""


def test_a_full_disk_refuses_commits_and_is_forgotten_when_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "scow.db")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
