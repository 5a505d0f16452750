"""What went through a container's interfaces (proc_pid_net(5): /proc/<pid>/net/dev)."""

from __future__ import annotations

import os
from pathlib import Path

_RECEIVED = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped")
_SENT = ("tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
_SENT_FROM = 8  # the first column about what was sent


def interfaces(pid: int) -> dict[str, dict[str, int]]:
    """Docker's ``networks`` of a stats sample: counters by interface, without the loopback. Empty for a process in the
    host's own network (its counters are not the container's), and for one that has ended."""
    try:
        if os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net"):
            return {}
        return parse(Path(f"/proc/{pid}/net/dev").read_text())
    except OSError:
        return {}


def parse(text: str) -> dict[str, dict[str, int]]:
    """The counters in *text*, the content of a ``net/dev``."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        counters = [int(word) for word in numbers.split()]
        if name.strip() != "lo" and len(counters) >= _SENT_FROM + len(_SENT):
            found[name.strip()] = dict(zip(_RECEIVED, counters, strict=False)) | dict(
                zip(_SENT, counters[_SENT_FROM:], strict=False)
            )
    return found
