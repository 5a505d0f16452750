"""Scheduler, I/O priority and personality of a process that has been given any: *values* is the plan's ``scheduling``.
Runs after the fork, while the process still has the engine's rights."""

from __future__ import annotations

import errno
import os
from typing import Any

from scow.linux import scheduling
from scow_runtime_native.failure import StageError, describe, stage


def apply(values: dict[str, Any]) -> None:
    """What the spec asked for holds."""
    if "scheduler" in values:
        _set_scheduler(values["scheduler"])
    if "io_priority" in values:
        with stage("I/O priority"):
            scheduling.set_io_priority(values["io_priority"])
    if "personality" in values:
        with stage("personality"):
            scheduling.set_personality(values["personality"])


def _set_scheduler(attributes: list[int]) -> None:
    try:
        scheduling.set_scheduler(*attributes)
    except OSError as error:
        hint = None
        if error.errno == errno.EPERM:
            hint = "a higher priority needs CAP_SYS_NICE; real-time also cpu.rt_runtime in cgroup v1, deadline all CPUs"
        raise StageError(describe(error), stage="scheduler", errno=error.errno or 0, hint=hint) from error


def run_on(values: dict[str, Any], when: str) -> None:
    """An exec is on the CPUs that ``execCPUAffinity`` names: *when* is ``initial`` (before it joins the container's
    cgroup) or ``final``."""
    numbers = values.get(f"{when}_cpus")
    if numbers:
        with stage(f"execCPUAffinity {when}"):
            os.sched_setaffinity(0, numbers)
