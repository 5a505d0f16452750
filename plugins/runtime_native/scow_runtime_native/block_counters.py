"""Counters of block I/O in cgroup version 1, which ``docker stats`` shows.

They belong to the kernel's throttling, and since Linux 6.10 (commit a3166c51702b, "blk-throttle: delay initialization
until configuration") that counts nothing on a device before some group has had a limit there. Version 2 counts always.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from scow_runtime_native.cgroups import read, write

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)
_LIMIT = "blkio.throttle.read_bps_device"


def start(directory: str, block_devices: str = "/sys/block") -> None:
    """The kernel counts the I/O of every disk of the host by group: *directory*, a blkio group, got a limit of 0, which
    is none, on each where it has no limit. A disk where that fails is not counted."""
    limited = {line.split()[0] for line in read(f"{directory}/{_LIMIT}").splitlines()}
    for device in _disks(block_devices):
        if device in limited:  # and so counted
            continue
        try:
            write(f"{directory}/{_LIMIT}", f"{device} 0")
        except OSError as error:
            log.info("block I/O of device %s is not counted: %s", device, (error.strerror or str(error)).lower())


def _disks(block_devices: str) -> Iterator[str]:
    """Major and minor number of each disk that is hardware: what is made of others (dm, md, loop) would count twice."""
    for name in sorted(os.listdir(block_devices)) if os.path.isdir(block_devices) else ():
        if os.path.exists(f"{block_devices}/{name}/device"):
            yield read(f"{block_devices}/{name}/dev").strip()
