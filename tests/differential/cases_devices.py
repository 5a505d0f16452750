"""``linux.devices`` and the device cgroup."""

from __future__ import annotations

from tests.differential.bundle import mount, root_capabilities
from tests.differential.corpus import Spec, case
from tests.differential.run import Run

_TRY = {
    "zero": "head -c 1 /dev/zero | wc -c",
    "null": "echo x > /dev/null && echo written",
    "full": "echo x > /dev/full",
    "fuse": "head -c 1 /dev/fuse 2>&1 | grep -o 'not permitted'",
    "make": "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem 2>&1 | grep -o 'not permitted'",
    "list": "ls /dev/fuse",
}


def allow(spec: Spec, **rule: object) -> None:
    """One more rule of the device cgroup."""
    spec["linux"]["resources"]["devices"].append({"allow": True, **rule})


@case("dev", sh=_TRY, sample=True)
def devices_default(spec: Spec, run: Run) -> None:
    """The devices that every container has, and no others by mknod."""
    root_capabilities(spec, "CAP_MKNOD")


@case("dev", sh=_TRY, sample=True)
def devices_more(spec: Spec, run: Run) -> None:
    """More devices: character, block and fifo, with modes and owners, in folders of /dev."""
    root_capabilities(spec, "CAP_MKNOD")
    spec["linux"]["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 8, "gid": 12},
        {"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o644},
        {"path": "/dev/plain", "type": "u", "major": 1, "minor": 3},
    ]
    allow(spec, type="c", major=10, minor=229, access="rwm")


@case("dev")
def device_instead_of_a_default_one(spec: Spec, run: Run) -> None:
    """An entry for a device that is there anyhow: its mode and owner hold."""
    spec["linux"]["devices"] = [
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o606, "uid": 8, "gid": 12}
    ]


@case(sh={"made": "stat -c '%A %t,%T' /srv/null"})
def device_outside_dev(spec: Spec, run: Run) -> None:
    """A device elsewhere than in /dev."""
    spec["linux"]["devices"] = [{"path": "/srv/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]


@case()
def device_of_no_type(spec: Spec, run: Run) -> None:
    """A device of an unknown type is an error."""
    spec["linux"]["devices"] = [{"path": "/dev/odd", "type": "x", "major": 1, "minor": 3}]


@case(sh=_TRY)
def device_rules(spec: Spec, run: Run) -> None:
    """Rules hold in their order: all, but not /dev/zero."""
    root_capabilities(spec, "CAP_MKNOD")
    spec["linux"]["resources"]["devices"] = [
        {"allow": True, "access": "rwm"},
        {"allow": False, "type": "c", "major": 1, "minor": 1, "access": "r"},
    ]


@case(sh=_TRY, sample=True)
def device_rules_none(spec: Spec, run: Run) -> None:
    """No rule at all."""
    root_capabilities(spec, "CAP_MKNOD")
    spec["linux"]["resources"] = {}


@case(
    sh={"read": "head -c 1 /dev/fuse 2>&1 | grep -o 'not permitted'", "make": "mknod /tmp/fuse c 10 229 && echo made"}
)
def device_rule_for_making_only(spec: Spec, run: Run) -> None:
    """A device that may be made and not be opened."""
    root_capabilities(spec, "CAP_MKNOD")
    spec["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    allow(spec, type="c", major=10, minor=229, access="m")


@case("dev", "mount", sh={"pts": "ls -l /dev/pts | awk '{print $1, $5, $6}'"})
def devpts_options(spec: Spec, run: Run) -> None:
    """Group and mode of the terminals."""
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["destination"] != "/dev/pts"]
    options = ("newinstance", "ptmxmode=0600", "mode=0600", "gid=5")
    spec["mounts"].append(mount("/dev/pts", "devpts", "devpts", *options))
