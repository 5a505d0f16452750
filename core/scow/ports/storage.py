"""Storage drivers: committed snapshots (layers) and active ones (writable roots)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scow.ports import Mount


MOUNT_POINTS = ("dev/", "proc/", "sys/", "etc/", "etc/hostname", "etc/hosts", "etc/resolv.conf")
"""Where every container has something mounted; those with a slash at the end are folders."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot alone holds on disk, without its parents."""

    size_bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One prepared filesystem. *parent* is the key below it, or None; *committed* says that it never changes."""

    key: str
    parent: str | None
    committed: bool


@runtime_checkable
class StorageDriver(Protocol):
    """Keeps snapshots and describes how to mount them; it mounts nothing for others.

    Keys are chosen by core: a chain ID (``sha256:<hex>``) for a committed layer, a container id (64 hex digits) or
    ``<id>-init`` for an active one. A key holds ``[a-z0-9:._-]`` only.
    """

    def check(self) -> None:
        """Raise `DriverUnusable` where this host cannot serve the driver."""

    def apply(
        self,
        key: str,
        parent: str | None,
        diff_id: str,
        layer: BinaryIO,
        parent_ready: Callable[[], None] | None = None,
    ) -> Usage:
        """The committed snapshot *key* is *parent* changed by *layer*, the stream of an uncompressed tar (OCI layer).

        With *parent_ready* the parent may be in the making on another thread: what is called so waits until it is
        committed and right, and raises where it will never be. A driver calls it before it looks at the parent, and
        at the latest before *key* is there: one that needs no parent to unpack unpacks the layers of an image side by
        side. The stream is read to its end. Core checks its digest against *diff_id* **after** this returns and calls
        `remove` if it differs. Idempotent: a *key* that is there already is left alone (the stream may be unread).
        All or nothing: after an exception (`InvalidArgument` for a hostile or malformed tar, OSError for a full disk)
        no snapshot *key* and no part of it is left. Raises `NotFound` without *parent*.
        """

    def prepare(self, key: str, parent: str | None) -> list[Mount]:
        """The active (writable) snapshot *key* on committed *parent* exists; how to mount it.

        Where the parent has none, the root may also hold the empty `MOUNT_POINTS`, which the runtime would make.

        Raises `Conflict` where *key* exists, `NotFound` without *parent*, `InvalidArgument` where *parent* is active.
        """

    def view(self, key: str) -> list[Mount]:
        """How to mount the snapshot *key* read-only. Makes nothing; raises `NotFound`.

        An active one may be mounted writable at the same time (a running container that is exported), and goes on
        working: the recipe must not be that of `mounts`.
        """

    def mounts(self, key: str) -> list[Mount]:
        """The recipe that `prepare` gave for the active snapshot *key*. Raises `NotFound`."""

    def commit(self, key: str, active: str) -> Usage:
        """What the active snapshot *active* changed is the committed snapshot *key*; *active* is gone.

        Raises `Conflict` where *key* exists, `NotFound` without *active*. *active* must not be mounted.
        """

    def diff(self, key: str) -> Iterable[bytes]:
        """The uncompressed OCI layer tar (whiteouts as ``.wh.`` members) of what *key* changes over its parent."""

    def remove(self, key: str) -> None:
        """The snapshot *key* is gone; nothing happens where there is none. Raises `Conflict` while it has children."""

    def stat(self, key: str) -> Snapshot:
        """Raises `NotFound`."""

    def usage(self, key: str) -> Usage:
        """What *key* holds now; walks the tree of an active one. Raises `NotFound`."""

    def status(self) -> list[tuple[str, str]]:
        """Rows for ``docker info`` (``Backing Filesystem``, …)."""

    def close(self) -> None:
        """Nothing of the driver runs any more; calling it twice is no error."""

    def list(self) -> list[Snapshot]:  # last in the class: below it `list` would mean the method
        """Every snapshot, parents before children."""
