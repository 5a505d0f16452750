"""The configuration that dockerd hands to its runtime, held against Scow's for the same request. Needs a dockerd (20.10
or newer), which is started for this with its state in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.engine import spec
from scow.testing.runtime import record
from tests.benchmarks import peers

pytestmark = pytest.mark.root

_NEWER_THAN_20_10 = {"/proc/interrupts", "/sys/devices/virtual/powercap"}
"""What Docker hides since 24.0.7 and 28.3."""
_HARDENED_SINCE = {"io_uring_enter", "io_uring_register", "io_uring_setup", "socketcall"}
"""What 20.10 allows and later versions refuse (moby#46762, and the socket families by one door only)."""


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The config.json of a container that only has a command."""
    folder = tmp_path_factory.mktemp("dockerd")
    try:
        with peers.docker("/", folder) as command:
            peers.ready(command)
            words = [*command, "run", "-d", "busybox", "sleep", "60"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            (path,) = folder.rglob(f"{done.stdout.strip()}/config.json")
            yield json.loads(path.read_text())
    except peers.NotHere as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def scow() -> dict[str, Any]:
    return spec.build(record("a" * 64, ["sleep", "60"]), directory=Path("/containers/a"))


def test_capabilities_are_those_of_the_docker_that_is_here(docker: dict[str, Any], scow: dict[str, Any]) -> None:
    ours, theirs = scow["process"]["capabilities"], docker["process"]["capabilities"]
    for kind in ("bounding", "effective", "permitted"):
        assert sorted(ours[kind]) == sorted(theirs[kind])
    assert not ours.get("ambient") and not theirs.get("ambient")
    assert docker["process"].get("noNewPrivileges", False) == scow["process"]["noNewPrivileges"]
    assert (docker["process"].get("oomScoreAdj") or 0) == scow["process"]["oomScoreAdj"]
    assert not docker["process"].get("rlimits") and not scow["process"].get("rlimits")


def test_paths_are_hidden_that_the_docker_here_hides(docker: dict[str, Any], scow: dict[str, Any]) -> None:
    missing = set(docker["linux"]["maskedPaths"]) - set(scow["linux"]["maskedPaths"])
    assert missing == set()
    more = set(scow["linux"]["maskedPaths"]) - set(docker["linux"]["maskedPaths"])
    assert {path for path in more if "thermal" not in path} <= _NEWER_THAN_20_10
    assert sorted(docker["linux"]["readonlyPaths"]) == sorted(scow["linux"]["readonlyPaths"])


def test_sysctls_and_namespaces_are_those_of_the_docker_that_is_here(
    docker: dict[str, Any], scow: dict[str, Any]
) -> None:
    assert docker["linux"].get("sysctl", {}) == scow["linux"]["sysctl"]
    theirs = {entry["type"] for entry in docker["linux"]["namespaces"]}
    assert theirs | {"cgroup"} == {entry["type"] for entry in scow["linux"]["namespaces"]}


def test_devices_are_those_of_the_docker_that_is_here(docker: dict[str, Any], scow: dict[str, Any]) -> None:
    def usable(config: dict[str, Any]) -> set[tuple[Any, ...]]:
        return {
            (rule["type"], rule["major"], rule.get("minor"), rule["access"])
            for rule in config["linux"]["resources"]["devices"]
            if rule["allow"] and "major" in rule
        }

    added_by_runc = {("c", 1, 7, "rwm"), ("c", 5, 2, "rwm"), ("c", 136, None, "rwm")}
    assert usable(scow) == usable(docker) | added_by_runc
    assert docker["linux"].get("devices", []) == scow["linux"]["devices"] == []


def test_the_filter_refuses_what_the_docker_here_refuses(docker: dict[str, Any], scow: dict[str, Any]) -> None:
    def allowed(config: dict[str, Any]) -> set[str]:
        return {
            name
            for rule in config["linux"]["seccomp"]["syscalls"]
            if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
            for name in rule["names"]
        }

    if "seccomp" not in docker["linux"]:
        pytest.skip("this dockerd has no seccomp")
    assert docker["linux"]["seccomp"]["defaultAction"] == scow["linux"]["seccomp"]["defaultAction"]
    less = allowed(docker) - allowed(scow)
    conditional = {name for rule in scow["linux"]["seccomp"]["syscalls"] if rule.get("args") for name in rule["names"]}
    assert less - conditional <= _HARDENED_SINCE
    dangerous = ("mount", "unshare", "setns", "bpf", "keyctl", "add_key", "request_key", "kexec_load", "init_module",
                 "open_by_handle_at", "userfaultfd", "perf_event_open", "reboot", "swapon")  # fmt: skip
    assert not allowed(scow) & {*dangerous}


def test_the_systems_mounts_are_those_of_the_docker_that_is_here(docker: dict[str, Any], scow: dict[str, Any]) -> None:
    ours = {mount["destination"]: mount for mount in scow["mounts"]}
    for mount in docker["mounts"]:
        has = ours.pop(mount["destination"])
        assert has["type"] == mount["type"]
        if mount["type"] != "bind":
            protective = {"ro", "nosuid", "nodev", "noexec"}
            assert set(mount["options"]) & protective <= set(has["options"])
    assert ours == {}
    assert os.path.basename(docker["root"]["path"]) and not docker["root"].get("readonly")
