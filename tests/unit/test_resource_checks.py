"""Limits that a host does not offer, and what an update tells a running container."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scow.engine import host_limits, spec
from scow.engine.host_limits import HostLimits
from scow.engine.update import changed
from scow.errors import Conflict, InvalidArgument
from scow.types import ContainerConfig, HostConfig, Resources, ThrottleDevice, WeightDevice

MB = 1 << 20
ALL = HostLimits()
DISK, OTHER = "/dev/null", "/dev/zero"  # any device numbers do
ABSENT = "or the cgroup is not mounted"


def rates(path: str, rate: int) -> list[ThrottleDevice]:
    return [ThrottleDevice(path=path, rate=rate)]


@pytest.mark.parametrize(
    ("missing", "asked", "left", "warning"),
    [
        ("memory", {"memory": 64 * MB}, {"memory": 0}, f"memory limit capabilities {ABSENT}. Limitation"),
        ("swap", {"memory": 64 * MB, "memory_swap": 128 * MB}, {"memory": 64 * MB, "memory_swap": -1},
         f"swap limit capabilities {ABSENT}. Memory limited without swap."),
        ("swappiness", {"memory_swappiness": 5}, {"memory_swappiness": None},
         f"memory swappiness capabilities {ABSENT}. Memory swappiness"),
        ("reservation", {"memory_reservation": 8 * MB}, {"memory_reservation": 0},
         f"memory soft limit capabilities {ABSENT}. Limitation"),
        ("pids", {"pids_limit": 5}, {"pids_limit": None}, f"PIDs limit capabilities {ABSENT}. PIDs limit"),
        ("cpu_shares", {"cpu_shares": 5}, {"cpu_shares": 0}, f"CPU shares {ABSENT}. Shares"),
        ("cpu_quota", {"cpu_quota": 5000}, {"cpu_quota": 0}, "CPU CFS scheduler. CPU period/quota"),
        ("cpuset", {"cpuset_cpus": "0"}, {"cpuset_cpus": ""}, f"cpuset {ABSENT}. Cpuset"),
        ("io_weight", {"blkio_weight": 50}, {"blkio_weight": 0}, f"Block I/O weight {ABSENT}. Weight"),
        ("io_weight_device", {"blkio_weight_device": [WeightDevice(path=DISK, weight=50)]},
         {"blkio_weight_device": []}, f"Block I/O weight_device {ABSENT}. Weight-device"),
        ("io_rates", {"blkio_device_read_bps": rates(DISK, 1)}, {"blkio_device_read_bps": []},
         f"BPS Block I/O read limit {ABSENT}. Block I/O BPS read limit"),
        ("io_rates", {"blkio_device_write_iops": rates(DISK, 1)}, {"blkio_device_write_iops": []},
         f"IOPS Block write limit {ABSENT}. Block I/O IOPS write limit"),
    ],
)  # fmt: skip
def test_what_the_host_does_not_offer_is_discarded_with_dockers_warning(
    missing: str, asked: dict[str, Any], left: dict[str, Any], warning: str
) -> None:
    host = HostConfig(**asked)
    assert spec.validate(ContainerConfig(), host, replace(ALL, **{missing: False})) == [
        f"Your kernel does not support {warning.removesuffix('.')}{'' if warning.endswith('swap.') else ' discarded'}."
    ]
    assert {name: getattr(host, name) for name in left} == left
    untouched = HostConfig(**asked)
    assert spec.validate(ContainerConfig(), untouched, ALL) == []


def test_the_oom_killer_of_version_2_stays_on_with_a_warning() -> None:
    host = HostConfig(oom_kill_disable=True)
    warnings = spec.validate(ContainerConfig(), host, replace(ALL, oom_kill_disable=False))
    assert warnings == ["Your kernel does not support OomKillDisable. OomKillDisable discarded."]
    assert host.oom_kill_disable is None


def test_the_kernel_memory_limit_is_discarded_everywhere() -> None:
    host = HostConfig(kernel_memory=64 * MB)
    (warning,) = spec.validate(ContainerConfig(), host, ALL)
    assert "kernel memory limit capabilities" in warning and host.kernel_memory == 0


@pytest.mark.parametrize(
    ("host", "missing", "message"),
    [
        ({"nano_cpus": 10**9}, "cpu_quota", "NanoCPUs can not be set, as your kernel does not support CPU CFS"),
        ({"cpu_realtime_runtime": 5}, "cpu_realtime", "Your kernel does not support CPU real-time scheduler"),
        ({"cpu_realtime_runtime": 9, "cpu_realtime_period": 5}, "", "cannot be higher than CPU real-time period"),
        ({"cpu_shares": -1}, "", "shares: invalid argument"),
        ({"cpuset_cpus": "0-99999"}, "", "maximum is 8192"),
        ({"blkio_device_read_bps": rates(DISK, -1)}, "", "invalid rate for device /dev/null: -1 is negative"),
        ({"blkio_weight_device": [WeightDevice(path=DISK, weight=5)]}, "", "Range of blkio weight"),
        ({"memory_swap": -5}, "", "Invalid value -5 for the memoryswap limit"),
    ],
)
def test_what_cannot_be_done_without_is_refused(host: dict[str, Any], missing: str, message: str) -> None:
    limits = replace(ALL, **{missing: False}) if missing else ALL
    with pytest.raises(InvalidArgument) as caught:
        spec.validate(ContainerConfig(), HostConfig(**host), limits)
    assert message in str(caught.value)


# ---------------------------------------------------------------------------
# what the host offers
# ---------------------------------------------------------------------------


def mounts(root: Path, **files: list[str]) -> str:
    """A version 1 hierarchy for each controller with these files in its root."""
    lines = []
    for number, (controller, names) in enumerate(files.items()):
        (root / controller).mkdir()
        for name in names:
            (root / controller / name).touch()
        lines.append(f"{30 + number} 31 0:{number} / {root}/{controller} rw - cgroup cgroup rw,{controller}")
    return "\n".join(lines)


def test_version_1_offers_what_has_a_file(tmp_path: Path) -> None:
    text = mounts(
        tmp_path,
        memory=["memory.limit_in_bytes", "memory.oom_control"],
        cpu=["cpu.shares"],
        blkio=["blkio.bfq.io_serviced"],
    )
    assert host_limits.detect(text) == HostLimits(
        swap=False, reservation=False, swappiness=False, pids=False, cpu_quota=False, cpu_realtime=False, cpuset=False,
        io_rates=False,
    )  # fmt: skip


def test_version_2_offers_its_controllers_and_no_version_1_only_limit(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    group = tmp_path / "system.slice"
    group.mkdir()
    (group / "memory.max").touch()
    text = f"30 31 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw"
    found = host_limits.detect(text)
    assert found.unified and found.memory and found.cpu_quota and found.io_rates
    assert not (found.swap or found.swappiness or found.oom_kill_disable or found.pids or found.cpu_realtime)
    (group / "memory.swap.max").touch()
    assert host_limits.detect(text).swap


def test_a_host_without_control_groups_offers_nothing() -> None:
    found = host_limits.detect("23 1 0:20 / /proc rw - proc proc rw")
    assert not (found.memory or found.cpu_shares or found.pids or found.io_rates)


# ---------------------------------------------------------------------------
# update
# ---------------------------------------------------------------------------


def told(has: HostConfig, **given: Any) -> dict[str, Any]:
    return spec.changed_limits(has, changed(has, Resources(**given)))


def test_an_update_tells_the_kernel_what_changes_and_what_belongs_to_it() -> None:
    has = HostConfig(memory=64 * MB, memory_swap=128 * MB, cpu_shares=5, cpu_period=9000, pids_limit=7, cpuset_cpus="0")
    assert told(has, memory=32 * MB) == {"memory": {"limit": 32 * MB, "swap": 128 * MB}}
    assert told(has, cpu_quota=5000) == {"cpu": {"quota": 5000, "period": 9000}}
    assert told(has, cpu_shares=5) == {}
    assert told(has, pids_limit=0) == {"pids": {"limit": -1}}
    assert told(has, memory_swap=-1) == {"memory": {"limit": 64 * MB, "swap": -1}}
    assert told(HostConfig(oom_kill_disable=True), oom_kill_disable=False) == {"memory": {"disableOOMKiller": False}}


def test_a_first_memory_limit_comes_with_as_much_swap() -> None:
    assert told(HostConfig(), memory=64 * MB) == {"memory": {"limit": 64 * MB, "swap": 128 * MB}}
    assert changed(HostConfig(), Resources(memory=64 * MB)).memory_swap == 128 * MB


def test_disks_that_are_not_named_keep_their_rates_and_zero_takes_one_away() -> None:
    has = HostConfig(blkio_device_write_bps=[*rates(DISK, 5), *rates(OTHER, 6)], blkio_weight=20)
    after = changed(has, Resources(blkio_device_write_bps=rates(DISK, 0), blkio_weight=30))
    assert [(item.path, item.rate) for item in after.blkio_device_write_bps] == [(OTHER, 6)]
    assert spec.changed_limits(has, after) == {
        "blockIO": {"weight": 30, "throttleWriteBpsDevice": [{"major": 1, "minor": 3, "rate": 0}]}
    }
    weighted = HostConfig(blkio_weight_device=[WeightDevice(path=DISK, weight=50)])
    assert told(weighted, blkio_weight_device=[WeightDevice(path=DISK, weight=0)]) == {
        "blockIO": {"weightDevice": [{"major": 1, "minor": 3, "weight": 0}]}
    }


def test_what_is_no_limit_is_not_changed_by_an_update() -> None:
    after = changed(HostConfig(cgroup_parent="/a"), Resources(cgroup_parent="/b", cpu_shares=7))
    assert after.cgroup_parent == "/a" and after.cpu_shares == 7


@pytest.mark.parametrize(
    ("has", "given", "message"),
    [
        ({"cpu_period": 9000}, {"nano_cpus": 10**9}, "Nano CPUs cannot be updated as CPU Period has already been set"),
        ({"cpu_quota": 9000}, {"nano_cpus": 10**9}, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ({"nano_cpus": 10**9}, {"cpu_period": 9000}, "CPU Period cannot be updated as NanoCPUs has already been set"),
        ({"nano_cpus": 10**9}, {"cpu_quota": 9000}, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ({"memory": 64 * MB, "memory_swap": 64 * MB}, {"memory": 65 * MB}, "update the memoryswap at the same time"),
    ],
)
def test_an_update_that_does_not_go_with_what_is_set_is_refused(
    has: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(Conflict) as caught:
        told(HostConfig(**has), **given)
    assert message in str(caught.value)
