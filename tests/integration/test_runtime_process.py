"""What the runtime spec says of a process beyond Docker's options: scheduler, I/O priority, personality, capabilities
sets, limits, terminal size."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.engine import spec as specs
from scow.linux import capabilities
from scow.testing.runtime import BUSYBOX, Lab, Running, record
from scow.types import ContainerConfig, ExecRequest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]
IOPRIO_GET = 252 if platform.machine() == "x86_64" else 31
can_nice = pytest.mark.skipif(
    not capabilities.bounding() >> capabilities.NUMBERS["CAP_SYS_NICE"] & 1,
    reason="needs CAP_SYS_NICE, which is not in the bounding set here",
)


def process(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["process"].update(values)


def status(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def sets(text: str) -> dict[str, tuple[str, ...]]:
    found = status(text)
    return {kind: capabilities.names(int(found[f"Cap{kind}"], 16)) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


# ---------------------------------------------------------------- scheduling


@pytest.mark.parametrize(
    ("scheduler", "policy", "nice"),
    [
        ({"policy": "SCHED_OTHER", "nice": 7}, os.SCHED_OTHER, 7),
        ({"policy": "SCHED_BATCH", "nice": 5}, os.SCHED_BATCH, 5),
        ({"policy": "SCHED_IDLE"}, os.SCHED_IDLE, 0),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, os.SCHED_OTHER | 0x40000000, 0),
    ],
)
def test_the_scheduler_of_the_spec_holds(lab: Lab, scheduler: dict[str, Any], policy: int, nice: int) -> None:
    running = lab.up(change=process(scheduler=scheduler))
    assert os.sched_getscheduler(running.pid) == policy
    assert os.getpriority(os.PRIO_PROCESS, running.pid) == nice


@can_nice
@pytest.mark.parametrize("policy", ["SCHED_FIFO", "SCHED_RR"])
def test_real_time_with_a_priority_or_the_reason_why_not(lab: Lab, policy: str) -> None:
    """cgroup v1 with CONFIG_RT_GROUP_SCHED gives new groups no real time (cpu.rt_runtime_us)."""
    running = lab.make("sleep", "60", change=process(scheduler={"policy": policy, "priority": 3}))
    answer = running.create()
    if answer == {"ready": True}:
        assert os.sched_getscheduler(running.pid) == getattr(os, policy)
        assert os.sched_getparam(running.pid).sched_priority == 3
    else:
        assert answer["stage"] == "scheduler" and "cpu.rt_runtime in cgroup v1" in answer["error"]


@can_nice
def test_a_deadline_or_the_reason_why_not(lab: Lab) -> None:
    times = {"runtime": 1_000_000, "deadline": 10_000_000, "period": 10_000_000}
    running = lab.make("true", change=process(scheduler={"policy": "SCHED_DEADLINE", **times}))
    answer = running.create()
    if answer == {"ready": True}:
        assert "policy                                       :                    6" in (
            Path(f"/proc/{running.pid}/sched").read_text()
        )
    else:
        assert answer["stage"] == "scheduler" and "deadline all CPUs" in answer["error"]


def test_a_policy_that_the_kernel_does_not_have_is_its_refusal(lab: Lab) -> None:
    failure = lab.refused("true", change=process(scheduler={"policy": "SCHED_ISO"}))
    assert (failure["stage"], failure["error"]) == ("scheduler", "sched_setattr policy 4: invalid argument")


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ({"class": "IOPRIO_CLASS_IDLE", "priority": 0}, 3 << 13),
        ({"class": "IOPRIO_CLASS_BE", "priority": 6}, 2 << 13 | 6),
    ],
)
def test_the_io_priority_of_the_spec_holds(lab: Lab, given: dict[str, Any], number: int) -> None:
    running = lab.up(change=process(ioPriority=given))
    assert ctypes.CDLL(None).syscall(IOPRIO_GET, 1, running.pid) == number


def test_an_exec_has_the_containers_scheduling_too(lab: Lab) -> None:
    running = lab.up(change=process(scheduler={"policy": "SCHED_OTHER", "nice": 9}))
    assert running.exec("sh", "-c", "cut -d' ' -f19 /proc/self/stat")["output"] == "9\n"


@can_nice
def test_an_exec_has_a_scheduler_that_its_children_have_not(lab: Lab) -> None:
    scheduler = {"policy": "SCHED_BATCH", "nice": -9, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    running = lab.up(change=process(scheduler=scheduler))
    script = "cut -d' ' -f19,41 /proc/$$/stat; cut -d' ' -f19,41 /proc/self/stat; true"
    assert running.exec("sh", "-c", script)["output"].splitlines() == ["-9 3", "0 3"]


def test_an_exec_has_no_deadline(lab: Lab) -> None:
    running = lab.up()
    running.spec["process"]["scheduler"] = {"policy": "SCHED_DEADLINE", "runtime": 10**6, "period": 10**7}
    answer = running.exec("true")
    assert answer["status"]["stage"] == "scheduler" and "neither for an exec" in answer["status"]["error"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the 32-bit name of other machines is another")
def test_a_32_bit_personality_shows_a_32_bit_machine(lab: Lab) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["personality"] = {"domain": "LINUX32"}

    running = lab.up(change=change)
    assert int(Path(f"/proc/{running.pid}/personality").read_text(), 16) == 8
    assert running.exec("sh", "-c", "cat /proc/self/personality")["output"] == "00000008\n"


def exec_with(running: Running, *words: str, **values: Any) -> Any:
    """An exec whose OCI process has *values*."""
    made = specs.exec_process(record(running.id, words), ExecRequest(cmd=list(words)), running.spec)
    plan = running.runtime.exec(running.id, running.spec, {**made, **values})
    return running.ask("exec", plan=plan, tty=bool(values.get("terminal")))


def test_an_exec_is_on_the_cpus_that_the_spec_names(lab: Lab) -> None:
    cpu = max(os.sched_getaffinity(0))
    running = lab.up()
    result = exec_with(running, "cat", "/proc/self/status", execCPUAffinity={"initial": "0", "final": str(cpu)})
    assert status(result["output"])["Cpus_allowed_list"] == str(cpu)
    result = exec_with(running, "cat", "/proc/self/status", execCPUAffinity={"initial": str(cpu)})
    assert status(result["output"])["Cpus_allowed_list"] != ""
    assert status(Path(f"/proc/{running.pid}/status").read_text())["Cpus_allowed_list"] != str(cpu) or cpu == 0


# ---------------------------------------------------------------- capabilities


def test_the_five_capability_sets_are_what_the_spec_says(lab: Lab) -> None:
    caps = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_CHOWN"],
        "ambient": ["CAP_CHOWN"],
    }
    user = {"uid": 1234, "gid": 5}
    found = sets(lab.sh("cat /proc/self/status", change=process(capabilities=caps, user=user)))
    assert found["Bnd"] == ("CAP_CHOWN", "CAP_KILL", "CAP_SETUID") and found["Inh"] == ("CAP_CHOWN",)
    # execve by another user than root leaves what is ambient (capabilities(7))
    assert found["Prm"] == found["Eff"] == found["Amb"] == ("CAP_CHOWN",)


def test_no_capabilities_at_all(lab: Lab) -> None:
    found = sets(lab.sh("cat /proc/self/status", change=process(capabilities={})))
    assert set(found.values()) == {()}


def test_an_ambient_capability_that_is_not_inheritable_is_left_out(lab: Lab) -> None:
    caps = {kind: ["CAP_KILL"] for kind in ("bounding", "permitted", "effective", "ambient")}
    change = process(capabilities=caps, user={"uid": 1, "gid": 1})
    found = sets(lab.sh("cat /proc/self/status", change=change))
    assert found["Amb"] == () == found["Eff"]


def test_a_user_of_the_engine_has_no_rights_over_what_it_executes(lab: Lab) -> None:
    """Docker gives capabilities to root only: those of another user would hold until the execve."""
    (lab.lower / "bin/mine").write_bytes((lab.lower / "bin/busybox").read_bytes())
    (lab.lower / "bin/mine").chmod(0o700)
    failure = lab.refused("mine", config=ContainerConfig(user="web"))
    assert failure["kind"] == "cannot_run" and "/bin/mine is not executable for the user 33" in failure["error"]


def test_an_inheritable_capability_outside_the_bounding_set_is_the_kernels_refusal(lab: Lab) -> None:
    failure = lab.refused("true", change=process(capabilities={"inheritable": ["CAP_CHOWN"]}))
    assert (failure["stage"], failure["error"]) == ("capabilities", "capset: operation not permitted")


# ---------------------------------------------------------------- the rest


def test_umask_and_additional_groups(lab: Lab) -> None:
    user = {"uid": 12, "gid": 13, "umask": 0o077, "additionalGids": [5, 6]}
    found = status(lab.sh("cat /proc/self/status", change=process(user=user)))
    assert found["Umask"] == "0077" and found["Groups"].split() == ["5", "6"]
    assert found["Uid"].split() == ["12"] * 4 and found["Gid"].split() == ["13"] * 4


def test_an_oom_score_that_the_spec_does_not_set_is_left_alone(lab: Lab) -> None:
    own = Path("/proc/self/oom_score_adj").read_text()
    assert lab.sh("cat /proc/self/oom_score_adj", change=process(oomScoreAdj=None)) == own


def test_the_terminal_has_the_size_of_the_spec_where_there_is_one(lab: Lab) -> None:
    running = lab.up()
    size = {"height": 33, "width": 111}
    result = exec_with(running, "busybox", "stty", "size", terminal=True, consoleSize=size)
    assert result["output"].split() == ["33", "111"]
    assert exec_with(running, "echo", "fine", terminal=False, consoleSize=size)["output"] == "fine\n"


def test_a_command_line_for_windows_is_ignored(lab: Lab) -> None:
    assert lab.run("echo", "args", change=process(commandLine="cmd.exe /c dir")) == (0, "args\n")
