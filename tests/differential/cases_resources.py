"""``linux.resources`` as the cgroup files show it on the host, and what the limits do (cgroup version 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Run, to_the_end, wait_for

MIB = 1 << 20
_SLEEP = ["/bin/sleep", "60"]


def files(run: Run, names: Iterable[str]) -> Observed:
    """The values of cgroup files, ``controller/file``."""
    values = {}
    for name in names:
        controller, _, file = name.partition("/")
        path = run.cgroup_folder(controller) / file
        values[file] = " | ".join(sorted(path.read_text().splitlines())) if path.exists() else "(no such file)"
    return values


def running(*names: str, update: Iterable[str] = (), resources: Spec | None = None) -> Drive:
    """Reads the files *names* while the container runs, and again after an ``update``, by options or by a file."""

    def drive(run: Run) -> Observed:
        run.spec["process"]["args"] = _SLEEP
        run.write_spec()
        observed = {"exit": str(run.run("--detach").code)}
        if observed["exit"] != "0":
            return observed
        observed |= files(run, names)
        if update or resources:
            words = ["--resources", "-"] if resources else list(update)
            done = run.command("update", *words, run.id, input=json.dumps(resources).encode())
            observed["update"] = str(done.code)
            observed |= {f"{name} then": value for name, value in files(run, names).items()}
        return observed

    return drive


_MEMORY = ("memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "memory/memory.soft_limit_in_bytes")
_CPU = ("cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpu/cpu.cfs_burst_us", "cpu/cpu.idle")
_SETS = ("cpuset/cpuset.cpus", "cpuset/cpuset.mems")
_DEVICES = ("devices/devices.list",)


def set_resources(spec: Spec, **values: object) -> None:
    spec["linux"]["resources"] = values


@case(drive=running(*_MEMORY, *_CPU, *_SETS, "pids/pids.max", *_DEVICES))
def limits_none(spec: Spec, run: Run) -> None:
    """No limits: what the cgroup files hold then."""


@case(drive=running(*_MEMORY, "memory/memory.swappiness"), sample=True)
def memory_limits(spec: Spec, run: Run) -> None:
    """Memory: limit, with swap, reservation, swappiness."""
    set_resources(spec, memory={"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB, "swappiness": 10})


@case(drive=running(*_MEMORY))
def memory_without_swap(spec: Spec, run: Run) -> None:
    """Memory limit only."""
    set_resources(spec, memory={"limit": 64 * MIB})


@case(drive=running(*_MEMORY))
def memory_unlimited_swap(spec: Spec, run: Run) -> None:
    """Memory limit with swap -1."""
    set_resources(spec, memory={"limit": 64 * MIB, "swap": -1})


@case(drive=running("memory/memory.oom_control"))
def memory_without_a_killer(spec: Spec, run: Run) -> None:
    """``disableOOMKiller``."""
    set_resources(spec, memory={"limit": 64 * MIB, "disableOOMKiller": True})


@case(drive=running(*_MEMORY))
def memory_swap_below_the_limit(spec: Spec, run: Run) -> None:
    """Memory and swap below memory alone is an error."""
    set_resources(spec, memory={"limit": 64 * MIB, "swap": 32 * MIB})


@case(drive=running("memory/memory.use_hierarchy", "memory/memory.limit_in_bytes"))
def memory_check_before_update(spec: Spec, run: Run) -> None:
    """``checkBeforeUpdate`` and ``useHierarchy``."""
    set_resources(spec, memory={"limit": 64 * MIB, "useHierarchy": True, "checkBeforeUpdate": True})


@case()
def memory_exhausted(spec: Spec, run: Run) -> None:
    """A program that takes more than its memory is killed."""
    set_resources(spec, memory={"limit": 16 * MIB, "swap": 16 * MIB})
    spec["process"]["args"] = ["/bin/sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"]


@case(drive=running(*_CPU), sample=True)
def cpu_limits(spec: Spec, run: Run) -> None:
    """CPU: shares, quota, period."""
    set_resources(spec, cpu={"shares": 512, "quota": 20000, "period": 50000})


@case(drive=running(*_CPU))
def cpu_quota_only(spec: Spec, run: Run) -> None:
    """CPU quota in the default period."""
    set_resources(spec, cpu={"quota": 30000})


@case(drive=running(*_CPU), expect={"cpu.cfs_burst_us": "10000"})
def cpu_burst(spec: Spec, run: Run) -> None:
    """CPU burst."""
    set_resources(spec, cpu={"quota": 20000, "period": 50000, "burst": 10000})


@case(drive=running(*_CPU), expect={"cpu.idle": "1", "cpu.shares": "3"})
def cpu_idle(spec: Spec, run: Run) -> None:
    """A group that only runs when nothing else does."""
    set_resources(spec, cpu={"idle": 1})


@case("status", drive=to_the_end)
def cpu_set(spec: Spec, run: Run) -> None:
    """CPUs and memory nodes."""
    set_resources(spec, cpu={"cpus": "0", "mems": "0"})


@case(drive=running(*_SETS))
def cpu_set_in_files(spec: Spec, run: Run) -> None:
    """CPUs and memory nodes, as the files hold them."""
    set_resources(spec, cpu={"cpus": "1", "mems": "0"})


@case()
def cpu_set_that_is_not_there(spec: Spec, run: Run) -> None:
    """CPUs that the machine has not are an error."""
    set_resources(spec, cpu={"cpus": "900"})


@case(drive=running("pids/pids.max"), sample=True)
def pids_limit(spec: Spec, run: Run) -> None:
    """A number of processes."""
    set_resources(spec, pids={"limit": 17})


@case(drive=running("pids/pids.max"))
def pids_unlimited(spec: Spec, run: Run) -> None:
    """-1 is no limit."""
    set_resources(spec, pids={"limit": -1})


@case(sh={"forks": "(sleep 1 & sleep 1 & sleep 1 & sleep 1 & sleep 1 &) 2>&1 | grep -c fork"})
def pids_exhausted(spec: Spec, run: Run) -> None:
    """A program that has no more processes left."""
    set_resources(spec, pids={"limit": 4})
    spec["process"]["args"] = ["/bin/sh", "-c", "for i in 1 2 3 4 5 6; do sleep 2 & done; echo all"]


_THROTTLE = "blkio/blkio.throttle"


@case(
    drive=running(
        f"{_THROTTLE}.read_bps_device",
        f"{_THROTTLE}.write_bps_device",
        f"{_THROTTLE}.read_iops_device",
        f"{_THROTTLE}.write_iops_device",
    )
)
def block_io_limits(spec: Spec, run: Run) -> None:
    """Throttles of a block device."""
    device = {"major": 7, "minor": 0}
    set_resources(
        spec,
        blockIO={
            "throttleReadBpsDevice": [{**device, "rate": 1048576}],
            "throttleWriteBpsDevice": [{**device, "rate": 2097152}],
            "throttleReadIOPSDevice": [{**device, "rate": 100}],
            "throttleWriteIOPSDevice": [{**device, "rate": 200}],
        },
    )


@case()
def huge_pages(spec: Spec, run: Run) -> None:
    """A limit of huge pages where version 1 has no such controller."""
    set_resources(spec, hugepageLimits=[{"pageSize": "2MB", "limit": 0}])


@case()
def network_class(spec: Spec, run: Run) -> None:
    """A class of packets where there is no such controller."""
    set_resources(spec, network={"classID": 1048577, "priorities": [{"name": "lo", "priority": 1}]})


@case()
def unified_on_version_1(spec: Spec, run: Run) -> None:
    """Files of version 2 on version 1."""
    set_resources(spec, unified={"memory.high": "100000000"})


@case(drive=running(*_DEVICES))
def devices_in_the_cgroup(spec: Spec, run: Run) -> None:
    """What the device cgroup lists."""
    spec["linux"]["resources"]["devices"].append(
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    )


@case("cgroup", drive=to_the_end)
def cgroup_nested(spec: Spec, run: Run) -> None:
    """A path with two folders more."""
    spec["linux"]["cgroupsPath"] = run.cgroup = f"{run.cgroup}.a/b"


@case(drive=running(*_MEMORY, *_CPU, "pids/pids.max", update=[
    "--memory", str(48 * MIB), "--memory-swap", str(64 * MIB), "--cpu-share", "256", "--cpu-quota", "40000",
    "--cpu-period", "80000", "--pids-limit", "20",
]), sample=True)  # fmt: skip
def updated_by_options(spec: Spec, run: Run) -> None:
    """``update`` of a running container by options."""
    set_resources(spec, memory={"limit": 64 * MIB, "swap": 96 * MIB}, pids={"limit": 10})


@case(drive=running(*_MEMORY, *_CPU, "pids/pids.max", *_DEVICES, resources={
    "memory": {"limit": 80 * MIB, "swap": 160 * MIB, "reservation": 40 * MIB}, "cpu": {"shares": 128},
    "pids": {"limit": 30},
}))  # fmt: skip
def updated_by_a_file(spec: Spec, run: Run) -> None:
    """``update`` of a running container by resources on standard input; what they do not name stays."""
    set_resources(spec, memory={"limit": 64 * MIB, "swap": 96 * MIB}, cpu={"quota": 50000, "period": 100000})


@case(drive=running(*_SETS, update=["--cpuset-cpus", "0"]))
def updated_cpu_set(spec: Spec, run: Run) -> None:
    """``update`` of the CPUs."""


@case(drive=running(*_MEMORY, update=["--memory", "1"]))
def updated_beyond_what_is_used(spec: Spec, run: Run) -> None:
    """``update`` that the kernel refuses."""
    set_resources(spec, memory={"limit": 64 * MIB})


def _frozen(run: Run) -> Observed:
    run.run("--detach")
    state = run.cgroup_folder("freezer") / "freezer.state"
    observed = {"pause": str(run.command("pause", run.id).code), "frozen": state.read_text().strip()}
    observed["status"] = run.status()
    observed["again"] = str(run.command("pause", run.id).code)
    observed["exec"] = str(run.command("exec", run.id, "/bin/true").code)
    observed["resume"] = str(run.command("resume", run.id).code)
    observed["thawed"] = state.read_text().strip()
    observed["running"] = run.status()
    observed["resume again"] = str(run.command("resume", run.id).code)
    return observed


@case(drive=_frozen, sample=True)
def paused_and_resumed(spec: Spec, run: Run) -> None:
    """``pause`` and ``resume``."""
    spec["process"]["args"] = _SLEEP


def _killed_while_frozen(run: Run) -> Observed:
    run.run("--detach")
    run.command("pause", run.id)
    observed = {"kill": str(run.kill("KILL").code)}
    wait_for(lambda: run.status() == "stopped", 1.0)
    observed["status"] = run.status()
    observed["delete"] = str(run.delete("--force").code)
    wait_for(lambda: run.status() == "none")
    observed["then"] = run.status()
    return observed


@case(drive=_killed_while_frozen)
def killed_while_paused(spec: Spec, run: Run) -> None:
    """SIGKILL for a paused container."""
    spec["process"]["args"] = _SLEEP
