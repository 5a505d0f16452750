"""Execs in a monitor over a fake child module."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from scow.engine.monitor_connection import MonitorConnection
from scow.errors import CommandNotFound, Conflict, NotFound, ScowError
from tests.unit.monitor_lab import exit_of, lab, output, read_all

HOLD = "exec sleep 100"


def sh(command: str) -> dict[str, list[str]]:
    """A plan for the fake child module."""
    return {"args": ["/bin/sh", "-c", command]}


async def ended(monitor: MonitorConnection) -> tuple[str, int]:
    """The next exec that ends."""
    told = asyncio.get_running_loop().create_future()
    monitor.on_exec_exit = lambda exec_id, code: None if told.done() else told.set_result((exec_id, code))
    result: tuple[str, int] = await asyncio.wait_for(told, 20)
    monitor.on_exec_exit = None
    return result


def test_an_exec_has_streams_of_its_own_and_its_exit_code_stays_known(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", sh("cat; echo err >&2; exit 5"), tty=False, open_stdin=True)
            stream = await monitor.attach(exec_id="e1", stdin=True, stdout=True, stderr=True)
            assert await monitor.exec_start("e1") > 0
            await stream.write(b"input")
            stream.close_stdin()
            data = await read_all(stream)
            assert (output(data, 1), output(data, 2)) == (b"input", b"err\n")
            assert await ended(monitor) == ("e1", 5)
            monitor.close()
            again = await MonitorConnection.connect(made.zygote.run_root, monitor.container_id)
            state = await again.exec_state("e1")
            assert (state["running"], state["exit_code"]) == (False, 5)
            assert (await again.state())["execs"]["e1"]["exit_code"] == 5
            await again.destroy()

    asyncio.run(story())


def test_an_exec_ends_with_its_process_and_not_with_a_background_child(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", sh("echo there; sleep 5 &"), tty=False, open_stdin=False)
            stream = await monitor.attach(exec_id="e1", stdin=False, stdout=True, stderr=True)
            begin = asyncio.get_running_loop().time()
            await monitor.exec_start("e1")
            assert output(await read_all(stream)) == b"there\n"
            assert asyncio.get_running_loop().time() - begin < 3

    asyncio.run(story())


def test_a_missing_program_of_an_exec_is_told_and_has_127(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", {"args": ["/no/such"]}, tty=False, open_stdin=False)
            with pytest.raises(CommandNotFound, match="/no/such"):
                await monitor.exec_start("e1")
            assert await ended(monitor) == ("e1", 127)
            assert (await monitor.exec_state("e1"))["exit_code"] == 127

    asyncio.run(story())


def test_a_detached_exec_with_much_output_is_not_held_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", sh("head -c 9000000 /dev/zero"), tty=False, open_stdin=False)
            await monitor.exec_start("e1")
            assert await ended(monitor) == ("e1", 0)

    asyncio.run(story())


def test_an_exec_with_a_terminal_is_resized_and_signalled(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", sh("stty size; exec sleep 100"), tty=True, open_stdin=True, size=(5, 6))
            await monitor.resize(7, 8, exec_id="e1")
            stream = await monitor.attach(exec_id="e1", stdin=True, stdout=True, stderr=True)
            await monitor.exec_start("e1")
            assert await stream.read() == b"7 8\r\n"
            await monitor.signal(signal.SIGTERM, exec_id="e1")
            assert await ended(monitor) == ("e1", 143)

    asyncio.run(story())


def test_execs_end_before_the_container_is_told_to_have_ended(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run("read x", open_stdin=True)
            await monitor.exec_create("e1", sh("exec sleep 100"), tty=False, open_stdin=False)
            await monitor.exec_create("e2", sh("true"), tty=False, open_stdin=False)
            waiting = await monitor.attach(exec_id="e2", stdin=False, stdout=True, stderr=True)
            await monitor.exec_start("e1")
            heard: list[str] = []
            monitor.on_exec_exit = lambda exec_id, code: heard.append(f"{exec_id} {code}")
            await monitor.signal(signal.SIGKILL)
            await exit_of(monitor)
            assert heard == ["e1 137"]
            assert await read_all(waiting) == b""

    asyncio.run(story())


def test_execs_are_refused_where_they_make_no_sense(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.spawn()
            with pytest.raises(Conflict):
                await monitor.exec_create("e1", sh("true"), tty=False, open_stdin=False)
            await made.create(monitor, HOLD)
            await monitor.start()
            with pytest.raises(NotFound):
                await monitor.exec_start("e1")
            await monitor.exec_create("e1", sh("exec sleep 9"), tty=False, open_stdin=False)
            with pytest.raises(Conflict):
                await monitor.exec_create("e1", sh("true"), tty=False, open_stdin=False)
            await monitor.exec_start("e1")
            with pytest.raises(Conflict):
                await monitor.exec_start("e1")

    asyncio.run(story())


def test_the_process_of_an_exec_may_be_one_that_a_helper_left_behind(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", {**sh("echo $$; exit 5"), "helper": True}, tty=False, open_stdin=False)
            stream = await monitor.attach(exec_id="e1", stdin=False, stdout=True, stderr=True)
            pid = await monitor.exec_start("e1")
            assert await ended(monitor) == ("e1", 5)
            assert output(await read_all(stream)) == f"{pid}\n".encode()
            await monitor.exec_create("e2", {**sh("exec sleep 100"), "helper": True}, tty=False, open_stdin=False)
            pid = await monitor.exec_start("e2")
            assert (await monitor.exec_state("e2"))["pid"] == pid
            await monitor.signal(signal.SIGTERM, exec_id="e2")
            assert await ended(monitor) == ("e2", 143)
            await monitor.exec_create("e3", {"args": ["/no/such"], "helper": True}, tty=False, open_stdin=False)
            with pytest.raises(CommandNotFound):
                await monitor.exec_start("e3")
            assert await ended(monitor) == ("e3", 127)

    asyncio.run(story())


@pytest.mark.parametrize(
    "report", ["no JSON\n", "[]\n", "{}\n", '{"error": [], "kind": {}, "errno": "x"}\n', "x" * 70000]
)
def test_a_report_that_makes_no_sense_is_the_end_of_that_exec_only(tmp_path: Path, report: str) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            await monitor.exec_create("e1", {**sh("true"), "say": report}, tty=False, open_stdin=False)
            with pytest.raises(ScowError):
                await monitor.exec_start("e1")
            await ended(monitor)
            await monitor.exec_create("e2", sh("exit 3"), tty=False, open_stdin=False)
            await monitor.exec_start("e2")
            assert await ended(monitor) == ("e2", 3)

    asyncio.run(story())


def test_the_process_of_an_exec_that_nobody_starts_goes_with_scowd(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab(tmp_path) as made:
            monitor = await made.run(HOLD)
            pid = (await monitor.state())["monitor_pid"]
            before = children(pid)
            await monitor.exec_create("e1", sh("true"), tty=False, open_stdin=False)
            assert len(children(pid)) == len(before) + 1
            monitor.close()
            deadline = time.monotonic() + 10
            while children(pid) != before and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert children(pid) == before
            made.made.append(await MonitorConnection.connect(tmp_path / "run", monitor.container_id))
            made.made.remove(monitor)

    asyncio.run(story())


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
