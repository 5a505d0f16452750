"""How much memory a build may take for its files."""

from __future__ import annotations

from pathlib import Path

ENOUGH_BYTES = 1 << 30
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_SHARE = 0.6


def tmpfs_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The size of a tmpfs that the host can afford; 0 where that is too small to build in."""
    available = 0
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for name in _LIMITS:
        try:
            text = (cgroups / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            available = min(available, int(text))
    size = int(available * _SHARE)
    return size if size >= ENOUGH_BYTES else 0
