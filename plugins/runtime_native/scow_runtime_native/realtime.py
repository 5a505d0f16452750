"""Real-time CPU time in version 1: a group can give to those below it only what it has (sched-rt-group.rst).

A new group has none, so the engine's own groups are given what their containers need: with Docker that is dockerd's
``--cpu-rt-runtime``.
"""

from __future__ import annotations

import contextlib
import math
import os

from scow_runtime_native.cgroups import number, read, write


def make_room(mount: str, path: str, top: str, runtime_us: int, period_us: int) -> None:
    """The groups from *top* down to the one above *path* can give it *runtime_us* in each *period_us*, as far as those
    above *top* allow it. Groups elsewhere are their owner's: a *path* that is not below *top* changes nothing."""
    share = runtime_us / period_us
    raised: list[tuple[str, float]] = []
    while path.startswith(f"{top}/"):
        parent = os.path.dirname(path)
        share += sum(_share(folder) for folder in _below(f"{mount}/{parent}") if folder != f"{mount}/{path}")
        if share <= _share(f"{mount}/{parent}"):
            break
        raised.append((f"{mount}/{parent}", share))
        path = parent
    for folder, needed in reversed(raised):
        with contextlib.suppress(OSError):  # the group above has no more: the container's own write says so
            write(f"{folder}/cpu.rt_runtime_us", str(math.ceil(needed * number(read(f"{folder}/cpu.rt_period_us")))))


def _share(folder: str) -> float:
    return number(read(f"{folder}/cpu.rt_runtime_us")) / (number(read(f"{folder}/cpu.rt_period_us")) or 1)


def _below(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
