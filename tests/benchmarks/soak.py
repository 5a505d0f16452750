"""Starts without growth: ``make soak``. 1,000 containers in a row, then as many by 8 clients; before and after each,
what the engine's processes hold (memory, descriptors, threads) and what the host holds for it (cgroups, mounts, links).

Ends with status 1 where something has grown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.measure import Api, pss_kib
from tests.daemon import Daemon

_ROOT = Path("/sys/fs/cgroup")
# A heap breathes: this much between two samples is no growth. Objects of the kernel may not grow at all.
_ALLOWED = {"memory_kib": 6000, "descriptors": 8, "threads": 8}


def sample(daemon: Daemon) -> dict[str, int]:
    """What is held now, when the kernel has freed what it frees in the background."""
    time.sleep(5)
    pids = [daemon.pid, *_below(daemon.pid)]
    return {
        "memory_kib": pss_kib(str(daemon.root)),
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        "threads": sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
        "processes": len(pids),
        "cgroups": sum(1 for _ in _ROOT.glob(f"**/{daemon.config['cgroup_parent']}/**/")),
        "mounts": Path(f"/proc/{daemon.pid}/mounts").read_text().count(str(daemon.root)),
        "links": len(os.listdir("/sys/class/net")),
        "files": sum(len(files) + len(folders) for _, folders, files in os.walk(daemon.root)),
    }


def _below(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    children = [int(word) for word in done.stdout.split()]
    return children + [each for child in children for each in _below(child)]


def cycle(api: Api) -> None:
    """One container from create to removal."""
    made = api.call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
    assert isinstance(made, dict)
    api.call("POST", f"/containers/{made['Id']}/start")
    api.call("POST", f"/containers/{made['Id']}/wait")
    api.call("DELETE", f"/containers/{made['Id']}")


def many(daemon: Daemon, count: int, clients: int) -> None:
    """*count* containers by *clients* connections."""

    def work(share: int) -> None:
        api = Api(daemon.socket)
        for _ in range(share):
            cycle(api)
        api.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, [count // clients] * clients))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1000, help="containers of each part")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scow-soak-"))
    daemon = Daemon(folder / "scow", debug=False).start()
    grown: list[str] = []
    try:
        daemon.import_busybox()
        many(daemon, 50, 8)  # every pool, cache and connection is there after this
        before = sample(daemon)
        for label, clients in (("in a row", 1), ("by 8 clients", 8)):
            begun = time.perf_counter()
            many(daemon, options.n, clients)
            took = time.perf_counter() - begun
            after = sample(daemon)
            print(f"{options.n} starts {label}: {took / options.n * 1e3:.1f} ms each")
            for name, value in after.items():
                more = value - before[name]
                print(f"  {name:12} {before[name]:8} → {value:8}  {more:+}")
                if more > _ALLOWED.get(name, 0):
                    grown.append(f"{name} {label}")
            before = after
    finally:
        daemon.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
