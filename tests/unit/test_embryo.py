"""Which plans an init that is there already can take over (`scow_runtime_native.embryo`)."""

from __future__ import annotations

from typing import Any

import pytest

from scow.linux import syscalls as sys
from scow.monitor import requests
from scow_runtime_native import embryo

ALL = embryo.FLAGS | sys.CLONE_NEWNS
PLAN: dict[str, Any] = {"clone": ALL, "join_pid": None, "cgroup": {"version": 1}}


def test_a_plan_with_dockers_default_namespaces_suits() -> None:
    assert embryo.suits(PLAN)


@pytest.mark.parametrize(
    "change",
    [
        {"clone": ALL & ~sys.CLONE_NEWNET},
        {"clone": ALL & ~sys.CLONE_NEWPID},
        {"join_pid": "/proc/1/ns/pid"},
        {"userns": {"uids": []}},
        {"time": []},
        {"new_keyring": False},
        {"cgroup": {"version": 2}},
    ],
)
def test_a_plan_with_others_does_not(change: dict[str, Any]) -> None:
    assert not embryo.suits({**PLAN, **change})


class Module:
    """A child module that prepares something."""

    def __init__(self) -> None:
        self.there = False

    def prepare(self) -> None:
        self.there = True

    def discard(self) -> None:
        self.there = False


def test_what_another_runtime_prepared_is_discarded() -> None:
    ours, theirs = Module(), Module()
    requests.prepare([ours, theirs, object()])
    assert (ours.there, theirs.there) == (True, True)
    requests.discard_prepared(ours)
    assert (ours.there, theirs.there) == (True, False)
