"""``--userns``: which containers have a user namespace, and with which ids.

A container that joins namespaces of another one (``--network``, ``--pid``, ``--ipc container:…``) lives in that one's
user namespace: the kernel gives rights over a namespace only to the user namespace that made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scow.engine.spec import joins
from scow.errors import Conflict, InvalidArgument, NotFound, Unsupported
from scow.options import USERNS_MODES
from scow.ports import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.engine.containers import Containers
    from scow.engine.id_ranges import IdRange
    from scow.engine.model import Container, MountPoint
    from scow.types import HostConfig

AUTO = "auto"
MAPPED_WORDS = frozenset({"idmap", "ridmap"})
_HOST_MODES = (("host's network", "network_mode"), ("host PID", "pid_mode"), ("host IPC", "ipc_mode"))


def choose(containers: Containers, host: HostConfig) -> tuple[str, Container | None]:
    """The mode (``host`` or ``auto``) of a container that asks for *host*, and whose user namespace it joins.

    Raises `InvalidArgument` for what a container with a user namespace cannot have, in Docker's words.
    """
    asked = host.userns_mode
    if asked not in USERNS_MODES:
        raise InvalidArgument(f"invalid userns mode: {asked}", hint="use auto or host")
    mode = asked or containers.config.userns
    others = list(_others(containers, host)) if mode == AUTO else []
    if not asked and others and not any(other.ids for other in others):
        return "host", None
    if mode != AUTO:
        return "host", None
    _check(host)
    ranges = {(other.ids.uid, other.ids.gid) if other.ids else None for other in others}
    if None in ranges:
        other = next(other for other in others if not other.ids)
        raise InvalidArgument(
            f"container {other.name} has no user namespace that this one could join", hint="use --userns host"
        )
    if len(ranges) > 1:
        names = ", ".join(other.name for other in others)
        raise InvalidArgument(f"containers {names} have different user namespaces: only one can be joined")
    return AUTO, others[0] if others else None


def _others(containers: Containers, host: HostConfig) -> list[Container]:
    found = []
    for ref in joins(host).values():
        try:
            found.append(containers.get(ref))
        except NotFound:
            continue  # an error at start, as in Docker
    return found


def _check(host: HostConfig) -> None:
    if host.privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces",
            hint="use --userns host with --privileged",
        )
    for name, field in _HOST_MODES:
        if getattr(host, field) == "host":
            raise InvalidArgument(
                f"cannot share the {name} namespace when user namespaces are enabled",
                hint="use --userns host, or leave out that namespace's mode",
            )


async def give_ids(containers: Containers, id: str, host: HostConfig, points: Sequence[MountPoint]) -> IdRange | None:
    """The ids of the new container *id*, None with those of the host; `IdRanges.release` gives them back.
    *host* says afterwards what holds. Raises `InvalidArgument`, also for a bind of *points* that asks to be idmapped
    without a user namespace, `Unsupported` for a runtime that has none, and `Unavailable` where no ids are left."""
    mode, other = choose(containers, host)
    if mode != AUTO:
        _check_mounts(points)
        return None
    if host.runtime not in containers.ids.runtimes:
        info = await containers.drivers.call(RUNTIME, host.runtime, "info", lambda d: d.info())
        if not info.features.get("user_namespaces"):
            raise Unsupported(f"runtime {host.runtime} makes no user namespaces", hint="use --userns host")
        containers.ids.runtimes.add(host.runtime)
    host.userns_mode = AUTO
    if other is not None and other.ids is not None:
        return containers.ids.share(id, other.id, other.ids)
    return containers.ids.allocate(id)


def _check_mounts(points: Sequence[MountPoint]) -> None:
    for point in points:
        if MAPPED_WORDS & set(point.mode.split(",")):
            raise InvalidArgument(
                f"bind {point.source}:{point.destination}: idmap needs a user namespace", hint="use --userns auto"
            )


def joined_pid(containers: Containers, ids: IdRange) -> int | None:
    """The process whose user namespace a container with *ids* joins; None for one of its own. Raises `Conflict` where
    that is not running, or has other ids by now."""
    if not ids.shared_with:
        return None
    try:
        other = containers.get(ids.shared_with)
    except NotFound:
        other = None
    if other is None or not other.state.running or other.ids is None or other.ids.uid != ids.uid:
        raise Conflict(f"cannot join the user namespace of container {ids.shared_with[:12]}: it is not running")
    return other.state.pid
