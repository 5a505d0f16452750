"""Figures of zygote, monitor and log reader, without a container runtime: ``python tests/benchmarks/monitor_bench.py``.

Prints spawn and round-trip latency, MiB/s of detached output into the log and of attached output to a client, MiB/s of
the log read back in frames, and the memory (PSS) of idle monitors. Needs about 1 GB in /dev/shm for some seconds.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from scow.engine.monitor_connection import MonitorConnection
from scow.engine.zygote import Zygote
from scow.ports import DriverContext
from scow.ports.log import LogLimits, LogQuery
from scow_log_local import LocalLog

CHILD = "scow.testing.fake_child"
MIB = 1 << 20
OUTPUT_MIB = 512
LIMITS = LogLimits(20_000_000, 5)


async def run(zygote: Zygote, root: Path, number: int, args: list[str]) -> tuple[MonitorConnection, Path]:
    """A started container; its connection and directory."""
    directory = root / f"c{number}"
    directory.mkdir()
    monitor = await zygote.spawn(f"{number:012d}" + "0" * 52, directory, CHILD)
    await monitor.create(
        {"args": args}, tty=False, open_stdin=False, stdin_once=False, log_directory=directory / "log", limits=LIMITS
    )
    await monitor.ready()
    await monitor.start()
    return monitor, directory


async def latency(zygote: Zygote, root: Path) -> None:
    """Spawn alone, and spawn to exit of /bin/true."""
    spawn, whole = [], []
    for number in range(100, 160):
        directory = root / f"c{number}"
        directory.mkdir()
        begin = time.perf_counter()
        monitor = await zygote.spawn(f"{number:012d}" + "0" * 52, directory, CHILD)
        spawn.append(time.perf_counter() - begin)
        ended = asyncio.get_running_loop().create_future()
        monitor.on_exit = ended.set_result
        await monitor.create(
            {"args": ["/bin/true"]},
            tty=False,
            open_stdin=False,
            stdin_once=False,
            log_directory=directory / "log",
            limits=LIMITS,
        )
        await monitor.ready()
        await monitor.start()
        await ended
        whole.append(time.perf_counter() - begin)
        await monitor.closed
    print(f"spawn                       {statistics.median(spawn) * 1000:7.2f} ms median, {max(spawn) * 1000:.2f} max")
    print(f"spawn+create+start+exit     {statistics.median(whole) * 1000:7.2f} ms median, {max(whole) * 1000:.2f} max")


async def throughput(zygote: Zygote, root: Path, lines: Path) -> None:
    """Detached, and attached as well."""
    size = lines.stat().st_size / MIB
    begin = time.perf_counter()
    monitor, directory = await run(zygote, root, 1, ["/bin/cat", str(lines)])
    await monitor.closed
    print(f"detached, 100-byte lines    {size / (time.perf_counter() - begin):7.0f} MiB/s into {LIMITS}")
    for query, name in ((LogQuery(), "framed"), (LogQuery(timestamps=True), "framed, timestamps")):
        reader = LocalLog(DriverContext("local", root, root)).open(directory / "log", query)
        given = 0
        begin = time.perf_counter()
        while block := reader.read(512 << 10):
            given += len(block)
        reader.close()
        print(f"log read {name:18} {given / MIB / (time.perf_counter() - begin):7.0f} MiB/s")
    directory = root / "c2"
    directory.mkdir()
    monitor = await zygote.spawn(f"{2:012d}" + "0" * 52, directory, CHILD)
    stream = await monitor.attach(stdin=False, stdout=True, stderr=True)
    await monitor.create(
        {"args": ["/bin/cat", str(lines)]},
        tty=False,
        open_stdin=False,
        stdin_once=False,
        log_directory=directory / "log",
        limits=LIMITS,
    )
    await monitor.ready()
    begin = time.perf_counter()
    await monitor.start()
    given = 0
    while block := await stream.read():
        given += len(block)
    print(f"attached and logged         {given / MIB / (time.perf_counter() - begin):7.0f} MiB/s to the client")
    await monitor.closed


async def memory(zygote: Zygote, root: Path, count: int = 50) -> None:
    """PSS of idle monitors with a running container each."""
    monitors = [(await run(zygote, root, 1000 + n, ["/bin/sleep", "1000"]))[0] for n in range(count)]
    await asyncio.sleep(0.5)
    sizes = [pss(monitor.pid) for monitor in monitors]
    print(f"PSS of {count} idle monitors    {statistics.mean(sizes) / 1024:7.2f} MiB each; zygote {pss(zygote.pid)} kB")
    for monitor in monitors:
        await monitor.destroy()


def pss(pid: int) -> int:
    """kB (smaps_rollup, proc(5)); needs the right to trace the process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("Pss:")[1].split()[0])


async def main() -> None:
    """Everything, in a temporary root in memory."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="scow-bench-"))
    lines = root / "lines"
    with lines.open("wb") as file:
        line = b"x" * 99 + b"\n"
        for _ in range(OUTPUT_MIB):
            file.write(line * (MIB // 100))
    zygote = await Zygote.start(root, [CHILD])
    try:
        print(f"interpreter                 {os.readlink(f'/proc/{zygote.pid}/exe')}")
        await latency(zygote, root)
        await throughput(zygote, root, lines)
        await memory(zygote, root)
    finally:
        await zygote.close()
        shutil.rmtree(root)


if __name__ == "__main__":
    asyncio.run(main())
