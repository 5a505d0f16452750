"""The body of ``scow update``: docker's flags, and those for disks that docker's own client lacks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scow.cli.main import root
from tests.unit.cli_server import Reply, serve


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("-m 64m --memory-swap -1 --pids-limit 0", {"Memory": 64 << 20, "MemorySwap": -1, "PidsLimit": 0}),
        ("--cpus 1.5 --cpuset-cpus 0", {"NanoCpus": 1_500_000_000, "CpusetCpus": "0"}),
        ("--cpu-rt-period 1000 --cpu-rt-runtime 500", {"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 500}),
        ("--device-write-bps /dev/sda:1mb", {"BlkioDeviceWriteBps": [{"Path": "/dev/sda", "Rate": 1 << 20}]}),
        ("--device-read-iops /dev/sda:0", {"BlkioDeviceReadIOps": [{"Path": "/dev/sda", "Rate": 0}]}),
        ("--blkio-weight-device /dev/sda:200", {"BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 200}]}),
        ("--restart on-failure:3", {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
    ],
)
def test_only_what_is_given_is_sent(tmp_path: Path, line: str, body: dict[str, Any]) -> None:
    with serve(tmp_path / "s") as engine:
        engine.on("POST", "/containers/web/update", Reply(200, {"Warnings": ["look out"]}))
        result = CliRunner().invoke(root, ["-H", engine.host, "update", *shlex.split(line), "web"])
        assert (result.exit_code, result.stdout) == (0, "web\n")
        assert "look out" in result.stderr
        (request,) = engine.sent("POST", "/containers/web/update")
        assert request.json == body


def test_an_update_of_nothing_is_refused(tmp_path: Path) -> None:
    with serve(tmp_path / "s") as engine:
        result = CliRunner().invoke(root, ["-H", engine.host, "update", "web"])
        assert result.exit_code != 0 and "you must provide one or more flags" in str(result.exception)
