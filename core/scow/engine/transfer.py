"""Bytes of one blob: from a registry into the content store, and from there into a snapshot. Blocking; on threads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from scow.engine.arrival import Cancelled
from scow.errors import Corrupt, ScowError, Unavailable, Unsupported
from scow.layers import decompress

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.content import ContentStore, Ingest
    from scow.engine.arrival import Arrival
    from scow.engine.progress import LayerProgress
    from scow.oci import Descriptor
    from scow.ports.registry import Credentials, RegistryBackend
    from scow.ports.storage import StorageDriver
    from scow.reference import Reference

log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_PAUSE_S = 0.2
_CHUNK_BYTES = 1 << 18
_UNPACK_BYTES = 1 << 20
_AHEAD = 8  # chunks that are inflated before the applier asks


class Download:
    """One blob of *ref* on its way into *content*; *arrival* follows it."""

    def __init__(
        self,
        backend: RegistryBackend,
        ref: Reference,
        blob: Descriptor,
        credentials: Credentials | None,
        content: ContentStore,
        progress: LayerProgress,
        cancelled: threading.Event,
        arrival: Arrival,
    ) -> None:
        self._arrival = arrival
        self._backend, self._ref, self._blob, self._credentials = backend, ref, blob, credentials
        self._content, self._progress, self._cancelled = content, progress, cancelled

    def run(self) -> None:
        """The content store has the blob. Goes on where an earlier attempt ended, and
        tries again after a lost connection. Raises `Corrupt` for a wrong digest, and what the backend raises."""
        try:
            self._run()
        except OSError as error:
            raise _disk_error(error, f"download blob {self._blob.digest}") from error

    def _run(self) -> None:
        path = str(self._content.path(self._blob.digest))
        if not self._content.exists(self._blob.digest):
            with self._content.ingest(self._blob.digest, self._blob.size_bytes) as ingest:
                if not ingest.done:
                    self._arrival.begin(str(ingest.path), ingest.offset)
                    self._receive_all(ingest)
                    self._arrival.finish()
                    return
        self._arrival.begin(path, self._content.size(self._blob.digest), complete=True)

    def _receive_all(self, ingest: Ingest) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            resumed = ingest.offset > 0
            try:
                self._receive(ingest)
                ingest.commit()
                return
            except (Unavailable, Corrupt) as error:
                # A wrong digest may come from what an earlier attempt left: once more from the start. Otherwise
                # the registry has wrong bytes, and would send them again.
                wrong = isinstance(error, Corrupt) and ingest.offset == 0
                self._arrival.advance(ingest.offset)
                if attempt == ATTEMPTS or (wrong and not resumed):
                    raise
                log.info("download of %s from %s: %s; attempt %d", self._blob.digest, self._ref, error, attempt + 1)
            self._progress.status("Retrying")
            self._cancelled.wait(FIRST_PAUSE_S * 2 ** (attempt - 1))
            self._check()

    def _receive(self, ingest: Ingest) -> None:
        if ingest.offset == self._blob.size_bytes:
            return
        try:
            self._copy(ingest)
        except Unsupported:
            if not ingest.offset:
                raise
            ingest.restart()  # the backend cannot start in the middle
            self._arrival.advance(0)
            self._copy(ingest)

    def _copy(self, ingest: Ingest) -> None:
        with self._backend.fetch(self._ref, self._blob, self._credentials, ingest.offset) as stream:
            read = getattr(stream, "read1", stream.read)  # one piece, so that little is lost with the connection
            while data := read(_CHUNK_BYTES):
                self._check()
                ingest.write(data)
                self._arrival.advance(ingest.offset)
                self._progress.count("Downloading", ingest.offset, self._blob.size_bytes)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"download of {self._blob.digest} was cancelled")


@dataclass(frozen=True, slots=True)
class Unpacking:
    """A layer, and the snapshot *chain* that it makes of *parent*."""

    layer: Descriptor
    chain: str
    parent: str | None
    diff_id: str
    line: LayerProgress
    parent_ready: Callable[[], None] | None = None  # where *parent* is being made meanwhile


def unpack(
    storage: StorageDriver,
    content: ContentStore,
    unpacking: Unpacking,
    arrival: Arrival | None,
    cancelled: threading.Event,
) -> int:
    """The snapshot is there; answers its bytes. Reads from *arrival*, or where that is None from *content*.

    Raises `Corrupt` where the uncompressed layer is not the diff ID (nothing is left then), `Unavailable` for a full
    disk, `Cancelled`, `StartedOver`.
    """
    blob = unpacking.layer.digest
    with content.open(blob) if arrival is None else contextlib.nullcontext(cast("BinaryIO", arrival)) as compressed:

        def report() -> None:
            if cancelled.is_set():
                raise Cancelled(f"unpacking of {blob} was cancelled")
            if arrival is None or arrival.complete:  # until then the line shows the download
                unpacking.line.count("Extracting", compressed.tell(), unpacking.layer.size_bytes)

        with LayerReader(compressed, report) as layer:
            try:
                stream = cast("BinaryIO", layer)
                usage = storage.apply(
                    unpacking.chain, unpacking.parent, unpacking.diff_id, stream, unpacking.parent_ready
                )
            except OSError as error:
                raise _disk_error(error, f"unpack layer {blob}") from error
            actual = layer.digest()
    if actual != unpacking.diff_id:
        storage.remove(unpacking.chain)
        raise Corrupt(f"layer {blob} unpacks to {actual}, its config says {unpacking.diff_id}")
    return usage.size_bytes


def _disk_error(error: OSError, what: str) -> ScowError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "docker system df shows what uses it; docker system prune frees it"
        return Unavailable(f"cannot {what}: no space left on device", hint=hint)
    return error if isinstance(error, ScowError) else ScowError(f"cannot {what}: {error}")


class LayerReader:
    """A layer, inflated and hashed ahead by a thread of its own (inflating, hashing and file system calls all let the
    GIL go, so that this takes two processors). *report* is called there for each chunk and may raise."""

    def __init__(self, compressed: BinaryIO, report: Callable[[], None]) -> None:
        self._compressed = compressed
        self._report = report
        self._hasher = hashlib.sha256()
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._rest = b""
        self._ended = False
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="scow-inflate", daemon=True)

    def __enter__(self) -> LayerReader:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop = True
        while self._thread.is_alive():
            try:
                self._chunks.get_nowait()
            except queue.Empty:
                time.sleep(0.001)
        self._thread.join()

    def read(self, size: int = -1) -> bytes:
        """As a raw stream: up to *size* bytes, ``b""`` at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_UNPACK_BYTES), b""))
        if not self._rest and not self._ended:
            chunk = self._chunks.get()
            if isinstance(chunk, BaseException):
                self._ended = True
                raise chunk
            self._rest = chunk
            self._ended = not chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readable(self) -> bool:
        """It is."""
        return True

    def digest(self) -> str:
        """The digest of the whole layer, read to its end where that was not done."""
        while self.read(_UNPACK_BYTES):
            pass
        return "sha256:" + self._hasher.hexdigest()

    def _run(self) -> None:
        try:
            source = decompress(self._compressed)
            while not self._stop:
                data = source.read(_UNPACK_BYTES)
                self._hasher.update(data)
                self._report()
                self._chunks.put(data)
                if not data:
                    return
        except BaseException as error:  # noqa: BLE001  (handed to the reader)
            self._chunks.put(error)
