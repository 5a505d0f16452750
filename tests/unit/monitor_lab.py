"""A zygote with the fake child module in a temporary run root, for tests of monitors without root."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from scow.engine.attach_stream import AttachStream
from scow.engine.monitor_connection import MonitorConnection
from scow.engine.zygote import Zygote
from scow.ports.log import LogLimits

CHILD = "scow.testing.fake_child"
LIMITS = LogLimits(1_000_000, 5)
_IDS = itertools.count(1)


class Lab:
    """Makes containers of the child module *module*; all are gone when the lab is closed."""

    def __init__(self, root: Path, zygote: Zygote, module: str) -> None:
        self.root = root
        self.zygote = zygote
        self.module = module
        self.made: list[MonitorConnection] = []

    async def spawn(self) -> MonitorConnection:
        """A monitor without a process."""
        container_id = f"{next(_IDS):012d}" + "f" * 52
        directory = self.root / container_id
        directory.mkdir()
        monitor = await self.zygote.spawn(container_id, directory, self.module)
        self.made.append(monitor)
        return monitor

    async def create(self, monitor: MonitorConnection, *args: str, limits: LogLimits = LIMITS, **options: Any) -> None:
        """Its process, set up: a shell command, or a program and its arguments."""
        plan = {"args": list(args) if len(args) > 1 else ["/bin/sh", "-c", args[0]], **options.pop("plan", {})}
        flags = {"tty": False, "open_stdin": False, "stdin_once": False, **options}
        await monitor.create(plan, log_directory=monitor.directory / "log", limits=limits, **flags)
        await monitor.ready()

    async def run(self, command: str, **options: Any) -> MonitorConnection:
        """A started container."""
        monitor = await self.spawn()
        await self.create(monitor, command, **options)
        await monitor.start()
        return monitor

    async def attached(
        self, command: str, *, stdin: bool = False, **options: Any
    ) -> tuple[MonitorConnection, AttachStream]:
        """A started container, attached to before."""
        monitor = await self.spawn()
        stream = await monitor.attach(stdin=stdin, stdout=True, stderr=True)
        await self.create(monitor, command, **options)
        await monitor.start()
        return monitor, stream


@asynccontextmanager
async def lab(root: Path, module: str = CHILD) -> AsyncIterator[Lab]:
    """A lab below *root*."""
    zygote = await Zygote.start(root / "run", [module])
    made = Lab(root, zygote, module)
    try:
        yield made
    finally:
        for monitor in made.made:
            await monitor.destroy()
        await zygote.close()
        await asyncio.sleep(0)
        said = (root / "run" / "monitor.log").read_text()
        assert "Traceback" not in said, said


async def read_all(stream: AttachStream) -> bytes:
    """Everything until the end."""
    parts = []
    while data := await stream.read():
        parts.append(data)
    return b"".join(parts)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Docker's frames in *data*."""
    found = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def output(data: bytes, stream: int = 1) -> bytes:
    """What frames of one stream hold."""
    return b"".join(payload for number, payload in frames(data) if number == stream)


async def exit_of(monitor: MonitorConnection) -> dict[str, Any]:
    """The exit record, when the monitor has told it."""
    if monitor.exit is None:
        told = asyncio.get_running_loop().create_future()
        monitor.on_exit = lambda record: None if told.done() else told.set_result(record)
        await asyncio.wait_for(told, 20)
    assert monitor.exit is not None
    return monitor.exit
