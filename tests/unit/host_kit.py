"""Plugins and drivers for tests of the plugin host, as entry points of a distribution that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

from scow.config import Config
from scow.errors import (
    DriverUnusable,
)
from scow.hookspecs import hookimpl
from scow.host import PluginHost
from scow.installed import PLUGINS_GROUP
from scow.ports import VOLUME, DriverContext
from scow.ports.registry import Credentials
from scow.ports.volume import Volume

CLOSED: list[str] = []


class Volumes:
    """A driver that is falsy, as an empty container is."""

    scope = "local"

    def __init__(self, context: DriverContext) -> None:
        self.context = context

    def __len__(self) -> int:
        return 0

    def check(self) -> None: ...

    def create(self, name: str, options: Any, labels: Any) -> Volume:
        return Volume(name, f"/{name}")

    def get(self, name: str) -> Volume:
        raise LookupError(name)

    def list(self) -> list[Volume]:
        return []

    def mount(self, name: str, holder: str) -> Path:
        return Path("/")

    def unmount(self, name: str, holder: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def close(self) -> None:
        CLOSED.append(self.context.name)

    @hookimpl
    def scow_registry_credentials(self, host: str) -> Credentials | None:
        return Credentials("driver") if host == "driver.example.com" else None


class Unusable(Volumes):
    def check(self) -> None:
        raise DriverUnusable("this kernel has no floppy disks", hint="modprobe floppy")


class Failing(Volumes):
    def __init__(self, context: DriverContext) -> None:
        raise ValueError("no such option")


class Incomplete:
    scope = "local"

    def __init__(self, context: DriverContext) -> None: ...

    def check(self) -> None: ...


class Listening:
    told: list[str] = []

    @hookimpl
    def scow_event(self, action: str) -> None:
        self.told.append(action)


class Configured:
    made_with: list[DriverContext] = []

    def __init__(self, context: DriverContext) -> None:
        self.made_with.append(context)


class Mistyped:
    @hookimpl
    def scow_evnt(self) -> None: ...


class Wrapping:
    @hookimpl(wrapper=True)
    def scow_event(self) -> Iterator[None]:
        yield


class _Dist(Distribution):
    def __init__(self, name: str) -> None:
        self._name = name

    def read_text(self, filename: str) -> str | None:
        return f"Name: {self._name}\nVersion: 1.2\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return path


def entry(name: str, what: str, dist: str = "scow-test", group: str = VOLUME.group) -> EntryPoint:
    found = EntryPoint(name, what if ":" in what else f"{__name__}:{what}", group)
    vars(found)["dist"] = _Dist(dist)
    return found


def make(config: Config, *entries: EntryPoint, plugins: tuple[EntryPoint, ...] = ()) -> PluginHost:
    return PluginHost(config, {VOLUME.group: list(entries), PLUGINS_GROUP: list(plugins)})
