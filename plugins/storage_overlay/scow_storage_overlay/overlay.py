"""`OverlayDriver`: a layer is an overlayfs directory; a root is a mount of its chain with an upper directory on top."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import InvalidArgument
from scow.layers import Whiteouts, apply_layer, overlay_diff
from scow.linux.trees import tree_usage
from scow.ports import Mount
from scow.ports.storage import MOUNT_POINTS, Snapshot, Usage
from scow_storage_overlay.folder import DEFAULT_ROOT, RootAttributes, SnapshotFolder
from scow_storage_overlay.host import check_overlay, filesystem_name
from scow_storage_overlay.index import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scow.ports import DriverContext

_FEATURES = ("redirect_dir", "metacopy", "index")


class OverlayDriver:
    """Storage on overlayfs. Option ``mount_options``: a list of further mount options, as ``[volatile]``."""

    def __init__(self, context: DriverContext) -> None:
        self._state_dir = context.state_dir
        extra = context.options.get("mount_options", [])
        if not isinstance(extra, list) or not all(isinstance(option, str) for option in extra):
            raise InvalidArgument(f"storage option mount_options is {extra!r}", hint="give a list of strings")
        self._extra = (*_features_off(), *extra)
        self._folder = SnapshotFolder(context.state_dir, ("diff", "work"))
        self._empty = f"{context.state_dir}/empty"
        os.makedirs(self._empty, exist_ok=True)
        self._mountpoints = f"{context.state_dir}/mountpoints"
        _make_mountpoints(self._mountpoints)
        self._roots: dict[int, RootAttributes] = {}  # by the number of a committed snapshot
        self._escaped = _escaped(str(self._folder.index.directory))

    def check(self) -> None:
        """Raise `DriverUnusable` without root, overlayfs, or a filesystem that can hold upper directories: a detached
        trial mount, seen by nobody."""
        check_overlay(str(self._state_dir))

    def apply(
        self,
        key: str,
        parent: str | None,
        diff_id: str,
        layer: BinaryIO,
        parent_ready: Callable[[], None] | None = None,
    ) -> Usage:
        """Unpacks beside the snapshots and renames; *diff_id* is for core to check. The parent is waited for when the
        layer first needs to know what lies below it, mostly at the end."""
        there = self._folder.index.find(key)
        if there is not None and there.usage is not None:
            return there.usage

        def find_parent() -> Entry | None:
            if parent_ready is not None:
                parent_ready()
            return self._folder.index.parent(parent)

        if parent_ready is None:
            find_parent()
        with self._folder.staged() as made:
            diff = f"{made}/diff"
            os.mkdir(diff)
            os.chmod(diff, 0o755)  # whatever the umask
            applied = apply_layer(layer, diff, Whiteouts.OVERLAY, lambda: self._lower(find_parent()))
            below = find_parent()
            if below is not None and not applied.root_described:
                _copy_root(self._folder.path(below, "diff"), diff)
            usage = Usage(applied.size_bytes, applied.inodes)
            return self._folder.publish(made, key, below, usage).usage or usage

    def prepare(self, key: str, parent: str | None) -> list[Mount]:
        """One rename of a directory that was made ahead."""
        below = self._folder.index.parent(parent)
        return self._writable(self._folder.active(key, below, self._root(below)))

    def view(self, key: str) -> list[Mount]:
        """The chain without an upper directory. overlayfs wants two directories then: an empty one goes below."""
        lower = self._chain(self._folder.index.get(key))
        if len(lower) < 2:
            lower.append(_escaped(self._empty))
        return [Mount("overlay", "overlay", "", ("ro", "lowerdir=" + ":".join(lower), *_features_off()))]

    def mounts(self, key: str) -> list[Mount]:
        """As `prepare` gave them."""
        entry = self._folder.index.get(key)
        if entry.usage is not None:
            raise InvalidArgument(f"snapshot {key} is committed: it cannot be mounted writable")
        if "volatile" in self._extra:  # the mark of an earlier mount, which overlayfs refuses (overlayfs.rst)
            shutil.rmtree(self._folder.path(entry, "work/work/incompat"), ignore_errors=True)
        return self._writable(entry)

    def commit(self, key: str, active: str) -> Usage:
        """Renames the directory; overlayfs's work directory stays in it, unused."""
        entry = self._folder.index.get(active)
        if entry.usage is not None:
            raise InvalidArgument(f"snapshot {active} is committed already")
        usage = Usage(*tree_usage(self._folder.path(entry, "diff")))
        self._folder.index.replace(entry, Entry(self._folder.index.number(), key, entry.parent, usage))
        return usage

    def diff(self, key: str) -> Iterable[bytes]:
        """Read from the upper directory alone; of the parent only its root's owner and mode count."""
        entry = self._folder.index.get(key)
        parent = None if entry.parent is None else self._folder.path(entry.parent, "diff")
        return overlay_diff(self._folder.path(entry, "diff"), parent)

    def remove(self, key: str) -> None:
        """One rename; a thread deletes."""
        self._folder.remove(key)

    def stat(self, key: str) -> Snapshot:
        """From memory."""
        return self._folder.index.get(key).snapshot

    def usage(self, key: str) -> Usage:
        """What `apply` or `commit` counted; walks the upper directory of an active one."""
        entry = self._folder.index.get(key)
        return entry.usage or Usage(*tree_usage(self._folder.path(entry, "diff")))

    def status(self) -> list[tuple[str, str]]:
        """Docker's rows for overlay2."""
        return [
            ("Backing Filesystem", filesystem_name(str(self._state_dir))),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]

    def close(self) -> None:
        """The housekeeping thread has ended."""
        self._folder.close()

    def _lower(self, entry: Entry | None) -> list[str]:
        return [] if entry is None else [self._folder.path(each, "diff") for each in entry.chain()]

    def _chain(self, entry: Entry | None) -> list[str]:
        """The directories of the snapshot and of those below it, as a ``lowerdir`` option names them."""
        chain = entry.chain() if entry is not None else []
        return [f"{self._escaped}/{each.directory}/diff" for each in chain]

    def _writable(self, entry: Entry) -> list[Mount]:
        directory = self._folder.path(entry)
        lower = [*self._chain(entry.parent), _escaped(self._mountpoints)]
        options = (
            "lowerdir=" + ":".join(lower),
            f"upperdir={directory}/diff",
            f"workdir={directory}/work",
            *self._extra,
        )
        return [Mount("overlay", "overlay", "", options)]

    def _root(self, below: Entry | None) -> RootAttributes:
        """The root of a mount is that of the upper directory: it must look like the one below."""
        if below is None:
            return DEFAULT_ROOT
        found = self._roots.get(below.number)
        if found is None:
            status = os.stat(self._folder.path(below, "diff"))
            found = RootAttributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            self._roots[below.number] = found
        return found

    def list(self) -> list[Snapshot]:
        """From memory."""
        return [entry.snapshot for entry in self._folder.index.all()]


def _make_mountpoints(folder: str) -> None:
    """What goes below every writable root: where the runtime mounts something an image seldom has a place for it, and
    to make one would copy /etc up and cost five milliseconds on ext4. It is nobody's layer: no diff holds it."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    for path in MOUNT_POINTS:
        target = f"{folder}/{path}"
        if path.endswith("/"):
            os.makedirs(target, mode=0o755, exist_ok=True)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _copy_root(source: str, target: str) -> None:
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))


def _escaped(path: str) -> str:
    """*path* as one of several in a ``lowerdir`` option."""
    return path.replace(":", "\\:")


def _features_off() -> tuple[str, ...]:
    """Options against what this kernel turns on by itself: with ``redirect_dir`` or ``metacopy`` an upper directory
    is no layer (overlayfs.rst), ``index`` refuses one whose lower layers were moved."""
    found = []
    for feature in _FEATURES:
        try:
            with open(f"/sys/module/overlay/parameters/{feature}", encoding="ascii") as parameter:
                if parameter.read().strip() == "Y":
                    found.append(f"{feature}=off")
        except OSError:
            continue  # overlayfs is not loaded yet, or older than the feature
    return tuple(found)
