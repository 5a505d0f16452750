"""The engine: config, plugins, state and the objects, wired together. What the API (or an embedder) holds."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from scow.content import ContentStore
from scow.engine.archives import Archives
from scow.engine.containers import Containers
from scow.engine.disk_usage import DiskUsage
from scow.engine.drivers import Drivers
from scow.engine.execs import Execs
from scow.engine.images import Images
from scow.engine.measures import Measures
from scow.engine.networks import Networks
from scow.engine.prune import Prune
from scow.engine.reconcile import Reconcile
from scow.engine.system import System
from scow.engine.volumes import Volumes
from scow.engine.zygote import Zygote
from scow.events import Events
from scow.host import PluginHost
from scow.linux.mounts import umount_below
from scow.ports import RUNTIME, STORAGE
from scow.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.config import Config
    from scow.engine.model import Container

log = logging.getLogger(__name__)


class Engine:
    """Made cheap; `open` makes it work and sets *ready*. The API answers ``_ping`` before that and waits for the rest.

    *repaired* says what `open` mended, *problems* what this host lacks: containers that need it say so at their start.
    """

    state: State
    events: Events
    containers: Containers
    execs: Execs
    images: Images
    networks: Networks
    volumes: Volumes
    archives: Archives
    disk_usage: DiskUsage
    prune: Prune
    system: System
    zygote: Zygote
    _measures: Measures

    def __init__(self, config: Config, host: PluginHost | None = None) -> None:
        self.config = config
        self.host = host or PluginHost(config)
        self.drivers = Drivers(self.host)
        self.ready = asyncio.Event()
        self.repaired: list[str] = []
        self.problems: Sequence[str] = ()

    async def open(self) -> None:
        """State is read, the kernel is compared with it, and what differed is repaired."""
        config = self.config
        await asyncio.to_thread(_make_roots, config.data_root, config.run_root)
        self.state = await State.open(config.data_root / "scow.db")
        self.events = Events(self.state, self.host.post)
        runtime = await self.drivers.driver(RUNTIME, config.drivers["runtime"])
        self.zygote = await Zygote.start(config.run_root, [runtime.child_module])
        content = ContentStore(config.data_root / "content")
        self.containers = Containers(config, self.drivers, self.state, self.events, self.zygote)
        self.images = Images(
            self.host, self.drivers, self.state, self.events, content, config, in_use=self._image_users
        )
        scratch = config.run_root / "mnt"
        users = self.containers.records
        self.volumes = Volumes(self.drivers, self.state, self.events, config.drivers["volume"], users, scratch)
        self.networks = Networks(self.drivers, self.state, config, self.containers.records)
        self.execs = Execs(self.containers)
        self.containers.images = self.images
        self.containers.networks = self.networks
        self.containers.volumes = self.volumes
        self.archives = Archives(self.images.parts, self.containers, self.events, scratch)
        self._measures = Measures(self.state)
        self.disk_usage = DiskUsage(self, self._measures)
        self.prune = Prune(self)
        self.system = System(self)
        await self._load()

    async def _load(self) -> None:
        for part in (self.images, self.volumes, self.networks, self.containers, self._measures):
            await asyncio.to_thread(part.load)
        await self.drivers.driver(STORAGE, self.config.drivers["storage"])
        await self.networks.ensure_builtin()
        await asyncio.to_thread(self.host.load_plugins)
        reconcile = Reconcile(self.containers)
        self.repaired = await reconcile.run()
        self.problems = self.networks.problems
        for line in self.repaired:
            log.warning("repaired: %s", line)
        self.ready.set()
        self.containers.spawn(reconcile.boot())
        self._sweeping = asyncio.create_task(self.images.keep_swept())

    def _image_users(self, image_id: str) -> list[Container]:
        return [record for record in self.containers.records() if record.image_id == image_id]

    async def close(self) -> None:
        """The daemon lets go; containers run on with their monitors. Where none runs, nothing stays in the kernel."""
        if not self.ready.is_set():
            return
        self.containers.closing = True
        self._sweeping.cancel()
        await self.zygote.close()
        await self._measures.close()
        await self.containers.close()
        if not any(record.state.running for record in self.containers.records()):
            await self.networks.release()
        self.events.close()
        self.host.close()
        await self.state.close()


def _make_roots(data_root: Path, run_root: Path) -> None:
    for path, mode in (
        (data_root, 0o711),
        (data_root / "containers", 0o711),
        (data_root / "content", 0o700),
        (run_root, 0o711),
        (run_root / "m", 0o700),
        (run_root / "mnt", 0o700),
    ):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    scratch = run_root / "mnt"
    umount_below(str(scratch))  # what a killed daemon was copying from
    for left in scratch.iterdir():
        left.rmdir()
