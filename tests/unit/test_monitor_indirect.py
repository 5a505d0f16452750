"""Monitors whose processes another program makes: the pid is known late, and orphans come to the monitor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scow.errors import CommandNotFound
from tests.unit.monitor_lab import CHILD, Lab, exit_of, lab, output, read_all

Story = Callable[[Lab], Awaitable[None]]
MAKER = "scow.testing.fake_maker"


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story in a lab of makers."""

    async def told(story: Story) -> None:
        async with lab(tmp_path, MAKER) as made:
            await asyncio.wait_for(story(made), 60)

    return lambda story: asyncio.run(told(story))


def children(pid: int) -> list[int]:
    """The children of *pid* that are there, zombies included."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(name))
    return found


async def only_child(monitor: int) -> int:
    """The monitor's child once it is the only one."""
    for _ in range(500):
        found = children(monitor)
        if len(found) == 1:
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError(f"children of the monitor: {found}")


async def runs(pid: int, program: str) -> bool:
    """Whether *pid* becomes *program* soon: a fake maker does not wait for execve."""
    for _ in range(500):
        if Path(f"/proc/{pid}/cmdline").read_text().startswith(program):
            return True
        await asyncio.sleep(0.01)
    return False


def test_the_process_is_the_one_that_was_named_and_its_status_is_known(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        for command, code in (("exit 7", 7), ("kill -9 $$", 137)):
            monitor = await made.run(command)
            assert (await exit_of(monitor))["exit_code"] == code
        monitor = await made.run("exec sleep 30")
        state = await monitor.state()
        assert await runs(state["pid"], "sleep")
        assert await only_child(monitor.pid) == state["pid"]
        await monitor.signal(signal.SIGTERM)
        assert (await exit_of(monitor))["signal"] == signal.SIGTERM

    play(story)


def test_a_short_program_has_been_started_though_its_maker_takes_long_to_say_so(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("echo out; exit 3", plan={"linger_s": 0.3})
        assert (await exit_of(monitor))["exit_code"] == 3

    play(story)


def test_makers_and_other_orphans_are_reaped(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("sleep 0.05 & exec sleep 30", plan={"strays": 5})
        await monitor.exec_create("e", {"args": ["/bin/true"], "strays": 3}, tty=False, open_stdin=False)
        await monitor.exec_start("e")
        assert await only_child(monitor.pid) == (await monitor.state())["pid"]

    play(story)


def test_execs_tell_the_pid_and_the_code_of_the_process(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("exec sleep 30")
        ended: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        monitor.on_exec_exit = lambda id, code: ended.set_result((id, code))
        await monitor.exec_create("e", {"args": ["/bin/sh", "-c", "sleep 1; exit 9"]}, tty=False, open_stdin=False)
        pid = await monitor.exec_start("e")
        assert await runs(pid, "/bin/sh")
        assert await ended == ("e", 9)

    play(story)


def test_what_the_program_says_is_read_only_where_a_process_was_made(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        _monitor, stream = await made.attached("echo own", plan={"noise": "warning\n"})
        assert output(await read_all(stream)) == b"warning\nown\n"
        monitor = await made.spawn()
        stream = await monitor.attach(stdin=False, stdout=True, stderr=True)
        with pytest.raises(CommandNotFound, match="no such program"):
            await made.create(monitor, "true", plan={"noise": "usage: …\n", "fail": "no such program"})
        assert await read_all(stream) == b""

    play(story)


def test_one_that_is_not_started_is_killed_by_its_maker(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        await made.create(monitor, "true")
        pid = (await monitor.state())["pid"]
        await monitor.destroy()
        assert not os.path.exists(f"/proc/{pid}")

    play(story)


def test_the_first_container_of_another_runtime_gets_a_zygote_that_knows_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path, CHILD) as made:
            before = await made.run("exec sleep 30")
            first = made.zygote.pid
            made.module = MAKER
            monitors = await asyncio.gather(*(made.run("exit 4") for _ in range(3)))
            assert [(await exit_of(monitor))["exit_code"] for monitor in monitors] == [4, 4, 4]
            assert made.zygote.pid != first and made.zygote.modules == (CHILD, MAKER)
            await before.signal(signal.SIGTERM)
            assert (await exit_of(before))["signal"] == signal.SIGTERM

    asyncio.run(asyncio.wait_for(story(), 60))
