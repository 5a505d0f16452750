"""Images on fakes: a registry and a storage driver in memory, a real state and content store in a folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scow.config import Config
from scow.content import ContentStore
from scow.engine.drivers import Drivers
from scow.engine.images import Images
from scow.engine.model import Container, Event, Image
from scow.ports import DriverKind
from scow.ports.registry import Credentials
from scow.reference import Reference
from scow.state import State
from scow.testing.fakes_registry import FakeRegistry, FileTree, SmallImage, make_image
from scow.testing.fakes_storage import FakeStorage
from scow.workers import Pool

BASE: FileTree = {"etc/": None, "etc/passwd": "root:x:0:0", "bin/sh": "#!"}
BIG: FileTree = {f"file{n}": bytes([n]) * 70000 for n in range(10)}


def image(*layers: Any, **options: Any) -> SmallImage:
    """An image of *layers*, by default a base and one file over it."""
    return make_image(*(layers or (BASE, {"app": "1"})), **options)


@dataclass
class FakeHost:
    """Two registries, of which ``other`` wants the host ``other.example``, and a storage driver."""

    registry: FakeRegistry = field(default_factory=FakeRegistry)
    other: FakeRegistry = field(default_factory=lambda: FakeRegistry("other.example"))
    storage: FakeStorage = field(default_factory=FakeStorage)
    credentials: Credentials | None = None

    def __post_init__(self) -> None:
        self.pools: dict[str, Pool] = {}

    def names(self, kind: DriverKind[Any]) -> list[str]:
        return ["dockerhub", "other"] if kind.name == "registry" else ["overlay"]

    def driver(self, kind: DriverKind[Any], name: str | None = None) -> Any:
        if kind.name == "storage":
            return self.storage
        return self.other if name == "other" else self.registry

    async def load(self, kind: DriverKind[Any], name: str | None = None) -> Any:
        return self.driver(kind, name)

    async def call(
        self, kind: DriverKind[Any], name: str | None, fn: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        pool = self.pools.setdefault(f"{kind.name} {name}", Pool(f"{kind.name} driver {name!r}", "fake 1"))
        return await pool.call(fn, *args, **options)

    async def registry_credentials(self, host: str) -> Credentials | None:
        return self.credentials

    def close(self) -> None:
        for pool in self.pools.values():
            pool.close()


class RecordedEvents:
    """Events in a list."""

    def __init__(self) -> None:
        self.emitted: list[Event] = []

    async def emit(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        self.emitted.append(
            Event(type=type, action=action, actor_id=actor_id, attributes=dict(attributes), time_ns=time.time_ns())
        )


class Kit:
    """What a test holds. *users* are the containers that exist."""

    def __init__(self, root: Path, state: State) -> None:
        self.host = FakeHost()
        self.registry, self.storage = self.host.registry, self.host.storage
        self.events = RecordedEvents()
        self.content = ContentStore(root / "content")
        self.state = state
        self.users: list[Container] = []
        self.messages: list[dict[str, Any]] = []
        self.images = self.again()

    def again(self, config: Config = Config()) -> Images:  # noqa: B008  (immutable)
        """As after a restart of the daemon, with *config*."""
        images = Images(
            self.host,  # type: ignore[arg-type]
            Drivers(self.host),  # type: ignore[arg-type]
            self.state,
            self.events,  # type: ignore[arg-type]
            self.content,
            config,
            in_use=lambda id: [user for user in self.users if user.image_id == id],
        )
        images.load()
        return images

    async def pull(self, ref: str, **options: Any) -> Image:
        return await self.images.pull(Reference.parse(ref), progress=self.messages.append, **options)

    def statuses(self) -> list[str]:
        return [message["status"] for message in self.messages if "status" in message]

    def actions(self) -> list[tuple[str, str]]:
        return [(event.action, event.actor_id) for event in self.events.emitted]


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[Kit]:
    state = await State.open(root / "scow.db")
    kit = Kit(root, state)
    try:
        yield kit
    finally:
        kit.host.close()
        await state.close()


def run(root: Path, test: Callable[[Kit], Any]) -> None:
    """Runs the coroutine function *test* with a kit."""

    async def body() -> None:
        async with opened(root) as kit:
            await test(kit)

    asyncio.run(body())
