"""Bundles under runc, crun and scow-runtime: what can be observed is the same, but for what `DIFFERENCES` explains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.daemon import BUSYBOX
from tests.differential.compare import compare, reachable
from tests.differential.corpus import all_cases
from tests.differential.differences import DIFFERENCES, Difference
from tests.differential.worker import OURS, PEERS, Worker, installed

pytestmark = pytest.mark.root

CASES = all_cases()


class Lab:
    """Runs cases under all runtimes at once, and remembers which excuses they needed."""

    def __init__(self) -> None:
        self._workers = [Worker(runtime) for runtime in installed()]
        self._threads = ThreadPoolExecutor(len(self._workers))
        self.done: set[str] = set()
        self.used: set[Difference] = set()

    def unexplained(self, name: str) -> list[str]:
        """What differs in the case *name* without an excuse."""
        asked = {worker.runtime: self._threads.submit(worker.observe, name) for worker in self._workers}
        seen = {runtime: answer.result() for runtime, answer in asked.items()}
        verdict = compare(CASES[name], seen)
        self.done.add(name)
        self.used |= verdict.used
        return verdict.unexplained

    def close(self) -> None:
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()


@pytest.fixture(scope="module")
def lab(host_left_clean: None) -> Iterator[Lab]:
    if missing := [name for name in PEERS if name not in installed()]:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    if OURS not in installed():
        pytest.skip(f"{OURS} is not installed")
    if BUSYBOX is None:
        pytest.skip("busybox-static is not installed")
    if not os.path.isdir("/sys/fs/cgroup/memory"):
        pytest.skip("the host has no cgroup hierarchies of version 1, whose files the cases read")
    lab = Lab()
    yield lab
    lab.close()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if case.sample else [pytest.mark.slow]) for name, case in CASES.items()]
)
def test_runtimes_show_the_same(lab: Lab, name: str) -> None:
    assert (unexplained := lab.unexplained(name)) == [], f"{CASES[name].about}\n" + "\n".join(unexplained)


def test_every_difference_still_exists(lab: Lab) -> None:
    """Those that speak of cases which ran: with ``--all``, of every one."""
    stale = [
        entry
        for entry in DIFFERENCES
        if entry.always and reachable(entry, set(CASES)) <= lab.done and entry not in lab.used
    ]
    assert stale == [], "no runtime differs there any more: " + "\n".join(f"{entry}" for entry in stale)
