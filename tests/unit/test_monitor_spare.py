"""The zygote's spare child, which is the next container's monitor, and terminals that a process makes itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.monitor_lab import Lab, exit_of, lab, read_all

Story = Callable[[Lab], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story in a lab."""

    async def told(story: Story) -> None:
        async with lab(tmp_path) as made:
            await asyncio.wait_for(story(made), 60)

    return lambda story: asyncio.run(told(story))


def children(pid: int) -> list[int]:
    """The pids of the children of *pid*."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def spare_of(zygote: int) -> int:
    """The pid of the one child that a zygote without monitors has, as soon as it is there."""
    for _ in range(500):
        if found := children(zygote):
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError("the zygote made no spare")


def test_a_spare_becomes_the_monitor_and_another_follows(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        spare = await spare_of(made.zygote.pid)
        monitor = await made.run("exec sleep 5")
        assert monitor.pid == spare
        for _ in range(500):
            if len(children(made.zygote.pid)) == 2:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("no other spare followed")

    play(story)


def test_a_killed_spare_costs_nothing(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        os.kill(await spare_of(made.zygote.pid), signal.SIGKILL)
        assert (await exit_of(await made.run("exit 3")))["exit_code"] == 3

    play(story)


def test_a_spare_ends_with_its_zygote(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        pidfd = os.pidfd_open(await spare_of(made.zygote.pid))
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        os.kill(made.zygote.pid, signal.SIGKILL)
        await asyncio.wait_for(gone.wait(), 5)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    play(story)


def test_requests_that_come_at_once_are_all_served(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        await spare_of(made.zygote.pid)
        monitors = await asyncio.gather(*(made.run(f"exit {number}") for number in range(20)))
        assert [(await exit_of(monitor))["exit_code"] for monitor in monitors] == list(range(20))

    play(story)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: pidfd_getfd(2) of a process that is not dumpable")
def test_an_exec_is_not_started_before_its_own_terminal_is_taken(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("exec sleep 100")
        plan = {"args": ["/bin/sh", "-c", "stty size; echo done"], "own_console": True, "setup_s": 0.1}
        await monitor.exec_create("e1", plan, tty=True, open_stdin=True, size=(7, 8))
        stream = await monitor.attach(exec_id="e1", stdin=False, stdout=True, stderr=True)
        await monitor.exec_start("e1")
        assert (await read_all(stream)).split() == [b"7", b"8", b"done"]

    play(story)
