"""One layer: from the content store, or while it arrives there, into a snapshot. Blocking; on threads."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from scow.engine.arrival import Cancelled
from scow.engine.disk_errors import disk_error
from scow.errors import Corrupt, InvalidArgument
from scow.layers import decompress

if TYPE_CHECKING:
    from collections.abc import Callable

    from scow.content import ContentStore
    from scow.engine.arrival import Arrival
    from scow.engine.progress import LayerProgress
    from scow.oci import Descriptor
    from scow.ports.storage import StorageDriver

_UNPACK_BYTES = 1 << 20
_AHEAD = 8  # chunks that are inflated before the applier asks


@dataclass(frozen=True, slots=True)
class Unpacking:
    """A layer, and the snapshot *chain* that it makes of *parent*."""

    layer: Descriptor
    chain: str
    parent: str | None
    diff_id: str
    line: LayerProgress
    limit_bytes: int  # of the uncompressed layer
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

        with LayerReader(compressed, report, unpacking.limit_bytes) as layer:
            try:
                stream = cast("BinaryIO", layer)
                usage = storage.apply(
                    unpacking.chain, unpacking.parent, unpacking.diff_id, stream, unpacking.parent_ready
                )
            except OSError as error:
                raise disk_error(error, f"unpack layer {blob}") from error
            actual = layer.digest()
    if actual != unpacking.diff_id:
        storage.remove(unpacking.chain)
        raise Corrupt(f"layer {blob} unpacks to {actual}, its config says {unpacking.diff_id}")
    return usage.size_bytes


class LayerReader:
    """A layer, inflated and hashed ahead by a thread of its own (inflating, hashing and file system calls all let the
    GIL go, so that this takes two processors). *report* is called there for each chunk and may raise. More than
    *limit_bytes* are an `InvalidArgument`."""

    def __init__(self, compressed: BinaryIO, report: Callable[[], None], limit_bytes: int | None = None) -> None:
        self._compressed = compressed
        self._report = report
        self._limit = limit_bytes
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
            total = 0
            while not self._stop:
                data = source.read(_UNPACK_BYTES)
                total += len(data)
                if self._limit is not None and total > self._limit:
                    raise InvalidArgument(
                        f"malicious layer: it unpacks to more than {self._limit} bytes",
                        hint="a layer that may be so large needs a higher layer_limit in the config",
                    )
                self._hasher.update(data)
                self._report()
                self._chunks.put(data)
                if not data:
                    return
        except BaseException as error:  # noqa: BLE001  (handed to the reader)
            self._chunks.put(error)
