"""``scow update``."""

from __future__ import annotations

from typing import Any

import click

from scow.cli.client import path_of
from scow.cli.failures import report
from scow.cli.grammar import command, many, number, objects, text
from scow.cli.host_options import resources, restart_policy
from scow.cli.session import Session, note, write
from scow.errors import InvalidArgument, ScowError, Unavailable


@command("update")
@number("--blkio-weight", help="Block IO (relative weight), between 10 and 1000, or 0 to disable")
@many("--blkio-weight-device", help="Block IO weight (relative device weight); 0 takes it away")
@number("--cpu-period", help="Limit CPU CFS (Completely Fair Scheduler) period")
@number("--cpu-quota", help="Limit CPU CFS (Completely Fair Scheduler) quota")
@number("--cpu-rt-period", help="Limit the CPU real-time period in microseconds")
@number("--cpu-rt-runtime", help="Limit the CPU real-time runtime in microseconds")
@number("-c", "--cpu-shares", help="CPU shares (relative weight)")
@text("--cpus", help="Number of CPUs", metavar="decimal")
@text("--cpuset-cpus", help="CPUs in which to allow execution (0-3, 0,1)")
@text("--cpuset-mems", help="MEMs in which to allow execution (0-3, 0,1)")
@many("--device-read-bps", help="Limit read rate (bytes per second) from a device; 0 takes it away")
@many("--device-read-iops", help="Limit read rate (IO per second) from a device; 0 takes it away")
@many("--device-write-bps", help="Limit write rate (bytes per second) to a device; 0 takes it away")
@many("--device-write-iops", help="Limit write rate (IO per second) to a device; 0 takes it away")
@text("--kernel-memory", hidden=True)
@text("-m", "--memory", help="Memory limit", metavar="bytes")
@text("--memory-reservation", help="Memory soft limit", metavar="bytes")
@text("--memory-swap", help="Limit of memory plus swap: '-1' to enable unlimited swap", metavar="bytes")
@text("--net-rate", help="Limit network traffic: in=10mbit,out=off; a side that is not named stays", metavar="rates")
@number("--pids-limit", help="Tune container pids limit (set -1 for unlimited)")
@text("--restart", help="Restart policy to apply when a container exits")
@objects("container")
@click.pass_obj
def update(
    context: Session, /, container: tuple[str, ...], restart: str | None, net_rate: str | None, **flags: Any
) -> int:
    """Update configuration of one or more containers."""
    body = {key: value for key, value in resources(flags).items() if value is not None}
    if restart:
        body["RestartPolicy"] = restart_policy(restart)
    if not body and net_rate is None:
        raise InvalidArgument("you must provide one or more flags when using this command")
    failed = 0
    warnings: list[str] = []
    for name in container:
        try:
            answer = context.client.post(f"/containers/{path_of(name)}/update", body) if body else None
            if net_rate is not None:
                context.client.post(f"/scow/v1/containers/{path_of(name)}/net-rate", {"Rate": net_rate})
        except Unavailable:
            raise
        except ScowError as error:
            report(error)
            failed = 1
        else:
            write(name)
            warnings += (answer or {}).get("Warnings") or []
    for warning in warnings:
        note(f"WARNING: {warning}")
    return failed
