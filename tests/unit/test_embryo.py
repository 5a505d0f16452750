"""Which plans an init that is there already can take over (`scow_runtime_native.embryo`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from scow.linux import syscalls as sys
from scow.monitor import requests
from scow_runtime_native import embryo

ALL = embryo.FLAGS | sys.CLONE_NEWNS
PLAN: dict[str, Any] = {"clone": ALL, "join_pid": None, "cgroup": {"version": 1}}


def test_a_plan_with_dockers_default_namespaces_suits() -> None:
    assert embryo.suits(PLAN, embryo.FLAGS)


@pytest.mark.parametrize(
    "change",
    [
        {"clone": ALL & ~sys.CLONE_NEWNET},
        {"clone": ALL & ~sys.CLONE_NEWPID},
        {"join_pid": "/proc/1/ns/pid"},
        {"userns": {"uids": [], "join": []}},
        {"clone": ALL | sys.CLONE_NEWUSER, "userns": {"uids": [[0, 1, 2]], "join": []}},
        {"time": []},
        {"new_keyring": False},
        {"cgroup": {"version": 2}},
    ],
)
def test_a_plan_with_others_does_not(change: dict[str, Any]) -> None:
    assert not embryo.suits({**PLAN, **change}, embryo.FLAGS)


USER_PLAN = {**PLAN, "clone": ALL | sys.CLONE_NEWUSER, "userns": {"uids": [[0, 100000, 65536]], "join": []}}


def test_a_plan_with_a_new_user_namespace_suits_one_that_has_it() -> None:
    assert embryo.suits(USER_PLAN, embryo.USER_FLAGS)


@pytest.mark.parametrize(
    "change",
    [
        {"userns": None, "clone": ALL},
        {"userns": {"uids": [], "join": []}},
        {"userns": {"uids": [[0, 1, 2]], "join": [["/proc/1/ns/net", sys.CLONE_NEWNET]]}},
        {"clone": ALL & ~sys.CLONE_NEWNET | sys.CLONE_NEWUSER},
        {"cgroup": {"version": 2}},
    ],
)
def test_a_plan_that_joins_or_has_no_user_namespace_does_not(change: dict[str, Any]) -> None:
    assert not embryo.suits({**USER_PLAN, **change}, embryo.USER_FLAGS)


class Module:
    """A child module that prepares something."""

    def __init__(self) -> None:
        self.there = False

    def prepare(self, hints: Collection[str]) -> None:
        self.there = "userns" in hints

    def discard(self) -> None:
        self.there = False


def test_what_another_runtime_prepared_is_discarded() -> None:
    ours, theirs = Module(), Module()
    requests.prepare([ours, theirs, object()], {"", "userns"})
    assert (ours.there, theirs.there) == (True, True)
    requests.discard_prepared(ours)
    assert (ours.there, theirs.there) == (True, False)
