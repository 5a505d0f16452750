"""Removes containers, on request and by ``--rm``."""

from __future__ import annotations

import asyncio
import logging
import shutil
from typing import TYPE_CHECKING

import msgspec

from scow.engine.live import WaitResult
from scow.engine.records import KIND
from scow.errors import Conflict, NotFound, ScowError
from scow.ports import STORAGE
from scow.state import Delete

if TYPE_CHECKING:
    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.engine.model import Container

log = logging.getLogger(__name__)


async def remove(containers: Containers, live: Live, *, force: bool, volumes: bool) -> None:
    """See `Containers.remove`."""
    while True:
        _check(live.record, force)
        containers.lifecycle.cancel_restart(live)
        if live.record.state.running:
            await containers.lifecycle.kill_now(live)
        async with live.lock:
            if not containers.knows(live):
                return  # --rm was quicker
            if not live.record.state.running:
                await _remove_locked(containers, live, volumes)
                return
        # another client started it between the kill and the lock: that run must end as well, or it is nobody's


def _check(record: Container, force: bool) -> None:
    if force:
        return
    if record.state.status == "removing":
        raise Conflict(f"removal of container {record.name} is already in progress")
    if record.state.running or record.state.status == "restarting":
        cure = ": stop the container before removing or force remove"
        if record.state.status == "paused":
            cure = " and must be unpaused first"
        raise Conflict(f'cannot remove container "/{record.name}": container is {record.state.status}{cure}')


async def auto_remove(containers: Containers, live: Live) -> None:
    """``--rm``: the ended container is removed with its anonymous volumes; a failure is logged."""
    try:
        await remove(containers, live, force=True, volumes=True)
    except ScowError as error:
        log.error("container %s could not be removed: %s", live.record.id[:12], error)


async def _remove_locked(containers: Containers, live: Live, volumes: bool) -> None:
    record = live.record
    state = msgspec.structs.replace(record.state, status="removing")
    await containers.save(live, msgspec.structs.replace(record, state=state), durable=False)
    await containers.drivers.call(STORAGE, record.storage_driver, "remove", lambda d: d.remove(record.id))
    await asyncio.to_thread(_remove_tree, containers.directory(record.id))
    await containers.state.commit(Delete(KIND, record.id))
    containers.forget(live)
    containers.ids.release(record.id)
    try:
        for point in record.mounts if volumes else ():
            if point.anonymous:
                await _remove_volume(containers, point.name)
    finally:  # who waits for the removal finds no volume either (moby: daemon/delete.go)
        for session in live.sessions:
            session.abort()
        live.resolve(("removed", "not-running", "next-exit"), WaitResult(record.state.exit_code))
        containers.tell(live, "destroy")


def _remove_tree(directory: object) -> None:
    try:
        shutil.rmtree(str(directory))
    except FileNotFoundError:
        log.debug("%s was gone already", directory)


async def _remove_volume(containers: Containers, name: str) -> None:
    try:
        await containers.volumes.remove(name)
    except (Conflict, NotFound) as error:
        log.debug("volume %s stays: %s", name, error)
