"""A storage driver in memory, for unit tests of whatever unpacks, prepares and removes: no root, no files."""

from __future__ import annotations

import io
import tarfile
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import Conflict, InvalidArgument, NotFound
from scow.ports import Mount
from scow.ports.storage import Snapshot, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scow.ports import DriverContext

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(slots=True)
class _Held:
    snapshot: Snapshot
    changes: dict[str, bytes]  # the layer's own members: name → content, whiteouts as in the tar
    files: dict[str, bytes] = field(default_factory=dict)  # the merged tree


class FakeStorage:
    """A `StorageDriver` whose snapshots are dicts; thread-safe. Its recipes name nothing that could be mounted.

    *calls* records ``(method, key)``; *before_apply* is called with the key and the diff ID and may block or raise, as
    a full disk does (``OSError(errno.ENOSPC, …)``).
    """

    def __init__(self, context: DriverContext | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before_apply: Callable[[str, str], None] | None = None
        self._held: dict[str, _Held] = {}
        self._lock = threading.RLock()

    def files(self, key: str) -> dict[str, bytes]:
        """The merged tree of *key*: path → content, b"" for what is no regular file."""
        return dict(self._get(key).files)

    def write(self, key: str, path: str, data: bytes) -> None:
        """The active snapshot *key* has *data* in *path*."""
        held = self._get(key)
        held.changes[path] = held.files[path] = data

    def check(self) -> None:
        """Usable everywhere."""

    def apply(
        self,
        key: str,
        parent: str | None,
        diff_id: str,
        layer: BinaryIO,
        parent_ready: Callable[[], None] | None = None,
    ) -> Usage:
        """See `StorageDriver`."""
        self.calls.append(("apply", key))
        if self.before_apply is not None:
            self.before_apply(key, diff_id)
        if key in self._held:
            return self.usage(key)
        if parent_ready is None:
            self._files_of(parent)
        try:
            changes = _members(layer)
        except tarfile.TarError as error:
            raise InvalidArgument(f"malformed tar: {error}") from error
        if parent_ready is not None:
            parent_ready()
        below = self._files_of(parent)
        with self._lock:
            self._held[key] = _Held(Snapshot(key, parent, True), changes, _merge(below, changes))
        return self.usage(key)

    def prepare(self, key: str, parent: str | None) -> list[Mount]:
        """See `StorageDriver`."""
        self.calls.append(("prepare", key))
        with self._lock:
            if key in self._held:
                raise Conflict(f"snapshot {key} already exists")
            below = self._files_of(parent)
            self._held[key] = _Held(Snapshot(key, parent, False), {}, dict(below))
        return self.mounts(key)

    def view(self, key: str) -> list[Mount]:
        """See `StorageDriver`."""
        self._get(key)
        return [Mount("bind", f"/fake/{key}", "", ("rbind", "ro"))]

    def mounts(self, key: str) -> list[Mount]:
        """See `StorageDriver`."""
        self._get(key)
        return [Mount("bind", f"/fake/{key}", "", ("rbind",))]

    def commit(self, key: str, active: str) -> Usage:
        """See `StorageDriver`."""
        self.calls.append(("commit", key))
        with self._lock:
            if key in self._held:
                raise Conflict(f"snapshot {key} already exists")
            held = self._get(active)
            del self._held[active]
            self._held[key] = _Held(Snapshot(key, held.snapshot.parent, True), held.changes, held.files)
        return self.usage(key)

    def diff(self, key: str) -> Iterable[bytes]:
        """See `StorageDriver`."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in sorted(self._get(key).changes.items()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return [out.getvalue()]

    def remove(self, key: str) -> None:
        """See `StorageDriver`."""
        self.calls.append(("remove", key))
        with self._lock:
            if any(held.snapshot.parent == key for held in self._held.values()):
                raise Conflict(f"snapshot {key} is in use by a snapshot above it")
            self._held.pop(key, None)

    def stat(self, key: str) -> Snapshot:
        """See `StorageDriver`."""
        return self._get(key).snapshot

    def usage(self, key: str) -> Usage:
        """See `StorageDriver`."""
        changes = self._get(key).changes
        return Usage(sum(map(len, changes.values())), len(changes))

    def status(self) -> list[tuple[str, str]]:
        """See `StorageDriver`."""
        return [("Backing Filesystem", "memory")]

    def close(self) -> None:
        """Holds nothing."""

    def _get(self, key: str) -> _Held:
        if key not in self._held:
            raise NotFound(f"no such snapshot: {key}")
        return self._held[key]

    def _files_of(self, parent: str | None) -> dict[str, bytes]:
        if parent is None:
            return {}
        held = self._get(parent)
        if not held.snapshot.committed:
            raise InvalidArgument(f"snapshot {parent} is active")
        return held.files

    def list(self) -> list[Snapshot]:
        """See `StorageDriver`."""
        return [held.snapshot for held in self._held.values()]


def _members(layer: BinaryIO) -> dict[str, bytes]:
    data = io.BytesIO(layer.read())
    found = {}
    with tarfile.open(fileobj=data, mode="r:") as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            found[info.name.removeprefix("./").rstrip("/")] = file.read() if file is not None else b""
    return found


def _merge(below: dict[str, bytes], changes: dict[str, bytes]) -> dict[str, bytes]:
    files = dict(below)
    for name in changes:
        folder, _, base = name.rpartition("/")
        if base == _OPAQUE:
            files = {path: data for path, data in files.items() if not path.startswith(folder + "/")}
        elif base.startswith(_WHITEOUT):
            gone = f"{folder}/{base[4:]}".lstrip("/")
            files = {path: data for path, data in files.items() if path != gone and not path.startswith(gone + "/")}
    files.update({name: data for name, data in changes.items() if not name.rpartition("/")[2].startswith(_WHITEOUT)})
    return files
