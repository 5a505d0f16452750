"""Blobs by digest, in an OCI image layout (image-spec image-layout.md): ``blobs/sha256/…``; ``ingest/`` for downloads.

Blocking and safe to use from several threads and processes. A blob appears by rename, after its digest was found right
and its bytes were synced; what was received of one that failed stays in ``ingest/`` and is gone on with.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scow.errors import Corrupt, InvalidArgument, NotFound
from scow.ingest import PIECES, Ingest, publish
from scow.linux.syncing import sync_filesystem
from scow.oci import check_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Set

ORPHAN_AGE_S = 7 * 86400.0


class ContentStore:
    """The store in the directory *root*, which is made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for algorithm in ("sha256", "sha512"):
            (root / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
        (root / "ingest").mkdir(exist_ok=True)
        self._put_file("oci-layout", {"imageLayoutVersion": "1.0.0"})
        self._put_file("index.json", {"schemaVersion": 2, "manifests": []})

    def path(self, digest: str) -> Path:
        """Where the blob *digest* lies or would lie; raises `InvalidArgument` for what is no digest."""
        algorithm, _, encoded = check_digest(digest).partition(":")
        return self.root / "blobs" / algorithm / encoded

    def exists(self, digest: str) -> bool:
        """Whether the store has the blob."""
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Bytes of the blob; raises `NotFound`."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise _no_blob(digest) from None

    def open(self, digest: str) -> BinaryIO:
        """The blob, to be read unbuffered; raises `NotFound`."""
        try:
            return self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise _no_blob(digest) from None

    def read(self, digest: str) -> bytes:
        """A small blob (manifest, config) in whole, its digest checked again. Raises `NotFound`, `Corrupt`."""
        with self.open(digest) as blob:
            data = blob.read()
        if _digest(digest, data) != digest:
            raise Corrupt(f"stored blob {digest} is damaged", hint="remove the image and pull it again")
        return data

    def put(self, data: bytes, digest: str = "") -> str:
        """The store has *data*; answers its digest. Raises `Corrupt` where that is not *digest*."""
        actual = _digest(digest or "sha256:", data)
        if digest and actual != digest:
            raise Corrupt(f"digest mismatch: wanted {digest}, got {actual}")
        if not self.exists(actual):
            with self.ingest(actual, len(data)) as ingest:
                ingest.restart()
                ingest.write(data)
                ingest.commit()
        return actual

    def put_stream(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """The store has the bytes of *chunks*, whose digest was not known before; answers it and their count."""
        staged = self.stage(chunks)
        staged.publish()
        return staged.digest, staged.size_bytes

    def stage(self, chunks: Iterable[bytes]) -> Staged:
        """The bytes of *chunks* lie beside the blobs until `Staged.publish` or `Staged.discard`: time to see to it that
        nobody collects the blob with that digest."""
        path = self.root / "ingest" / f"new-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        hasher, size = hashlib.sha256(), 0
        try:
            with path.open("xb", buffering=0) as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += len(chunk)
                    _write(file.fileno(), chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        digest = "sha256:" + hasher.hexdigest()
        return Staged(digest, size, path, self.path(digest))

    def forget_staged(self) -> None:
        """Nothing is staged. For the start: what a killed process staged nobody goes on with."""
        for path in (self.root / "ingest").glob("new-*"):
            path.unlink(missing_ok=True)

    def ingest(self, digest: str, size_bytes: int, waiting: Callable[[], None] | None = None) -> Ingest:
        """A place to receive the blob in (a context manager), with what was received before.

        Waits while another one receives the same blob; *waiting* is called meanwhile and may raise.
        """
        return Ingest(self._ingest_path(digest), self.path(digest), digest, size_bytes, waiting)

    def forget(self, digest: str) -> None:
        """What was received of a blob that failed is gone, unless somebody is receiving it now."""
        path = self._ingest_path(digest)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.with_name(path.name + PIECES).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return
        finally:
            os.close(fd)

    def sync(self) -> None:
        """What was written to the store's filesystem before, snapshots there included, outlives the host.

        To be called before a record says that an image is there: without it the files of a layer may be empty after a
        power failure (delayed allocation). Measured: 0.5 s after a pull of 3 s that made 54,000 files of 600 MB.
        """
        sync_filesystem(self.root)

    def delete(self, digest: str) -> int:
        """The blob is gone; answers how many bytes that gave back, 0 where there was none."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def list(self) -> Iterator[str]:
        """The digest of every blob."""
        for algorithm in ("sha256", "sha512"):
            for name in os.listdir(self.root / "blobs" / algorithm):
                yield f"{algorithm}:{name}"

    def collect(
        self, referenced: Set[str], age_s: float = ORPHAN_AGE_S, only: Set[str] | None = None
    ) -> dict[str, int]:
        """Of the blobs and ingests older than *age_s* (with *only*, of those) only those of *referenced* are left;
        answers what went, and its bytes."""
        oldest = time.time() - age_s
        gone = {}

        def wanted(digest: str, path: Path) -> bool:
            return digest not in referenced and (only is None or digest in only) and _modified(path) <= oldest

        for digest in list(self.list()):
            if wanted(digest, self.path(digest)):
                gone[digest] = self.delete(digest)
        for path in (self.root / "ingest").iterdir():
            digest = path.name.partition(".")[0].replace("-", ":", 1)
            if wanted(digest, path):
                gone[digest] = gone.get(digest, 0) + path.stat().st_size
                path.unlink(missing_ok=True)
        return gone

    def _ingest_path(self, digest: str) -> Path:
        return self.root / "ingest" / check_digest(digest).replace(":", "-")

    def _put_file(self, name: str, value: object) -> None:
        path = self.root / name
        if not path.exists():
            new = path.with_name(name + ".new")
            new.write_text(json.dumps(value))
            new.rename(path)


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes in a file at *path* that are no blob yet."""

    digest: str
    size_bytes: int
    path: Path
    _target: Path

    def publish(self) -> None:
        """The store has the blob; the file is gone."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        publish(self.path, self._target)

    def discard(self) -> None:
        """The file is gone, if it was not published."""
        self.path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _digest(like: str, data: bytes) -> str:
    algorithm = like.partition(":")[0]
    if algorithm not in ("sha256", "sha512"):
        raise InvalidArgument(f"invalid digest {like!r}")
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"no such blob: {digest}")
