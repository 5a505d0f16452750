"""What a container gets without being asked is what Docker gives it: each default against the facts written down from
moby's sources (``data/docker_defaults.json`` names them). Where the two differ on purpose, it says so here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scow.engine import spec, spec_defaults
from scow.engine.seccomp_profile import default_profile
from scow.linux.capabilities import NUMBERS
from scow.testing.runtime import record
from scow.types import HostConfig

DOCKER: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "docker_defaults.json").read_text())
SECCOMP: dict[str, Any] = DOCKER["seccomp"]
OBSOLETE_FAMILIES = {12, 19, 20, 23, 25, 34, 37}
"""Address families whose code left the kernel, or that no program uses (DECnet, Econet, ATM SVC, IrDA, WANPIPE,
mISDN, CAIF): Docker allows them, here they are refused, as ALG and VSOCK are by both."""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return spec.build(record("a" * 64, ["true"]), directory=Path("/containers/a"))


def test_capabilities_are_dockers(made: dict[str, Any]) -> None:
    sets = made["process"]["capabilities"]
    for kind in ("bounding", "effective", "permitted"):
        assert sorted(sets[kind]) == DOCKER["capabilities"]
    assert not sets.get("inheritable") and not sets.get("ambient")  # CVE-2022-24769


def test_masked_and_read_only_paths_are_dockers(made: dict[str, Any]) -> None:
    pattern = DOCKER["masked_where_present"].format(number="*").removeprefix("/")
    expected = [*DOCKER["masked_paths"], *sorted(f"/{path}" for path in Path("/").glob(pattern))]
    assert sorted(made["linux"]["maskedPaths"]) == sorted(expected)
    assert sorted(made["linux"]["readonlyPaths"]) == DOCKER["readonly_paths"]


def test_sysctls_and_namespaces_are_dockers(made: dict[str, Any]) -> None:
    assert made["linux"]["sysctl"] == DOCKER["sysctls"]
    kinds = sorted(entry["type"] for entry in made["linux"]["namespaces"])
    assert kinds == sorted([*DOCKER["namespaces"], "cgroup"])  # Docker: with cgroup version 2 only
    assert not any(entry.get("path") for entry in made["linux"]["namespaces"])


def test_no_ulimit_no_score_and_no_device_is_set_that_docker_does_not_set(made: dict[str, Any]) -> None:
    assert not made["process"].get("rlimits")
    assert made["process"]["oomScoreAdj"] == 0
    assert made["process"]["noNewPrivileges"] is False
    assert not made["linux"]["devices"]


def test_the_devices_that_may_be_used_are_dockers_and_those_that_runc_adds(made: dict[str, Any]) -> None:
    rules = made["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert all(rule["allow"] for rule in rules[1:])
    usable = {
        f"{rule['type']} {rule['major']}:{rule.get('minor', '*')} {rule['access']}" for rule in rules if "major" in rule
    }
    assert usable == {*DOCKER["devices_allowed"], "c 1:7 rwm", "c 5:2 rwm", "c 136:* rwm"}  # full, ptmx, pts
    any_node = [rule for rule in rules[1:] if "major" not in rule]
    assert [(rule["type"], rule["access"]) for rule in any_node] == [("c", "m"), ("b", "m")]


def test_the_systems_mounts_are_dockers(made: dict[str, Any]) -> None:
    mounts = {mount["destination"]: [mount["type"], *mount["options"]] for mount in made["mounts"]}
    for destination, (kind, *options) in DOCKER["mounts"].items():
        has = mounts.pop(destination)
        assert has[0] == kind
        extra = set(has[1:]) - set(options) - {"relatime", f"size={spec_defaults.SHM_SIZE_BYTES}"}
        assert (extra, set(options) - set(has[1:])) == (set(), set()), destination
    assert set(mounts) == {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}


def test_a_privileged_container_has_what_dockers_has() -> None:
    made = spec.build(record("a" * 64, ["true"], host=HostConfig(privileged=True)), directory=Path("/containers/a"))
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert "seccomp" not in made["linux"]
    assert "cgroup" not in {entry["type"] for entry in made["linux"]["namespaces"]}


# -- seccomp

Rules = dict[str, list[list[Any]]]


def rules(caps: set[str]) -> Rules:
    """Each system call of the default profile with what is decided for it: action, errno, conditions on arguments."""
    found: Rules = {}
    for rule in default_profile(frozenset(caps), "amd64")["syscalls"]:
        arguments = [
            [arg["index"], arg["op"].removeprefix("SCMP_CMP_"), arg.get("value", 0), arg.get("valueTwo", 0)]
            for arg in rule.get("args") or ()
        ]
        for name in rule["names"]:
            decision = [rule["action"].removeprefix("SCMP_ACT_"), rule.get("errnoRet") or 0, arguments]
            found.setdefault(name, []).append(decision)
    return found


def allowed(decisions: Rules) -> set[str]:
    return {name for name, found in decisions.items() if ["ALLOW", 0, []] in found}


def families(decisions: list[list[Any]]) -> set[int]:
    """The address families below 46 that socket(2) is allowed for."""
    compare = {"EQ": int.__eq__, "LT": int.__lt__, "GT": int.__gt__}
    return {n for n in range(46) for _, _, [[_, op, value, _]] in decisions if compare[op](n, value)}


def test_the_filter_of_a_container_without_capabilities_is_dockers() -> None:
    decided = rules(set())
    assert sorted(allowed(decided)) == SECCOMP["always"]
    assert sorted(set(decided) - allowed(decided)) == sorted(SECCOMP["conditions"])
    for name, decisions in SECCOMP["conditions"].items():
        if name == "socket":
            assert families(decisions) - families(decided[name]) == OBSOLETE_FAMILIES
            assert families(decided[name]) <= families(decisions)
        else:
            assert sorted(decided[name]) == decisions, name


@pytest.mark.parametrize("capability", sorted(NUMBERS))
def test_what_a_capability_adds_to_the_filter_is_what_docker_adds(capability: str) -> None:
    more = SECCOMP["by_capability"].get(capability, {"allows": []})
    decided = rules({capability})
    assert sorted(allowed(decided) - set(SECCOMP["always"])) == more["allows"]
    if capability == "CAP_SYS_ADMIN":
        assert ["ERRNO", 38, []] not in decided["clone3"]


def test_the_filters_default_is_dockers() -> None:
    profile = default_profile(frozenset(DOCKER["capabilities"]), "amd64")
    assert [profile["defaultAction"].removeprefix("SCMP_ACT_"), profile["defaultErrnoRet"]] == SECCOMP["default"]
    assert [name.removeprefix("SCMP_ARCH_") for name in profile["architectures"]] == SECCOMP["architectures"]
