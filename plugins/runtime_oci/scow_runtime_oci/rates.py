"""Whether a cgroup has the limits of disks that its program was told: runc's ``update`` passes over them, silently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow_runtime_oci.cgroup import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scow.linux.hierarchies import Hierarchies

NAMES = {
    "throttleReadBpsDevice": ("read_bps", "rbps"),
    "throttleWriteBpsDevice": ("write_bps", "wbps"),
    "throttleReadIOPSDevice": ("read_iops", "riops"),
    "throttleWriteIOPSDevice": ("write_iops", "wiops"),
}
"""By member of the spec's ``blockIO``: the word of version 1 and that of version 2."""


def of(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The part of *resources* that is about rates; empty where nothing is."""
    rates = {name: given for name, given in (resources.get("blockIO") or {}).items() if name in NAMES and given}
    return {"blockIO": rates} if rates else {}


def without(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of *resources*."""
    rest = {name: given for name, given in (resources.get("blockIO") or {}).items() if name not in NAMES}
    kept = {name: given for name, given in resources.items() if name != "blockIO"}
    return {**kept, "blockIO": rest} if rest else kept


def missing(hierarchies: Hierarchies, path: str, resources: Mapping[str, Any]) -> Iterator[str]:
    """The rates in *resources* that the group *path* does not have, for people."""
    for name, devices in of(resources).get("blockIO", {}).items():
        for device in devices:
            number = f"{device['major']}:{device['minor']}"
            if _held(hierarchies, path, name, number) != device["rate"]:
                yield f"{name} {number}"


def _held(hierarchies: Hierarchies, path: str, name: str, number: str) -> int:
    """0 where there is no limit."""
    legacy, unified = NAMES[name]
    if mount := hierarchies.v1.get("blkio"):
        lines = read(f"{mount}/{path}/blkio.throttle.{legacy}_device").splitlines()
        found = dict(line.split(" ", 1) for line in lines).get(number, "0")
    else:
        lines = read(f"{hierarchies.v2}/{path}/io.max").splitlines()
        words = next((line.split()[1:] for line in lines if line.split()[0] == number), [])
        found = dict(word.split("=", 1) for word in words).get(unified, "0")
    return int(found) if found.isdigit() else 0
