"""What a start of the daemon finds: containers that went on or ended meanwhile, and what a crash left half-made.

The state says what should be, the kernel what is. Every difference is mended and said in one line.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from scow.engine import commit, create, net_rate, restart_policy
from scow.engine.exit_record import read_exit
from scow.engine.launch import hold_volumes, tear_down
from scow.engine.lifecycle import MONITOR_LOST, lost
from scow.engine.model import ContainerState
from scow.engine.monitor_connection import MonitorConnection, forget_socket
from scow.engine.remove import auto_remove
from scow.errors import PluginError, ScowError
from scow.ports import RUNTIME, STORAGE
from scow.state import CloseIntent

if TYPE_CHECKING:
    from scow.engine.containers import Containers
    from scow.engine.live import Live
    from scow.ports.network import Attachment
    from scow.ports.runtime import Runtime
    from scow.ports.storage import StorageDriver

log = logging.getLogger(__name__)

_CONTAINER_KEY = re.compile(r"[0-9a-f]{64}")


class Reconcile:
    """One pass at start; `run` answers the lines that were repaired."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._repaired: list[str] = []

    async def run(self) -> list[str]:
        """Every container is connected to its monitor or recorded as ended, and nothing of unknown ones is left."""
        containers = self._containers
        await asyncio.gather(*(self._adopt(live) for live in containers.all_live()))
        await self._networks()
        for live in containers.all_live():
            await self._finish(live)
        await self._sweep()
        known = {live.record.id: live for live in containers.all_live()}
        for intent in containers.state.open_intents():
            if intent.kind == create.INTENT:
                for name in msgspec.json.decode(intent.data, type=list[str]):
                    await containers.volumes.remove(name, force=True)
            elif intent.kind == commit.INTENT and intent.object_id in known:
                await commit.go_on(containers, known[intent.object_id])
            await containers.state.commit(CloseIntent(intent.id))
            self._repaired.append(f"{intent.kind} of {intent.object_id[:12]} was cut short and is undone")
        return self._repaired

    async def boot(self) -> None:
        """Containers whose restart policy says so are started."""
        for live in self._containers.all_live():
            record = live.record
            if record.state.status == "restarting" or (
                not record.state.running and restart_policy.wants_boot(record.host_config.restart_policy, record.state)
            ):
                try:
                    await self._containers.lifecycle.start(live)
                except ScowError as error:
                    log.error("container %s (%s) is not started: %s", record.id[:12], record.name, error)

    # ------------------------------------------------------------------ containers

    async def _adopt(self, live: Live) -> None:
        """A container that was started, or was being started, is connected again or its end is known."""
        containers, record = self._containers, live.record
        starting = any(
            intent.kind == "start" and intent.object_id == record.id for intent in containers.state.open_intents()
        )
        if not record.state.running and not starting:
            return
        try:
            monitor = await MonitorConnection.connect(containers.config.run_root, record.id)
        except OSError as error:
            log.debug("container %s: %s", record.id[:12], error)
            if error.errno == errno.ECONNREFUSED:
                forget_socket(containers.config.run_root, record.id)
            return
        running = await monitor.state()
        if not record.state.running:  # killed between execve and commit: what runs is the truth
            if not running["started"]:
                await monitor.destroy()
                return
            state = ContainerState(
                status="running",
                pid=running["pid"],
                start_ticks=running["start_ticks"],
                boot_id=self._containers.boot_id,
                monitor_pid=monitor.pid,
                monitor_ticks=monitor.start_ticks,
                started_ns=time.time_ns(),
                restart_count=record.state.restart_count,
            )
            await self._containers.save(live, msgspec.structs.replace(record, state=state))
            self._repaired.append(f"container {record.id[:12]} had been started just before the end")
        monitor.directory = containers.directory(record.id)
        try:
            monitor.module = (await containers.drivers.driver(RUNTIME, record.runtime)).child_module
        except PluginError as error:  # it runs on; what needs its runtime says so again
            log.error("container %s: %s", record.id[:12], error)
        await hold_volumes(self._containers, live.record)
        self._adopt_execs(live, running)
        containers.follow(live, monitor)

    def _adopt_execs(self, live: Live, running: dict[str, Any]) -> None:
        from scow.engine.model import ExecRecord
        from scow.types import ExecRequest

        for exec_id, told in running.get("execs", {}).items():
            live.execs[exec_id] = ExecRecord(
                id=exec_id,
                container_id=live.record.id,
                request=ExecRequest(tty=bool(told.get("tty"))),
                running=told.get("exit_code") is None,
                pid=told.get("pid") or 0,
                exit_code=told.get("exit_code"),
            )

    async def _networks(self) -> None:
        attachments: list[tuple[str, Attachment]] = [
            (endpoint.network_id, endpoint.attachment)
            for live in self._containers.all_live()
            if live.monitor is not None
            for endpoint in live.record.endpoints.values()
            if endpoint.attachment is not None
        ]
        self._repaired += await self._containers.networks.restore(attachments)
        for live in self._containers.all_live():
            if live.monitor is not None and live.record.options.net_rate.limited:
                try:
                    await net_rate.hold(self._containers, live.record, live.record.options.net_rate)
                except ScowError as error:
                    self._repaired.append(f"container {live.record.id[:12]}: its net-rate is not held: {error}")

    async def _finish(self, live: Live) -> None:
        """A container that is said to run but has no monitor has ended: by its exit record, or it was lost."""
        record = live.record
        containers = self._containers
        if record.state.status == "removing":
            await auto_remove(containers, live)
            self._repaired.append(f"removal of container {record.id[:12]} was finished")
        elif record.state.running and live.monitor is None:
            exit = await asyncio.to_thread(read_exit, containers.directory(record.id), record.state.started_ns)
            if exit is None:
                same_boot = record.state.boot_id == containers.boot_id
                exit = lost(MONITOR_LOST if same_boot else "the host was restarted")
            await containers.lifecycle.ended(live, exit)
            self._repaired.append(f"container {record.id[:12]} ended meanwhile with {exit['exit_code']}")
        elif not record.state.running and any(e.attachment for e in record.endpoints.values()):
            await tear_down(containers, record, record.endpoints)

    # ------------------------------------------------------------------ what belongs to nobody

    async def _sweep(self) -> None:
        containers = self._containers
        known = {record.id for record in containers.records()}
        drivers = containers.drivers
        storage = containers.config.drivers["storage"]
        for snapshot in await drivers.call(STORAGE, storage, "list", lambda d: d.list()):
            key = snapshot.key
            if not snapshot.committed and _CONTAINER_KEY.fullmatch(key) and key not in known:
                await drivers.call(STORAGE, storage, "remove", partial(_remove, key=key))
                self._repaired.append(f"the root of unknown container {key[:12]} is removed")
        await self._sweep_runtimes(known)
        folder = containers.config.data_root / "containers"
        for entry in await asyncio.to_thread(os.listdir, folder):
            if entry not in known:
                await asyncio.to_thread(shutil.rmtree, folder / entry)
                self._repaired.append(f"the folder of unknown container {entry[:12]} is removed")

    async def _sweep_runtimes(self, known: set[str]) -> None:
        """No cgroup is left of unknown and ended containers, with the default runtime or any other that has some."""
        containers, drivers = self._containers, self._containers.drivers
        default = containers.config.drivers["runtime"]
        others = {name for kind, name in drivers.host.instances if kind == RUNTIME.name}
        others |= {record.runtime for record in containers.records()}
        for runtime in (default, *sorted(others - {default})):
            try:
                found = await drivers.call(RUNTIME, runtime, "list", lambda d: d.list())
            except PluginError as error:
                if runtime == default:
                    raise
                log.info("runtime %r: %s", runtime, error)
                continue
            for id in found:
                live = None if id not in known else containers.live(id)
                if live is None or live.monitor is None:
                    await drivers.call(RUNTIME, runtime, "delete", partial(_delete, id=id))
                    self._repaired.append(f"the cgroup of {id[:12]} is removed")


def _remove(driver: StorageDriver, key: str) -> None:
    driver.remove(key)


def _delete(driver: Runtime, id: str) -> None:
    driver.delete(id)
