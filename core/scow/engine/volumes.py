"""Named objects over the volume drivers: create, find, hold, fill from the image, remove."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import msgspec

from scow.engine.filters import check_filters, match_labels, match_pattern
from scow.engine.model import VolumeRecord
from scow.engine.names import VOLUME_NAME, new_id
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError, SyscallError
from scow.linux.mounts import mounted
from scow.linux.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSYMFOLLOW,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    mount_setattr,
    open_tree,
    openat2,
)
from scow.ports import VOLUME
from scow.state import Delete, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from scow.engine.drivers import Drivers
    from scow.engine.model import Container, MountPoint
    from scow.events import Events
    from scow.ports import Mount
    from scow.state import State

KIND = "volume"
FILTERS = ("dangling", "driver", "label", "name")
ANONYMOUS = "com.docker.volume.anonymous"  # Docker's label for a volume without a name


class Volumes:
    """The volumes that the engine knows. *users* answers the containers, to refuse removal while in use; *scratch* is a
    folder for short mounts of images."""

    def __init__(
        self,
        drivers: Drivers,
        state: State,
        events: Events,
        default_driver: str,
        users: Callable[[], Sequence[Container]],
        scratch: Path,
    ) -> None:
        self._drivers = drivers
        self._state = state
        self._events = events
        self._default = default_driver
        self._users = users
        self._scratch = scratch
        self._records: dict[str, VolumeRecord] = {}
        self._changed: dict[str, int] = {}
        self._opened_ns = time.time_ns()
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Reads the records; blocking, at start only."""
        for row in self._state.load(KIND):
            record = msgspec.json.decode(row.data, type=VolumeRecord)
            self._records[record.name] = record

    async def create(
        self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]
    ) -> VolumeRecord:
        """The volume exists; one of that name is answered as it is. An empty *name* or Docker's label for it makes an
        anonymous volume."""
        anonymous = not name or ANONYMOUS in labels
        name = name or new_id()
        driver = driver or self._default
        if not VOLUME_NAME.fullmatch(name):
            raise InvalidArgument(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed',
                hint="if you intended to pass a host directory, use an absolute path",
            )
        async with self._lock:
            known = self._records.get(name)
            if known is not None:
                if known.driver != driver:
                    raise Conflict(
                        f"a volume named {name} already exists with the {known.driver} driver",
                        hint="choose a different volume name",
                    )
                return known
            volume = await self._drivers.call(VOLUME, driver, "create", lambda d: d.create(name, options, labels))
            record = VolumeRecord(
                name=name,
                driver=driver,
                created_ns=volume.created_ns or time.time_ns(),
                mountpoint=volume.mountpoint,
                labels=dict(labels),
                options=dict(options),
                anonymous=anonymous,
            )
            await self._state.commit(Put(KIND, name, name, msgspec.json.encode(record)))
            self._records[name] = record
        self._events.post("volume", "create", name, {"driver": driver})
        return record

    def known(self, name: str) -> bool:
        """Whether there is a volume of that name."""
        return name in self._records

    def get(self, name: str) -> VolumeRecord:
        """Raises `NotFound` in Docker's words."""
        try:
            return self._records[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    async def remove(self, name: str, force: bool = False) -> None:
        """The volume and its content are gone; raises `Conflict` while a container has it, running or not."""
        async with self._lock:
            if name not in self._records and force:
                return
            record = self.get(name)
            users = [c.id for c in self._users() if any(point.name == name for point in c.mounts)]
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            try:
                await self._drivers.call(VOLUME, record.driver, "remove", lambda d: d.remove(name), deadline_s=600)
            except NotFound:
                if not force:
                    raise
            await self._state.commit(Delete(KIND, name))
            del self._records[name]
            self._changed.pop(name, None)
        self._events.post("volume", "destroy", name, {"driver": record.driver})

    def changed_ns(self, name: str) -> int:
        """When the volume was last mounted for a container or released, as far as this process knows."""
        return self._changed.get(name, self._opened_ns)

    async def hold(self, point: MountPoint, holder: str) -> str:
        """The host path of volume *point*, mounted for container *holder*."""
        record = self.get(point.name)
        self._changed[point.name] = time.time_ns()
        path = await self._drivers.call(VOLUME, record.driver, "mount", lambda d: d.mount(point.name, holder))
        self._events.post(
            "volume",
            "mount",
            point.name,
            {
                "container": holder,
                "destination": point.destination,
                "driver": record.driver,
                "propagation": point.propagation,
                "read/write": str(point.rw).lower(),
            },
        )
        return str(path)

    async def release(self, point: MountPoint, holder: str) -> None:
        """*holder* needs the volume no longer; a driver that fails is told by the log of the caller."""
        record = self._records.get(point.name)
        if record is None:
            return
        await self._drivers.call(VOLUME, record.driver, "unmount", lambda d: d.unmount(point.name, holder))
        self._changed[point.name] = time.time_ns()
        self._events.post("volume", "unmount", point.name, {"container": holder, "driver": record.driver})

    async def fill(self, point: MountPoint, image_root: Sequence[Mount], holder: str) -> None:
        """Copy-up: an empty volume has the content (and owner and mode) that the image has at its destination."""
        path = await self.hold(point, holder)
        try:
            await asyncio.to_thread(_copy_up, image_root, point.destination, path, self._scratch)
        finally:
            await self.release(point, holder)

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[VolumeRecord]:
        """By name; filters dangling, driver, label, name."""
        filters = check_filters(filters or {}, FILTERS)
        records = sorted(self._records.values(), key=lambda record: record.name)
        if "name" in filters:
            records = [r for r in records if match_pattern(filters["name"], r.name)]
        if "driver" in filters:
            records = [r for r in records if r.driver in filters["driver"]]
        if "label" in filters:
            records = [r for r in records if match_labels(filters["label"], r.labels)]
        if "dangling" in filters:
            wanted = filters["dangling"][0].lower() in ("1", "true")
            used = {point.name for container in self._users() for point in container.mounts if point.name}
            records = [r for r in records if (r.name not in used) == wanted]
        return records


def is_anonymous(record: VolumeRecord) -> bool:
    """Whether nobody gave the volume its name."""
    return record.anonymous or ANONYMOUS in record.labels


def _copy_up(image_root: Sequence[Mount], inside: str, target: str, scratch: Path) -> None:
    with os.scandir(target) as entries:
        if next(entries, None) is not None:
            return
    with tempfile.TemporaryDirectory(dir=scratch) as at, mounted(image_root, at) as root:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY
            source = openat2(root_fd, inside.lstrip("/"), flags, 0, RESOLVE_IN_ROOT)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        finally:
            os.close(root_fd)
        try:
            destination = _guarded(target)
        except OSError:
            os.close(source)
            raise
        try:
            command = ["cp", "-a", "-n", "--reflink=auto", f"/proc/self/fd/{source}/.", f"/proc/self/fd/{destination}/"]
            done = subprocess.run(command, pass_fds=(source, destination), capture_output=True, text=True, check=False)
            if done.returncode:
                raise ScowError(f"cannot copy {inside} of the image into the volume: {done.stderr.strip()[-300:]}")
        finally:
            os.close(source)
            os.close(destination)


def _guarded(folder: str) -> int:
    """A descriptor of a mount of *folder* of our own, in which no symbolic link is followed and no device opened: a
    container that has the volume already may swap folders for links, or files for device nodes, while we copy
    (the family of CVE-2018-15664; Linux 5.14)."""
    mount = open_tree(AT_FDCWD, folder, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    try:
        mount_setattr(mount, "", AT_EMPTY_PATH, MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR_NODEV)
    except OSError:
        os.close(mount)
        raise
    return mount
