"""OCI hooks of the runtime's namespaces, run by the monitor of a fake runtime: when, with what, and how they fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scow.engine.monitor_connection import MonitorConnection
from scow.errors import ScowError
from tests.unit.monitor_lab import LIMITS, Lab, exit_of, lab

Story = Callable[[Lab], Awaitable[None]]
STATE = {"ociVersion": "1.2.0", "id": "c" * 64, "bundle": "/b", "annotations": {}}


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story in a lab."""

    async def told(story: Story) -> None:
        async with lab(tmp_path) as made:
            await asyncio.wait_for(story(made), 60)

    return lambda story: asyncio.run(told(story))


def shell(script: str, timeout: float = 0) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": timeout}


def plan(**hooks: Any) -> dict[str, Any]:
    return {
        "hooks": {kind: given if isinstance(given, list) else [given] for kind, given in hooks.items()},
        "state": STATE,
    }


async def create(made: Lab, command: str = "sleep 60", **hooks: Any) -> MonitorConnection:
    monitor = await made.spawn()
    await made.create(monitor, command, plan=plan(**hooks))
    return monitor


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_each_hook_runs_at_its_moment_with_the_state_of_it(play: Callable[[Story], None], tmp_path: Path) -> None:
    def note(name: str) -> dict[str, Any]:
        return shell(f"echo {name} >> {tmp_path}/order; cat > {tmp_path}/{name}")

    async def story(made: Lab) -> None:
        kinds = ("prestart", "createRuntime", "poststart", "poststop")
        monitor = await create(
            made, f"echo program >> {tmp_path}/order; sleep 60", **{kind: note(kind) for kind in kinds}
        )
        assert (tmp_path / "order").read_text().split() == ["prestart", "createRuntime"]
        pid = (await monitor.state())["pid"]
        await monitor.start()
        assert "poststart" in (tmp_path / "order").read_text().split()
        await until(lambda: "program" in (tmp_path / "order").read_text())
        await monitor.signal(signal.SIGKILL)
        await exit_of(monitor)
        order = (tmp_path / "order").read_text().split()
        assert order[-1] == "poststop" and len(order) == 5
        states = {kind: json.loads((tmp_path / kind).read_text()) for kind in kinds}
        assert [states[kind]["status"] for kind in kinds] == ["creating", "creating", "running", "stopped"]
        assert [states[kind].get("pid") for kind in kinds] == [pid, pid, pid, None]

    play(story)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_a_failed_hook_ends_the_container_before_its_program(
    play: Callable[[Story], None], tmp_path: Path, kind: str
) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        hooks = {kind: shell("echo no route >&2; exit 4"), "poststop": shell(f"touch {tmp_path}/stopped")}
        with pytest.raises(ScowError, match=rf"error running {kind} hook #0 \(/bin/sh\): exit status 4: no route"):
            await made.create(monitor, f"touch {tmp_path}/ran", plan=plan(**hooks))
        with pytest.raises(ScowError, match="exit status 4"):
            await monitor.start()
        await asyncio.wait_for(asyncio.shield(monitor.closed), 10)
        assert (tmp_path / "stopped").exists() and not (tmp_path / "ran").exists()
        assert not (monitor.directory / "exit.json").exists() and not os.listdir(made.root / "run" / "m")

    play(story)


def test_a_start_that_is_asked_for_while_hooks_run_waits_for_them(
    play: Callable[[Story], None], tmp_path: Path
) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        hooks = plan(createRuntime=shell(f"while ! test -e {tmp_path}/go; do sleep 0.02; done"))
        args = {"args": ["/bin/sh", "-c", f"touch {tmp_path}/ran; sleep 60"], **hooks}
        await monitor.create(args, log_directory=monitor.directory / "log", tty=False, open_stdin=False,
                             stdin_once=False, limits=LIMITS)  # fmt: skip
        started = asyncio.ensure_future(monitor.start())
        await asyncio.sleep(0.2)
        assert not started.done() and not (tmp_path / "ran").exists()
        assert (await monitor.state())["status"] == "created"
        (tmp_path / "go").touch()
        await asyncio.wait_for(started, 20)
        await until(lambda: (tmp_path / "ran").exists())

    play(story)


def test_a_container_that_is_given_up_while_a_hook_hangs_takes_the_hook_along(
    play: Callable[[Story], None], tmp_path: Path
) -> None:
    async def story(made: Lab) -> None:
        monitor = await made.spawn()
        args = {"args": ["/bin/true"], **plan(createRuntime=shell(f"echo $$ > {tmp_path}/pid; sleep 60 & wait"))}
        await monitor.create(args, log_directory=monitor.directory / "log", tty=False, open_stdin=False,
                             stdin_once=False, limits=LIMITS)  # fmt: skip
        await until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip()))
        hook = int((tmp_path / "pid").read_text())
        await monitor.destroy()
        assert monitor.closed.done()
        await until(lambda: _gone(hook))

    play(story)


def _gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_failed_poststart_hook_stops_the_container_and_fails_the_start(
    play: Callable[[Story], None], tmp_path: Path
) -> None:
    async def story(made: Lab) -> None:
        hooks = {"poststart": shell("echo refused >&2; exit 5"), "poststop": shell(f"touch {tmp_path}/stopped")}
        monitor = await create(made, "sleep 60", **hooks)
        pid = (await monitor.state())["pid"]
        with pytest.raises(ScowError, match="error running poststart hook #0 .* exit status 5: refused"):
            await monitor.start()
        await asyncio.wait_for(asyncio.shield(monitor.closed), 10)
        assert _gone(pid) and (tmp_path / "stopped").exists()

    play(story)


def test_a_program_that_ends_before_its_poststart_hooks_do_has_started_and_ended(
    play: Callable[[Story], None],
) -> None:
    async def story(made: Lab) -> None:
        monitor = await create(made, "exit 7", poststart=shell("sleep 0.3"))
        await monitor.start()
        assert (await exit_of(monitor))["exit_code"] == 7

    play(story)


def test_a_failed_poststop_hook_is_logged_and_changes_nothing(play: Callable[[Story], None], tmp_path: Path) -> None:
    async def story(made: Lab) -> None:
        hooks = [shell("echo stuck >&2; exit 6"), shell(f"touch {tmp_path}/ran")]
        monitor = await create(made, "exit 3", poststop=hooks)
        await monitor.start()
        assert (await exit_of(monitor))["exit_code"] == 3 and (tmp_path / "ran").exists()
        said = (made.root / "run" / "monitor.log").read_text()
        assert "container cccccccccccc: error running poststop hook #0 (/bin/sh): exit status 6: stuck" in said

    play(story)


def test_the_exit_record_does_not_wait_for_a_poststop_hook(play: Callable[[Story], None], tmp_path: Path) -> None:
    async def story(made: Lab) -> None:
        monitor = await create(made, "exit 3", poststop=shell(f"while ! test -e {tmp_path}/go; do sleep 0.02; done"))
        await monitor.start()
        await until(lambda: (monitor.directory / "exit.json").exists())
        assert monitor.exit is None
        (tmp_path / "go").touch()
        assert (await exit_of(monitor))["exit_code"] == 3

    play(story)
