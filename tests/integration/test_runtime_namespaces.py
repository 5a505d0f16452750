"""Namespaces of the native runtime beyond Docker's: time, and those that are joined by path."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.testing.runtime import BUSYBOX, Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]
needs_time = pytest.mark.skipif(
    not os.path.exists("/proc/self/timens_offsets"), reason="this kernel has no time namespaces (CONFIG_TIME_NS)"
)
DAY_S = 86_400


def namespace(kind: str, path: str = "", **linux: Any) -> Callable[[dict[str, Any]], None]:
    """The namespace of *kind* is the one at *path*, or a new one; the rest of ``linux`` gets *linux* too."""

    def change(spec: dict[str, Any]) -> None:
        kinds = spec["linux"]["namespaces"]
        spec["linux"]["namespaces"] = [entry for entry in kinds if entry["type"] != kind]
        spec["linux"]["namespaces"].append({"type": kind, **({"path": path} if path else {})})
        spec["linux"].update(linux)

    return change


def uptime_s(text: str) -> float:
    return float(text.split()[0])


@needs_time
def test_a_time_namespace_has_the_offsets_that_the_spec_says(lab: Lab) -> None:
    own = os.readlink("/proc/self/ns/time")
    offsets = {"monotonic": {"secs": 2 * DAY_S}, "boottime": {"secs": DAY_S, "nanosecs": 500_000_000}}
    output = lab.sh("cat /proc/uptime; readlink /proc/self/ns/time", change=namespace("time", timeOffsets=offsets))
    assert 0 <= uptime_s(output) - DAY_S - 0.5 - uptime_s(Path("/proc/uptime").read_text()) + 60 < 120
    assert output.split()[-1] != own and os.readlink("/proc/self/ns/time") == own
    assert abs(time.clock_gettime(time.CLOCK_BOOTTIME) - uptime_s(Path("/proc/uptime").read_text())) < 60


@needs_time
def test_a_time_namespace_without_offsets_is_new_all_the_same(lab: Lab) -> None:
    assert lab.sh("readlink /proc/self/ns/time", change=namespace("time")).strip() != os.readlink("/proc/self/ns/time")


@needs_time
def test_an_exec_has_the_containers_clocks(lab: Lab) -> None:
    running = lab.up(change=namespace("time", timeOffsets={"boottime": {"secs": DAY_S}}))
    inside = running.exec("sh", "-c", "readlink /proc/1/ns/time; readlink /proc/self/ns/time; cat /proc/uptime")
    init, own, uptime = inside["output"].split()[:3]
    assert init == own and float(uptime) > DAY_S


@needs_time
def test_a_time_namespace_can_be_joined(lab: Lab) -> None:
    first = lab.up(change=namespace("time", timeOffsets={"boottime": {"secs": DAY_S}}))
    output = lab.sh(
        "readlink /proc/self/ns/time; cat /proc/uptime", change=namespace("time", f"/proc/{first.pid}/ns/time")
    )
    assert output.split()[0] == os.readlink(f"/proc/{first.pid}/ns/time") and float(output.split()[1]) > DAY_S


@needs_time
def test_an_offset_that_the_kernel_refuses_is_explained(lab: Lab) -> None:
    failure = lab.refused("true", change=namespace("time", timeOffsets={"monotonic": {"secs": -(10**9)}}))
    assert "cannot set the clocks' offsets (monotonic -1000000000 0)" in failure["error"]
