"""Named volumes as folders ``<state_dir>/<name>/_data``, with a small record of options, labels and creation time.

The engine has checked that a name has no slash; this driver still opens nothing but direct children of its folder.
Options ``type``, ``device`` and ``o`` (as mount(8) takes them) mount something there while a container holds it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from scow.errors import Conflict, InvalidArgument, NotFound
from scow.linux.mounts import mount_all
from scow.linux.syscalls import MNT_DETACH, umount
from scow.ports import Mount
from scow.ports.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.ports import DriverContext

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_OPTIONS = ("type", "device", "o")
_RECORD = "volume.json"
_DATA = "_data"


class LocalVolumes:
    """Implements `scow.ports.volume.VolumeDriver` on the local filesystem."""

    scope = "local"

    def __init__(self, context: DriverContext) -> None:
        self._root = context.state_dir
        self._lock = threading.Lock()
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        for entry in self._root.glob(".removed-*"):  # a removal that a crash cut short
            shutil.rmtree(entry, ignore_errors=True)

    def check(self) -> None:
        """Any filesystem will do."""

    def create(self, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
        """The folder and its record exist; the record is written last, so a folder without one is unfinished."""
        _check_options(options)
        with self._lock:
            folder = self._folder(name)
            if (folder / _RECORD).exists():
                found = self._read(name)
                if dict(found.options) != dict(options):
                    raise Conflict(
                        f"volume {name!r} exists with other options: {dict(found.options)}",
                        hint="remove the volume first, or choose another name",
                    )
                return found
            (folder / _DATA).mkdir(parents=True, exist_ok=True)
            folder.chmod(0o701)
            (folder / _DATA).chmod(0o755)
            created_ns = time.time_ns()
            record = {"created_ns": created_ns, "options": dict(options), "labels": dict(labels)}
            temporary = folder / (_RECORD + ".tmp")
            with temporary.open("w") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(folder / _RECORD)
            return self._read(name)

    def get(self, name: str) -> Volume:
        """The volume *name*; raises `NotFound`."""
        with self._lock:
            return self._read(name)

    def mount(self, name: str, holder: str) -> Path:
        """Where the content is; a volume with options is mounted there for its first holder."""
        with self._lock:
            volume = self._read(name)
            if volume.options and not _is_mounted(volume.mountpoint):
                mount_all([_recipe(volume)], volume.mountpoint)
            self._holders[name].add(holder)
            return Path(volume.mountpoint)

    def unmount(self, name: str, holder: str) -> None:
        """*holder* is forgotten; the last one takes the mount of a volume with options with it."""
        with self._lock:
            holders = self._holders[name]
            holders.discard(holder)
            data = self._folder(name) / _DATA
            if not holders:
                _unmount_all(str(data))

    def remove(self, name: str) -> None:
        """The folder is gone; first by name, so that a removal which is cut short leaves no half volume."""
        with self._lock:
            if self._holders[name]:
                raise Conflict(f"volume {name!r} is held by {', '.join(sorted(self._holders[name]))}")
            folder = self._folder(name)
            if not folder.exists():
                return
            _unmount_all(str(folder / _DATA))
            doomed = self._root / f".removed-{name}-{time.time_ns()}"
            folder.rename(doomed)
        shutil.rmtree(doomed)

    def close(self) -> None:
        """Nothing to release."""

    def list(self) -> list[Volume]:
        """Every volume whose record is there, by name."""
        with self._lock:
            names = sorted(entry.name for entry in self._root.iterdir() if _NAME.fullmatch(entry.name))
            return [self._read(name) for name in names if (self._folder(name) / _RECORD).exists()]

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"invalid volume name {name!r}", hint="use [a-zA-Z0-9][a-zA-Z0-9_.-]*")
        return self._root / name

    def _read(self, name: str) -> Volume:
        folder = self._folder(name)
        try:
            record = json.loads((folder / _RECORD).read_text())
        except FileNotFoundError as error:
            raise NotFound(f"no such volume: {name}") from error
        return Volume(name, str(folder / _DATA), record["created_ns"], record["options"], record["labels"])


def _is_mounted(path: str) -> bool:
    """Whether something is mounted at *path*. By mount ids: a bind of a folder of the same filesystem has the device of
    its parent, so that `os.path.ismount` does not see it, and removing the volume would remove the folder's content."""
    return os.path.exists(path) and _mount_id(path) != _mount_id(os.path.dirname(path))


def _mount_id(path: str) -> str:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            return next(line for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _unmount_all(path: str) -> None:
    while _is_mounted(path):
        umount(path, MNT_DETACH)


def _check_options(options: Mapping[str, str]) -> None:
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise InvalidArgument(f"invalid option {unknown[0]!r} for volume driver 'local'", hint=f"known: {_OPTIONS}")
    if options and not options.get("device"):
        raise InvalidArgument("missing device in volume options", hint="give type, device and o as for mount(8)")


def _recipe(volume: Volume) -> Mount:
    words = tuple(word for word in volume.options.get("o", "").split(",") if word)
    fstype = volume.options.get("type") or "none"
    bind = fstype in ("none", "bind") or "bind" in words or "rbind" in words
    return Mount("bind" if bind else fstype, volume.options["device"], options=words)
