"""What a test left behind on the host: mounts, network, cgroups, processes.

`take` looks, `left` compares two looks. Things of the machine are compared by name; processes belong to us when they
carry `MARK` in their environment, or have something open, mounted or named below our temporary folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "SCOW_TEST_SESSION"
WAIT_S = 5.0  # a veth goes with its namespace, in the background

Look = dict[str, frozenset[str]]


def take(base: Path) -> Look:
    """What is there now; *base* is the folder below which the tests work."""
    return {
        "mount": frozenset(mounts()),
        "network namespace": frozenset(entries("/run/netns")),
        "network device": frozenset(entries("/sys/class/net")),
        "nft table": frozenset(nft_tables()),
        "cgroup": frozenset(cgroups()),
        "process": frozenset(processes(base)),
    }


def left(before: Look, base: Path) -> list[str]:
    """What is there now and was not before, once what goes by itself has had `WAIT_S`; one line each."""
    deadline = time.monotonic() + WAIT_S
    while True:
        now = take(base)
        lines = [f"{kind}: {name}" for kind, names in now.items() for name in sorted(names - before[kind])]
        if not lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.1)


def others_at_work() -> bool:
    """Whether another pytest runs on this machine: then a difference need not be ours."""
    mine = {os.getpid(), os.getppid()}
    return any("pytest" in command(pid) for pid in pids() if pid not in mine and command(pid))


def mounts() -> Iterator[str]:
    """All but what scow-runtime keeps for its later runs until the next boot (ADR 14)."""
    for line in read(Path("/proc/self/mountinfo")).splitlines():
        point = line.split()[4]
        if not point.startswith("/run/scow-runtime/.prepared/"):
            yield point


def entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def nft_tables() -> list[str]:
    try:
        from nftables import Nftables
    except (ImportError, OSError):
        return []
    code, output, _ = Nftables().cmd("list tables")
    return str(output).splitlines() if code == 0 else []


def cgroups() -> Iterator[str]:
    """All but those beside our own, which whoever runs us (a service manager, a CI runner) makes and removes."""
    beside = {os.path.dirname(line.split(":", 2)[2]) for line in read(Path("/proc/self/cgroup")).splitlines()} - {"/"}
    for folder, children, _ in os.walk("/sys/fs/cgroup"):
        yield folder
        if folder.count("/") > 7 or any(folder.endswith(path) for path in beside):
            children.clear()


def processes(base: Path) -> Iterator[str]:
    for pid in pids():
        if pid != os.getpid() and belongs(pid, base):
            yield f"{pid} {command(pid)[:80]}"


def belongs(pid: int, base: Path) -> bool:
    folder = Path(f"/proc/{pid}")
    if f"{MARK}={os.environ.get(MARK)}" in read(folder / "environ").split("\0") or str(base) in command(pid):
        return True
    links = [folder / "cwd", folder / "root", *(folder / "fd" / name for name in entries(f"{folder}/fd"))]
    if any(target(link).startswith(str(base)) for link in links):
        return True
    mine = target(Path("/proc/self/ns/mnt"))
    return target(folder / "ns" / "mnt") not in ("", mine) and str(base) in read(folder / "mountinfo")


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command(pid: int) -> str:
    return read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()


def target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # it ended, or is not ours to look at
        return ""


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
