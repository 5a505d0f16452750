"""The whole engine on fake drivers, without root: real state, events, monitors and processes of the tests' own user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from scow.config import load
from scow.engine.engine import Engine
from scow.errors import CommandNotFound, Conflict, InvalidArgument, NotFound, NotModified
from scow.host import PluginHost
from scow.ports import RUNTIME, STORAGE
from scow.ports.log import LogQuery
from scow.reference import Reference
from scow.testing.fakes_runtime import FakeRuntime
from scow.testing.fakes_storage import FakeStorage
from scow.types import CreateRequest, ExecRequest, HostConfig, MountSpec, RestartPolicy

INSTALLED = {
    "scow.storage": {"fake": "scow.testing.fakes_storage:FakeStorage"},
    "scow.runtime": {"fake": "scow.testing.fakes_runtime:FakeRuntime"},
    "scow.network": {
        "bridge": "tests.unit.engine_kit:FakeBridge",
        "host": "tests.unit.engine_kit:FakeHost",
        "none": "tests.unit.engine_kit:FakeNone",
    },
    "scow.volume": {"local": "scow_volume_local:LocalVolumes"},
    "scow.log": {"local": "scow_log_local:LocalLog", "none": "scow_log_local:NoLog"},
}


@asynccontextmanager
async def running_engine(root: Path, **options: dict[str, Any]) -> AsyncIterator[Engine]:
    config = load(
        None,
        {},
        {
            "data_root": str(root / "data"),
            "run_root": str(root / "run"),
            "drivers.storage": "fake",
            "drivers.runtime": "fake",
            **{f"options.{name}": value for name, value in options.items()},
        },
    )
    installed = {
        group: [EntryPoint(name, value, group) for name, value in entries.items()]
        for group, entries in INSTALLED.items()
    }
    engine = Engine(config, PluginHost(config, installed))
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


def with_engine(root: Path, test: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running_engine(root) as engine:
            await import_image(engine)
            await test(engine)
            for record in engine.containers.records():
                await engine.containers.remove(record.id, force=True)

    asyncio.run(main())


async def import_image(engine: Engine) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield bytes(1024)

    await engine.images.import_tar(
        nothing(), Reference.parse("img"), changes=['CMD ["sh"]'], message="", platform="", progress=lambda _: None
    )


def request(*command: str, **host: Any) -> CreateRequest:
    host.setdefault("network_mode", "none")
    return CreateRequest(image="img", cmd=list(command), host_config=HostConfig(**host))


async def output(engine: Engine, id: str) -> bytes:
    return b"".join([chunk async for chunk in engine.containers.logs(id, LogQuery(), follow=False)])


def test_a_container_runs_logs_and_ends(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(request("sh", "-c", "echo hello; exit 3"), "box")
        assert engine.containers.get("box").state.status == "created"
        end = engine.containers.wait("box", "next-exit")
        await engine.containers.start("box")
        assert (await end).exit_code == 3
        record = engine.containers.get(id)
        assert (record.state.status, record.state.exit_code, record.state.pid) == ("exited", 3, 0)
        assert await output(engine, id) == b"\x01\0\0\0\0\0\0\x06hello\n"

    with_engine(tmp_path, test)


def test_containers_that_are_made_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await asyncio.gather(*(engine.containers.create(request("true")) for _ in range(200)))  # of 2,805 names
        assert len({record.name for record in engine.containers.records()}) == 200

    with_engine(tmp_path, test)


def test_attach_before_start_gets_the_first_byte_and_gives_input(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        body = request("sh", "-c", "cat; echo end")
        body.open_stdin = body.stdin_once = True
        id, _ = await engine.containers.create(body)
        session = await engine.containers.attach(id, stdin=True, stdout=True, stderr=True, logs=False, stream=True)
        writing = asyncio.ensure_future(session.write(b"early\n"))
        await engine.containers.start(id)
        await writing
        session.close_stdin()
        got = b""
        while chunk := await session.read():
            got += chunk
        assert b"early\n" in got
        assert got.endswith(b"end\n")

    with_engine(tmp_path, test)


def test_start_and_stop_twice_say_not_modified(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(request("sleep", "60"))
        await engine.containers.start(id)
        with pytest.raises(NotModified):
            await engine.containers.start(id)
        await engine.containers.stop(id, 5)
        assert engine.containers.get(id).state.exit_code == 128 + signal.SIGTERM
        with pytest.raises(NotModified):
            await engine.containers.stop(id)

    with_engine(tmp_path, test)


def test_a_stop_that_is_ignored_becomes_a_kill(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(
            request("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        )
        await engine.containers.start(id)
        while b"up" not in await output(engine, id):
            await asyncio.sleep(0.02)
        begun = time.monotonic()
        await engine.containers.stop(id, 1)
        assert 0.9 < time.monotonic() - begun < 5
        assert engine.containers.get(id).state.exit_code == 137

    with_engine(tmp_path, test)


def test_a_missing_program_leaves_a_created_container_with_127(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(request("/no/such/program"))
        with pytest.raises(CommandNotFound):
            await engine.containers.start(id)
        state = engine.containers.get(id).state
        assert (state.status, state.exit_code) == ("created", 127)
        runtime = engine.drivers.get(RUNTIME)
        assert isinstance(runtime, FakeRuntime)
        assert runtime.known == set()

    with_engine(tmp_path, test)


def test_a_failing_runtime_undoes_the_start(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        runtime = engine.drivers.get(RUNTIME)
        assert isinstance(runtime, FakeRuntime)
        id, _ = await engine.containers.create(request("true"))
        runtime.fail_create = InvalidArgument("no such cgroup")
        with pytest.raises(InvalidArgument, match="no such cgroup"):
            await engine.containers.start(id)
        assert engine.state.open_intents() == []
        await engine.containers.start(id)

    with_engine(tmp_path, test)


def test_a_failing_create_leaves_no_root_volume_or_name(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        storage = engine.drivers.get(STORAGE)
        assert isinstance(storage, FakeStorage)
        mounts = [
            MountSpec(type="volume", source="v", target="/v"),
            MountSpec(type="bind", source="/does/not/exist", target="/b"),
        ]
        with pytest.raises(InvalidArgument, match="does not exist"):
            await engine.containers.create(request("true", mounts=mounts), "named")
        assert engine.volumes.list() == []
        assert not [s for s in storage.list() if not s.committed]
        assert os.listdir(engine.config.data_root / "containers") == []
        await engine.containers.create(request("true"), "named")

    with_engine(tmp_path, test)


def test_names_are_unique_and_renaming_frees_the_old_one(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        await engine.containers.create(request("true"), "one")
        with pytest.raises(Conflict, match='"/one" is already in use'):
            await engine.containers.create(request("true"), "one")
        await engine.containers.rename("one", "two")
        await engine.containers.create(request("true"), "one")
        with pytest.raises(Conflict):
            await engine.containers.rename("one", "two")

    with_engine(tmp_path, test)


def test_an_exec_has_its_own_streams_and_its_code_is_known_when_they_end(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(request("sleep", "60"))
        with pytest.raises(Conflict, match="is not running"):
            await engine.execs.create(id, ExecRequest(cmd=["true"]))
        await engine.containers.start(id)
        exec_id = await engine.execs.create(
            id, ExecRequest(cmd=["sh", "-c", "echo in; exit 4"], attach_stdout=True, attach_stderr=True)
        )
        session = await engine.execs.start(exec_id, detach=False, tty=False, console_size=None)
        assert session is not None
        got = b""
        while chunk := await session.read():
            got += chunk
        assert got == b"\x01\0\0\0\0\0\0\x03in\n"
        assert engine.execs.get(exec_id).exit_code == 4
        with pytest.raises(NotFound, match="No such exec instance"):
            engine.execs.get("f" * 64)

    with_engine(tmp_path, test)


def test_auto_remove_and_waiting_for_it(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        id, _ = await engine.containers.create(request("sh", "-c", "exit 5", auto_remove=True))
        gone = engine.containers.wait(id, "removed")
        await engine.containers.start(id)
        assert (await asyncio.wait_for(gone, 10)).exit_code == 5
        with pytest.raises(NotFound):
            engine.containers.get(id)

    with_engine(tmp_path, test)


def test_restart_on_failure_counts_and_a_stop_ends_it(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        policy = RestartPolicy(name="on-failure", maximum_retry_count=1)
        id, _ = await engine.containers.create(request("sh", "-c", "exit 1", restart_policy=policy))
        await engine.containers.start(id)
        while engine.containers.get(id).state.status != "exited":
            await asyncio.sleep(0.02)
        assert engine.containers.get(id).state.restart_count == 1
        always, _ = await engine.containers.create(
            request("sh", "-c", "exit 0", restart_policy=RestartPolicy(name="always"))
        )
        await engine.containers.start(always)
        while engine.containers.get(always).state.restart_count < 2:
            await asyncio.sleep(0.02)
        while engine.containers.get(always).state.status != "restarting":
            await asyncio.sleep(0.005)
        await engine.containers.stop(always, 1)
        assert engine.containers.get(always).state.status == "exited"

    with_engine(tmp_path, test)


def test_a_new_engine_takes_over_what_runs_and_learns_what_ended(tmp_path: Path) -> None:
    async def first() -> tuple[str, str, int]:
        async with running_engine(tmp_path) as engine:
            await import_image(engine)
            long, _ = await engine.containers.create(request("sh", "-c", "echo on; sleep 60"), "long")
            short, _ = await engine.containers.create(request("sh", "-c", "sleep 0.3; exit 9"), "short")
            await engine.containers.start(long)
            await engine.containers.start(short)
            return long, short, engine.containers.get(long).state.pid

    async def second(long: str, short: str, pid: int) -> None:
        async with running_engine(tmp_path) as engine:
            assert engine.containers.get(long).state.pid == pid
            assert engine.containers.get(short).state.status == "exited"
            assert engine.containers.get(short).state.exit_code == 9
            assert any("ended meanwhile with 9" in line for line in engine.repaired)
            assert b"on\n" in await output(engine, long)
            await engine.containers.stop(long, 5)
            assert engine.containers.get(long).state.exit_code == 128 + signal.SIGTERM
            for record in engine.containers.records():
                await engine.containers.remove(record.id)

    long, short, pid = asyncio.run(first())
    time.sleep(0.6)
    asyncio.run(second(long, short, pid))


def test_events_tell_what_happened_in_order(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        since = time.time_ns()
        id, _ = await engine.containers.create(request("true"))
        await engine.containers.start(id)
        while engine.containers.get(id).state.status != "exited":
            await asyncio.sleep(0.01)
        await engine.containers.remove(id)
        subscription = engine.events.subscribe(since, time.time_ns(), {"container": [id]})
        actions = [event.action async for event in subscription]
        assert actions == ["create", "start", "die", "destroy"]

    with_engine(tmp_path, test)


def test_a_start_between_kill_and_removal_leaves_nothing_running(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        runtime = engine.drivers.get(RUNTIME)
        assert isinstance(runtime, FakeRuntime)
        id, _ = await engine.containers.create(request("sleep", "60"))
        await engine.containers.start(id)

        async def start_again() -> None:
            await engine.containers.wait(id, "next-exit")
            with contextlib.suppress(NotFound, NotModified, Conflict):
                await engine.containers.start(id)

        racing = asyncio.ensure_future(start_again())
        await asyncio.sleep(0)
        await engine.containers.remove(id, force=True)
        await racing
        assert [record.id for record in engine.containers.records()] == []
        assert runtime.known == set()

    with_engine(tmp_path, test)


def test_runc_means_the_default_runtime_unless_one_is_called_so(tmp_path: Path) -> None:
    async def chosen(root: Path, *asked: str, **options: dict[str, Any]) -> list[str]:
        async with running_engine(root, **options) as engine:
            await import_image(engine)
            found = []
            for name in asked:
                id, _warnings = await engine.containers.create(request("true", runtime=name), "", "")
                found.append(engine.containers.get(id).runtime)
                await engine.containers.remove(id, force=True)
            with pytest.raises(InvalidArgument, match="^unknown or invalid runtime name: nosuch$") as caught:
                await engine.containers.create(request("true", runtime="nosuch"), "", "")
            assert caught.value.hint is not None and "fake" in caught.value.hint
            info = await engine.system.info()
            found.append(" ".join(info["Runtimes"]))
            return found

    names = ("", "runc", "io.containerd.runc.v2")
    assert asyncio.run(chosen(tmp_path / "a", *names)) == ["fake", "fake", "fake", "fake"]
    named = {"runtime.runc": {"driver": "fake"}, "runtime.crun": {"driver": "fake"}}
    found = asyncio.run(chosen(tmp_path / "b", *names, "crun", **named))
    assert found == ["fake", "runc", "runc", "crun", "crun fake runc"]
