"""What was built: blobs by digest, and a record of each image. Plain files below one folder."""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from scow.errors import Corrupt, NotFound
from scow.oci import Descriptor, digest_of
from scow.ports.registry import Manifest
from scow_registry_apt.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNFINISHED_S = 3600.0  # a blob that no record names is left so long: its build may not be done


@dataclass(frozen=True, slots=True)
class Record:
    """An image or a root that was built: its *layers* (blob and diff ID, lowest first), the *manifest*'s descriptor
    (none for a root), the package index it is *current* with, and its *status*, the name of the kept dpkg status."""

    layers: tuple[Layer, ...]
    current: str
    status: str
    manifest: Descriptor | None = None


class Part(io.RawIOBase):
    """The next *length_bytes* of *stream*, which stays open."""

    def __init__(self, stream: BinaryIO, length_bytes: int) -> None:
        super().__init__()
        self._stream, self._left = stream, length_bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        data = self._stream.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


class Store:
    """The blobs and records below *folder*. Records are replaced by rename; readers need no lock."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs" / "sha256"
        self._records = folder / "records"
        self.status = folder / "status"
        for path in (self._blobs, self._records, self.status):
            path.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob *digest* is or would be."""
        return self._blobs / digest.removeprefix("sha256:")

    def open(self, digest: str) -> BinaryIO:
        """The blob; raises `NotFound`."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} not found in apt.local") from error

    def put(self, media_type: str, data: bytes) -> Descriptor:
        """The store holds *data*."""
        digest = digest_of(data)
        with self.incoming() as (out, name):
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
            os.rename(name, self.path(digest))
        return Descriptor(media_type, digest, len(data))

    @contextmanager
    def incoming(self) -> Iterator[tuple[BinaryIO, str]]:
        """A file to fill and to move to its place with `path`; gone afterwards where it was not moved."""
        fd, name = tempfile.mkstemp(prefix=".in-", dir=self._blobs)
        try:
            with open(fd, "wb") as out:
                yield out, name
        finally:
            if os.path.exists(name):
                os.unlink(name)

    def manifest(self, descriptor: Descriptor) -> Manifest:
        """The manifest that a record names."""
        with self.open(descriptor.digest) as stream:
            return Manifest(descriptor, stream.read())

    def record(self, key: str) -> Record | None:
        """The record of *key*, where all its blobs are there."""
        try:
            value = json.loads((self._records / f"{key}.json").read_bytes())
            layers = tuple(
                Layer(Descriptor.from_json(layer["descriptor"]), layer["diff_id"]) for layer in value["layers"]
            )
            manifest = Descriptor.from_json(value["manifest"]) if value["manifest"] else None
            found = Record(layers, value["current"], value["status"], manifest)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"record {key} of apt.local cannot be read", hint=f"remove {self._records}") from error
        needed = [layer.descriptor for layer in layers] + ([manifest] if manifest else [])
        return found if all(self.path(blob.digest).exists() for blob in needed) else None

    def put_record(self, key: str, record: Record) -> None:
        """*key* names *record*."""
        value = asdict(record)
        value["layers"] = [
            {"descriptor": layer.descriptor.to_json(), "diff_id": layer.diff_id} for layer in record.layers
        ]
        value["manifest"] = record.manifest.to_json() if record.manifest else None
        fd, name = tempfile.mkstemp(prefix=".in-", dir=self._records)
        with open(fd, "w") as out:
            json.dump(value, out)
            out.flush()
            os.fsync(out.fileno())
        os.rename(name, self._records / f"{key}.json")

    def collect(self) -> None:
        """Blobs and status files that no record names are gone, but for those of the last hour."""
        live: set[str] = set()
        for path in self._records.glob("*.json"):
            record = self.record(path.stem)
            if record is None:
                continue
            live.add(record.status)
            live.update(layer.descriptor.digest.removeprefix("sha256:") for layer in record.layers)
            if record.manifest is not None:
                live.add(record.manifest.digest.removeprefix("sha256:"))
                config = json.loads(self.manifest(record.manifest).data)["config"]["digest"]
                live.add(config.removeprefix("sha256:"))
        before = time.time() - _UNFINISHED_S
        for path in (*self._blobs.iterdir(), *self.status.iterdir()):
            if path.name not in live and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
