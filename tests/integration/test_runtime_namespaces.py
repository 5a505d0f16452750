"""Namespaces of the native runtime beyond Docker's: time, and those that are joined by path."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
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


# ---------------------------------------------------------------- joined by path


def test_namespaces_of_every_kind_can_be_joined_by_path(lab: Lab) -> None:
    first = lab.up()
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "pid": "pid"}

    def change(spec: dict[str, Any]) -> None:
        spec["hostname"] = spec["domainname"] = ""
        spec["linux"]["namespaces"] = [{"type": "mount"}] + [
            {"type": kind, "path": f"/proc/{first.pid}/ns/{name}"} for kind, name in kinds.items()
        ]

    second = lab.up(change=change)
    for name in kinds.values():
        assert os.readlink(f"/proc/{second.pid}/ns/{name}") == os.readlink(f"/proc/{first.pid}/ns/{name}"), name
    assert os.readlink(f"/proc/{second.pid}/ns/mnt") != os.readlink(f"/proc/{first.pid}/ns/mnt")


def test_a_joined_uts_namespace_gets_the_host_name_of_the_spec(lab: Lab) -> None:
    first = lab.up()

    def change(spec: dict[str, Any]) -> None:
        namespace("uts", f"/proc/{first.pid}/ns/uts")(spec)
        spec.update(hostname="both", domainname="")

    assert lab.sh("hostname", change=change) == "both\n"
    assert first.exec("hostname")["output"] == "both\n"


def test_a_namespace_of_another_kind_than_the_spec_says_is_refused(lab: Lab) -> None:
    failure = lab.refused("true", change=namespace("network", "/proc/self/ns/ipc", sysctl={}))
    assert "/proc/self/ns/ipc is no namespace of the kind that the spec says" in failure["error"]


def test_a_namespace_that_is_not_there_is_named(lab: Lab) -> None:
    failure = lab.refused("true", change=namespace("network", "/run/netns/none", sysctl={}))
    assert (failure["stage"], failure["error"]) == ("namespaces", "/run/netns/none: no such file or directory")


@pytest.fixture
def other_mounts(tmp_path: Path) -> Iterator[str]:
    """The path of a mount namespace in which ``<tmp_path>/only`` is a mount that nobody else has."""
    (tmp_path / "only").mkdir()
    script = f"mount -t tmpfs only {tmp_path}/only && touch {tmp_path}/only/file && echo ready && exec sleep 600"
    holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    yield f"/proc/{holder.pid}/ns/mnt"
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_a_mount_namespace_that_is_joined_is_the_containers_and_keeps_its_own_root(
    lab: Lab, other_mounts: str, tmp_path: Path
) -> None:
    def change(spec: dict[str, Any]) -> None:
        namespace("mount", other_mounts)(spec)
        spec["mounts"].append({"destination": "/seen", "source": f"{tmp_path}/only", "options": ["bind"]})

    running = lab.up(change=change)
    assert os.readlink(f"/proc/{running.pid}/ns/mnt") == os.readlink(other_mounts)
    assert running.exec("sh", "-c", "ls /seen; ls / | grep -c seen")["output"] == "file\n1\n"
    assert os.readlink(f"/proc/{running.pid}/root") == f"{lab.directory}/{running.id[:12]}/rootfs"
    assert not os.path.exists(tmp_path / "only/file")
