"""What a container gets without being asked: Docker's defaults, as values of the OCI runtime spec."""

from __future__ import annotations

import functools
import glob
from typing import Any

OCI_VERSION = "1.2.0"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE_BYTES = 64 << 20
CPU_PERIOD_US = 100_000

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

_THERMAL_THROTTLE = "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"


@functools.cache
def masked_paths() -> tuple[str, ...]:
    """`MASKED_PATHS`, and of each CPU what it tells of its temperature, a side channel as the counters of interrupts
    (GHSA-6fw5-f8r9-fgfm)."""
    return (*MASKED_PATHS, *sorted(glob.glob(_THERMAL_THROTTLE)))


READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PING_GROUPS = "net.ipv4.ping_group_range"
NETWORK_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    PING_GROUPS: "0 2147483647",
}
"""Set in a network namespace of the container's own: low ports and ping need no root there (moby#41030)."""


def _node(kind: str, major: int, minor: int | None, access: str = "rwm") -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "major": major, "access": access}
    if minor is not None:
        rule["minor"] = minor
    return rule


DEVICE_RULES: tuple[dict[str, Any], ...] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},  # making nodes is CAP_MKNOD's business; using them is not
    {"allow": True, "type": "b", "access": "m"},
    _node("c", 1, 3),  # null
    _node("c", 1, 5),  # zero
    _node("c", 1, 7),  # full
    _node("c", 1, 8),  # random
    _node("c", 1, 9),  # urandom
    _node("c", 5, 0),  # tty
    _node("c", 5, 1),  # console
    _node("c", 5, 2),  # ptmx
    _node("c", 136, None),  # pts
)
