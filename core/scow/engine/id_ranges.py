"""Which uids and gids each container with a user namespace of its own has (``--userns auto``).

A container keeps its range for life: it is in its record, no other container has an id of it, stopped ones included,
and removal frees it. Ranges come from the host's /etc/subuid and /etc/subgid (subuid(5)): the lines of the user that
the config key ``userns_user`` names. Where there are none, from `BUILT_IN`, which no distribution gives to anybody.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from scow.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")
_MAX_ID = (1 << 32) - 2


class IdRange(msgspec.Struct, kw_only=True, frozen=True):
    """The ids 0 to *size* - 1 in the container are those from *uid* and *gid* on of the host. *shared_with* is the
    container whose user namespace this one joins (``--network container:…``), ``""`` for one of its own."""

    uid: int
    gid: int
    size: int
    shared_with: str = ""

    def mappings(self) -> dict[str, list[dict[str, int]]]:
        """``linux.uidMappings`` and ``gidMappings`` of the OCI configuration."""
        starts = {"uidMappings": self.uid, "gidMappings": self.gid}
        return {key: [{"containerID": 0, "hostID": start, "size": self.size}] for key, start in starts.items()}


class Pool(NamedTuple):
    """Ids to give away: *size* from *start* on."""

    start: int
    size: int


BUILT_IN = (Pool(0x70000000, 4094 * 65536),)
"""1879048192 to 2147352575: above what useradd and systemd use (systemd.io/UIDS-GIDS), below the foreign ids."""


def read_pools(file: Path, user: str) -> tuple[Pool, ...]:
    """The ranges of *user* in a file as subuid(5) has it; lines that make no sense are left out with a warning."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    pools = []
    for line in text.splitlines():
        name, _, numbers = line.strip().partition(":")
        if name != user:
            continue
        start, _, count = numbers.partition(":")
        if not (start.isdecimal() and count.isdecimal() and int(start) > 0 and int(start) + int(count) <= _MAX_ID):
            log.warning("%s: the line %r is no range of ids", file, line)
            continue
        pools.append(Pool(int(start), int(count)))
    return tuple(pools)


class IdRanges:
    """Gives ranges of *size* ids to containers. Loop only: a range is taken the moment it is chosen.

    *runtimes* are the runtimes that are known to make user namespaces."""

    def __init__(self, size: int, user: str, subuid: Path = SUBUID, subgid: Path = SUBGID) -> None:
        self._size = size
        self._user = user
        self._files = subuid, subgid
        self._held: dict[str, IdRange] = {}
        self._told = False
        self.runtimes: set[str] = set()

    def hold(self, container_id: str, ids: IdRange) -> None:
        """The container has *ids*, as its record says."""
        self._held[container_id] = ids

    def allocate(self, container_id: str) -> IdRange:
        """A range that nobody has is the container's. Raises `Unavailable` where there is none left."""
        pools = [read_pools(file, self._user) for file in self._files]
        if not all(pools):
            pools = [BUILT_IN, BUILT_IN]
            self._tell()
        uid = _free(pools[0], self._size, [(held.uid, held.size) for held in self._held.values()])
        gid = _free(pools[1], self._size, [(held.gid, held.size) for held in self._held.values()])
        if uid is None or gid is None:
            what = "uids" if uid is None else "gids"
            owners = len({(held.uid, held.gid) for held in self._held.values()})
            raise Unavailable(
                f"no range of {self._size} {what} is left for a user namespace: {owners} containers have theirs",
                hint=f"remove containers, give {self._user} more in /etc/subuid and /etc/subgid, or lower userns_size",
            )
        ids = self._held[container_id] = IdRange(uid=uid, gid=gid, size=self._size)
        return ids

    def share(self, container_id: str, other_id: str, ids: IdRange) -> IdRange:
        """The container has the ids of *other_id*, whose user namespace it joins, for as long as either has them."""
        shared = self._held[container_id] = msgspec.structs.replace(ids, shared_with=ids.shared_with or other_id)
        return shared

    def release(self, container_id: str) -> None:
        """The container has no ids any more; no error where it had none."""
        self._held.pop(container_id, None)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            first, count = BUILT_IN[0]
            log.warning(
                "user %s has no lines in /etc/subuid and /etc/subgid: containers with user namespaces get ids from "
                "%d to %d",
                self._user,
                first,
                first + count - 1,
            )


def _free(pools: Iterable[Pool], size: int, held: Iterable[tuple[int, int]]) -> int | None:
    """The lowest id from which *size* ids of one pool are not in *held* (start and count of each)."""
    taken = sorted(held)
    for start, count in pools:
        at = start
        for first, length in taken:
            if first + length <= at:
                continue
            if at + size <= first:
                break
            at = first + length
        if at + size <= start + count:
            return at
    return None
