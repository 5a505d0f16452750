"""Zygote and monitors over a fake child module: streams, exit records, reconnection."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scow.engine.monitor_connection import MonitorConnection
from scow.engine.zygote import Zygote
from scow.errors import CannotRun, CommandNotFound, Conflict, ScowError, Unavailable
from tests.unit.monitor_lab import CHILD, Lab, exit_of, lab, output, read_all

Story = Callable[[Lab], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story in a lab."""

    async def told(story: Story) -> None:
        async with lab(tmp_path) as made:
            await asyncio.wait_for(story(made), 60)

    return lambda story: asyncio.run(told(story))


def test_the_zygote_runs_from_a_sealed_copy_of_the_interpreter(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        assert made.zygote.sealed, made.zygote.unsealed_reason
        monitor = await made.run("sleep 5")
        if os.geteuid() == 0:
            assert os.readlink(f"/proc/{monitor.pid}/exe").startswith("/memfd:scow-python")
            with pytest.raises(OSError):
                os.open(f"/proc/{monitor.pid}/exe", os.O_WRONLY)

    play(story)


def test_a_monitor_imports_nothing_after_its_fork(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached("cat; echo err >&2", stdin=True, open_stdin=True, stdin_once=True)
        await monitor.exec_create("e1", {"args": ["/bin/echo", "hi"]}, tty=True, open_stdin=True)
        await monitor.exec_start("e1")
        await monitor.state()
        with pytest.raises(ScowError):
            await monitor.request("nonsense")
        assert (await monitor.request("modules"))["modules"] == made.zygote.imported
        stream.close_stdin()
        await read_all(stream)

    play(story)


def test_an_attach_before_create_sees_the_first_byte_and_the_last(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        for _ in range(10):
            monitor, stream = await made.attached("echo first; echo last >&2")
            data = await read_all(stream)
            assert output(data, 1) == b"first\n"
            assert output(data, 2) == b"last\n"
            assert (await exit_of(monitor))["exit_code"] == 0

    play(story)


def test_the_exit_record_is_on_disk_when_the_exit_is_told(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("exit 7")
        record = await exit_of(monitor)
        on_disk = json.loads((monitor.directory / "exit.json").read_text())
        assert record == on_disk
        assert (on_disk["exit_code"], on_disk["signal"], on_disk["oom_killed"]) == (7, 0, False)
        await asyncio.wait_for(asyncio.shield(monitor.closed), 5)
        assert not os.listdir(made.root / "run" / "m")

    play(story)


def test_a_killed_process_has_128_and_the_signal_and_the_oom_flag_is_asked(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("exec sleep 100", plan={"oom": True})
        await monitor.signal(signal.SIGKILL)
        record = await exit_of(monitor)
        assert (record["exit_code"], record["signal"], record["oom_killed"]) == (137, 9, True)

    play(story)


def test_start_tells_a_missing_program_from_one_that_cannot_run(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        for program, error in (("/no/such", CommandNotFound), ("/etc/passwd", CannotRun)):
            monitor = await made.spawn()
            stream = await monitor.attach(stdin=False, stdout=True, stderr=True)
            await made.create(monitor, program, "x")
            with pytest.raises(error, match=program):
                await monitor.start()
            assert await read_all(stream) == b""
            await asyncio.wait_for(asyncio.shield(monitor.closed), 5)
            assert not (monitor.directory / "exit.json").exists()

    play(story)


def test_a_failing_set_up_is_told_by_ready(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        with pytest.raises(ScowError, match="root: no such mount"):
            await made.create(monitor, "true", plan={"fail": "no such mount"})

    play(story)


def test_a_start_that_comes_after_a_failed_set_up_is_told_its_cause(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        with pytest.raises(ScowError):
            await made.create(monitor, "true", plan={"fail": "no such mount"})
        await asyncio.wait_for(asyncio.shield(monitor.closed), 5)
        with pytest.raises(ScowError, match="root: no such mount"):
            await monitor.start()

    play(story)


def test_what_the_child_module_raises_is_told_and_ends_the_attempt(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        stream = await monitor.attach(stdin=True, stdout=True, stderr=True)
        with pytest.raises(ScowError, match="no cgroup"):
            await made.create(monitor, "true", plan={"raise": "no cgroup"})
        assert await read_all(stream) == b""
        await monitor.destroy()
        running = await made.run("exec sleep 9")
        await running.exec_create("e", {"args": ["/bin/true"], "raise": "no room"}, tty=False, open_stdin=False)
        with pytest.raises(ScowError, match="no room"):
            await running.exec_start("e")
        assert (await running.exec_state("e"))["exit_code"] == 126

    play(story)


def test_a_slow_client_holds_the_container_back_and_loses_nothing(play: Callable[[Story], None]) -> None:
    size = 20_000_000

    async def story(made: Lab) -> None:
        monitor, stream = await made.attached(f"head -c {size} /dev/zero; echo done >&2")
        await asyncio.sleep(0.5)
        assert (await monitor.state())["status"] == "running"  # it waits for the client
        data = await read_all(stream)
        assert len(output(data)) == size
        assert output(data, 2) == b"done\n"

    play(story)


def test_a_client_that_goes_releases_the_container_at_once(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, slow = await made.attached("head -c 20000000 /dev/zero")
        other = await monitor.attach(stdin=False, stdout=True, stderr=True)
        await asyncio.sleep(0.3)
        slow.abort()
        assert len(await read_all(other)) > 1_000_000
        assert (await exit_of(monitor))["exit_code"] == 0

    play(story)


def test_without_a_client_output_never_holds_a_container_back(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        from scow.ports.log import LogLimits

        for limits in (LogLimits(0, 0), LogLimits(1_000_000, 2)):
            monitor = await made.run("head -c 30000000 /dev/zero", limits=limits)
            assert (await exit_of(monitor))["exit_code"] == 0

    play(story)


def test_a_half_close_ends_the_input_with_stdin_once_and_only_then(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached("cat; echo end", stdin=True, open_stdin=True, stdin_once=True)
        reading = asyncio.create_task(read_all(stream))
        await stream.write(b"x" * 3_000_000)
        stream.close_stdin()
        assert output(await reading) == b"x" * 3_000_000 + b"end\n"
        monitor, stream = await made.attached("cat; echo end", stdin=True, open_stdin=True)
        await stream.write(b"abc\n")
        stream.close_stdin()
        await asyncio.sleep(0.4)
        assert (await monitor.state())["status"] == "running"
        again = await monitor.attach(stdin=True, stdout=True, stderr=True)
        await again.write(b"more\n")
        assert output(await again.read()) == b"more\n"

    play(story)


def test_with_stdin_once_the_first_client_that_goes_ends_the_input(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached("cat >/dev/null; exit 4", stdin=True, open_stdin=True, stdin_once=True)
        second = await monitor.attach(stdin=True, stdout=False, stderr=False)
        second.abort()
        await asyncio.sleep(0.4)
        assert (await monitor.state())["status"] == "running"
        stream.abort()
        assert (await exit_of(monitor))["exit_code"] == 4

    play(story)


def test_the_end_of_the_daemon_is_not_the_clients_end(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached("cat; exit 4", stdin=True, open_stdin=True, stdin_once=True)
        stream.abort()
        monitor.close()
        await asyncio.sleep(0.4)
        again = await MonitorConnection.connect(made.zygote.run_root, monitor.container_id)
        made.made.append(again)
        assert (await again.state())["status"] == "running"
        stream = await again.attach(stdin=True, stdout=True, stderr=True)
        await stream.write(b"back\n")
        assert output(await stream.read()) == b"back\n"

    play(story)


def test_input_for_a_process_that_reads_none_is_thrown_away(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached("sleep 0.5; echo out", stdin=True)
        await stream.write(b"x" * 3_000_000)
        assert output(await read_all(stream)) == b"out\n"

    play(story)


def test_a_terminal_has_its_size_from_the_start_and_can_be_resized(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        command = "stty size; trap 'stty size; exit 3' WINCH; while :; do sleep 0.05; done"
        monitor, stream = await made.attached(command, stdin=True, open_stdin=True, tty=True, size=(11, 22))
        data = b""
        while b"\n" not in data:
            data += await stream.read()
        await asyncio.sleep(0.2)
        await monitor.resize(33, 44)
        assert data + await read_all(stream) == b"11 22\r\n33 44\r\n"
        assert (await exit_of(monitor))["exit_code"] == 3

    play(story)


def test_a_terminal_echoes_and_gives_its_last_byte(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached("read x; echo got $x; echo bye", stdin=True, open_stdin=True, tty=True)
        await stream.write(b"hello\r")
        stream.close_stdin()
        assert await read_all(stream) == b"hello\r\ngot hello\r\nbye\r\n"

    play(story)


@pytest.mark.skipif(os.geteuid() != 0, reason="pidfd_getfd of a process that is not dumpable needs CAP_SYS_PTRACE")
def test_a_terminal_that_the_runtime_made_is_taken_over(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor, stream = await made.attached(
            "stty size; read x; echo got $x",
            stdin=True,
            open_stdin=True,
            tty=True,
            size=(12, 34),
            plan={"own_console": True, "setup_s": 0.1},
        )
        data = await stream.read()
        while not data.endswith(b"\n"):
            data += await stream.read()
        await stream.write(b"hello\r")
        assert data + await read_all(stream) == b"12 34\r\nhello\r\ngot hello\r\n"
        assert (await exit_of(monitor))["exit_code"] == 0

    play(story)


def test_a_background_process_that_holds_the_pipe_does_not_hold_the_exit_back(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        _monitor, stream = await made.attached("echo before; sleep 5 & exit 0")
        assert output(await read_all(stream)) == b"before\n"
        assert loop.time() - begin < 3

    play(story)


def test_a_monitor_outlives_the_daemons_connection_and_a_killed_zygote(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("read x; exit 9", open_stdin=True)
        os.kill(made.zygote.pid, signal.SIGKILL)
        assert (await exit_of(await made.run("exit 3")))["exit_code"] == 3  # whether its death is noticed yet or not
        monitor.close()
        await asyncio.sleep(0.1)
        again = await MonitorConnection.connect(made.zygote.run_root, monitor.container_id)
        assert again.pid == monitor.pid
        stream = await again.attach(stdin=True, stdout=True, stderr=True)
        await stream.write(b"\n")
        assert (await exit_of(again))["exit_code"] == 9
        assert (await exit_of(await made.run("exit 2")))["exit_code"] == 2  # from a new zygote

    play(story)


def test_several_connections_hear_of_the_exit(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("sleep 0.3")
        others = [await MonitorConnection.connect(made.zygote.run_root, monitor.container_id) for _ in range(3)]
        for connection in (monitor, *others):
            assert (await exit_of(connection))["exit_code"] == 0

    play(story)


def test_a_lost_monitor_is_an_exit_with_137(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        ended = asyncio.get_running_loop().create_future()
        made.zygote.on_monitor_exit = lambda pid, status: ended.set_result((pid, status))
        monitor = await made.run("exec sleep 100")
        child = (await monitor.state())["pid"]
        os.kill(monitor.pid, signal.SIGKILL)
        record = await exit_of(monitor)
        os.kill(child, signal.SIGKILL)
        assert (record["exit_code"], record["reason"]) == (137, "monitor lost")
        assert await ended == (monitor.pid, -9)
        with pytest.raises(Unavailable):
            await monitor.state()
        with pytest.raises(OSError):
            await MonitorConnection.connect(made.zygote.run_root, monitor.container_id)

    play(story)


def test_a_monitor_that_was_asked_for_nothing_ends_with_its_connection(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        ended = asyncio.get_running_loop().create_future()
        made.zygote.on_monitor_exit = lambda pid, status: ended.set_result((pid, status))
        monitor = await made.spawn()
        made.made.remove(monitor)
        monitor.close()
        assert await asyncio.wait_for(ended, 5) == (monitor.pid, 0)

    play(story)


def test_signals_of_the_monitor_are_not_inherited_by_the_container(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        _monitor, stream = await made.attached("grep -E 'Sig(Blk|Ign)' /proc/self/status")
        lines = output(await read_all(stream)).split()
        assert lines[1::2] == [b"0" * 16] * 2

    play(story)


def test_a_running_container_cannot_be_cancelled_or_created_again(play: Callable[[Story], None]) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.run("sleep 5")
        with pytest.raises(Conflict):
            await monitor.request("cancel")
        with pytest.raises(Conflict):
            await made.create(monitor, "true")
        with pytest.raises(Conflict):
            await monitor.start()

    play(story)


def test_a_zygote_that_cannot_import_its_modules_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(Unavailable, match="scow.no_such_child"):
            await Zygote.start(tmp_path, [CHILD, "scow.no_such_child"])

    asyncio.run(story())
