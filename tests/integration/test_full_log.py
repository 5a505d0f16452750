"""A log on a filesystem that is full: the container goes on, the gap is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.monitor import segments as seg
from scow.ports.log import LogLimits, LogQuery
from scow_log_local.reader import SegmentReader

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from tests.unit.monitor_lab import exit_of, lab  # noqa: E402

pytestmark = pytest.mark.root


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 256 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize(
    "command", ["head -c 3000000 /dev/zero", "i=0; while [ $i -lt 60000 ]; do echo $i; i=$((i+1)); done"]
)
def test_a_full_filesystem_neither_blocks_nor_kills_and_the_gap_is_told(
    tmp_path: Path, small: Path, command: str
) -> None:
    filler = small / "filler"

    async def story() -> None:
        async with lab(tmp_path) as made:
            filler.write_bytes(b"x" * 180_000)
            monitor = await made.spawn()
            plan = {"args": ["/bin/sh", "-c", f"{command}; read go; sleep 0.2; echo after"]}
            await monitor.create(
                plan,
                tty=False,
                open_stdin=True,
                stdin_once=False,
                log_directory=small / "log",
                limits=LogLimits(10_000_000, 2),
            )
            await monitor.ready()
            await monitor.start()
            stream = await monitor.attach(stdin=True, stdout=False, stderr=False)
            for _ in range(200):
                if (await monitor.state())["log_bytes_lost"]:
                    break
                await asyncio.sleep(0.05)
            else:
                pytest.fail("no byte was lost")
            await asyncio.sleep(1)
            os.unlink(filler)
            await stream.write(b"go\n")
            assert (await exit_of(monitor))["exit_code"] == 0

    asyncio.run(story())
    reader = SegmentReader(small / "log", LogQuery(framed=False))
    reader.finish()
    data = b""
    while block := reader.read(1 << 16):
        data += block
    reader.close()
    assert b"bytes of output are missing here" in data
    assert data.endswith(b"after\n")
    assert seg.segment_numbers(small / "log") == [1]
