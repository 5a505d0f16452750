"""A registry in memory, and small images made from dicts of files, for unit tests of whatever pulls and pushes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import zstandard

from scow.errors import NotFound, Unauthorized, Unavailable, Unsupported
from scow.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from scow.ports.registry import Manifest, SearchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from scow.ports.registry import Credentials
    from scow.reference import Reference

FileTree = dict[str, "bytes | str | tarfile.TarInfo | None"]
"""Path to content: bytes or text is a file (0755 below ``bin/``, else 0644), None a directory, a `tarfile.TarInfo`
whatever it says (a link, a device, another owner); its name is replaced by the path."""


@dataclass(frozen=True, slots=True)
class SmallImage:
    """An image made by `make_image`: its manifest, config and blobs by digest (the config is one of them)."""

    manifest: Manifest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    blobs: Mapping[str, bytes]
    platform: Platform

    @property
    def id(self) -> str:
        """The image ID: the digest of its config."""
        return self.config.digest


def make_tar(files: FileTree) -> bytes:
    """The tar of *files*, in the order of the dict, owned by root, times 0."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = path
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(path)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
                continue
            data = content.encode() if isinstance(content, str) else content
            info.size, info.mode = len(data), 0o755 if "bin/" in path else 0o644
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_image(
    *layers: FileTree,
    config: Mapping[str, Any] | None = None,
    platform: Platform | None = None,
    compression: str = "gzip",
    annotations: Mapping[str, str] | None = None,
) -> SmallImage:
    """An OCI image of *layers*, lowest first, compressed by ``gzip``, ``zstd`` or ``none``.

    *config* is what goes below ``config`` of the image config (``Cmd``, ``Env`` …). The same arguments give the same
    digests.
    """
    where = platform or Platform.host()
    tars = [make_tar(files) for files in layers]
    packed = [_compress(tar, compression) for tar in tars]
    media_type = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}[compression]
    diff_ids = tuple(digest_of(tar) for tar in tars)
    document: dict[str, Any] = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": where.architecture,
        "os": where.os,
        "config": dict(config or {"Cmd": ["/bin/sh"]}),
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(tars))],
    }
    if where.variant:
        document["variant"] = where.variant
    raw_config = json.dumps(document).encode()
    config_blob = Descriptor(OCI_CONFIG, digest_of(raw_config), len(raw_config))
    descriptors = tuple(Descriptor(media_type, digest_of(blob), len(blob)) for blob in packed)
    body: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config_blob.to_json(),
        "layers": [layer.to_json() for layer in descriptors],
    }
    if annotations:
        body["annotations"] = dict(annotations)
    blobs = {layer.digest: blob for layer, blob in zip(descriptors, packed, strict=True)}
    blobs[config_blob.digest] = raw_config
    return SmallImage(_manifest(OCI_MANIFEST, body), config_blob, descriptors, diff_ids, blobs, where)


def make_index(*images: SmallImage) -> Manifest:
    """An OCI index of *images*, each with its platform."""
    members = []
    for image in images:
        found = image.manifest.descriptor
        members.append(Descriptor(found.media_type, found.digest, found.size_bytes, image.platform).to_json())
    return _manifest(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members})


def _manifest(media_type: str, body: Mapping[str, Any]) -> Manifest:
    data = json.dumps(body).encode()
    return Manifest(Descriptor(media_type, digest_of(data), len(data)), data)


def _compress(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if compression == "zstd" else data


@dataclass(slots=True)
class _Repository:
    tags: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Fault:
    kind: str
    after_bytes: int
    times: int


class FakeRegistry:
    """A `RegistryBackend` whose repositories are dicts; thread-safe. Serves *hosts*, or every host where that is empty.

    *calls* records each call as ``(method, repository, tag or digest)``; *fetched* counts the bytes that were read of
    each blob; *most_at_once* is the largest number of fetches that were open at one time.
    """

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.users: dict[str, str] = {}  # name to password; empty: anybody may
        self.seekable = True
        self.unreachable = False
        self.build_lines: list[str] = []  # told by `resolve`, as a registry that builds on demand does
        self.before_read: Callable[[str, int], None] | None = None  # digest, offset; may block or raise
        self.before_write: Callable[[str, int], None] | None = None  # the same for what is pushed
        self.calls: list[tuple[str, str, str]] = []
        self.fetched: defaultdict[str, int] = defaultdict(int)
        self.most_at_once = 0
        self._open = 0
        self._repositories: defaultdict[str, _Repository] = defaultdict(_Repository)
        self._faults: dict[str, _Fault] = {}
        self._lock = threading.RLock()

    # what a test sets up

    def add(self, repository: str, tag: str, image: SmallImage) -> None:
        """*repository* (``library/nginx``) has *image* under *tag* (``""``: by digest only)."""
        with self._lock:
            held = self._repositories[repository]
            held.blobs.update(image.blobs)
            self._put(held, tag, image.manifest)

    def add_index(self, repository: str, tag: str, *images: SmallImage) -> Manifest:
        """*repository* has an index of *images* under *tag*; answers the index."""
        index = make_index(*images)
        with self._lock:
            for image in images:
                self.add(repository, "", image)
            self._put(self._repositories[repository], tag, index)
        return index

    def blobs(self, repository: str) -> Mapping[str, bytes]:
        """What was pushed or added, by digest."""
        return self._repositories[repository].blobs

    def serve_wrong(self, digest: str, times: int = 1) -> None:
        """The next *times* answers for the blob or manifest *digest* hold other bytes of the same length."""
        self._faults[digest] = _Fault("wrong", 0, times)

    def fail_after(self, digest: str, after_bytes: int, times: int = 1) -> None:
        """The next *times* fetches of *digest* raise `Unavailable` once *after_bytes* of that fetch were read."""
        self._faults[digest] = _Fault("fail", after_bytes, times)

    def truncate_after(self, digest: str, after_bytes: int, times: int = 1) -> None:
        """The next *times* fetches of *digest* end early, without an error, after *after_bytes*."""
        self._faults[digest] = _Fault("truncate", after_bytes, times)

    # RegistryBackend

    def check(self) -> None:
        """Usable everywhere."""

    def serves(self, host: str) -> bool:
        """Whether *host* is one of *hosts*, or *hosts* is empty."""
        return not self.hosts or host in self.hosts

    def resolve(self, ref: Reference, credentials: Credentials | None, progress: Callable[[str], None]) -> Manifest:
        """See `RegistryBackend`."""
        held = self._enter("resolve", ref, ref.digest or ref.tag, credentials)
        for line in self.build_lines:
            progress(line)
        return self._find(held, ref, ref.digest or held.tags.get(ref.tag, ""))

    def manifest(self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None) -> Manifest:
        """See `RegistryBackend`."""
        held = self._enter("manifest", ref, descriptor.digest, credentials)
        return self._find(held, ref, descriptor.digest)

    @contextmanager
    def fetch(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        offset_bytes: int = 0,
        length_bytes: int | None = None,
    ) -> Iterator[BinaryIO]:
        """See `RegistryBackend`."""
        held = self._enter("fetch", ref, descriptor.digest, credentials)
        if descriptor.digest not in held.blobs:
            raise NotFound(f"blob {descriptor.digest} not found in {ref.familiar_name}")
        if offset_bytes and not self.seekable:
            raise Unsupported(f"the registry of {ref.name} cannot start in the middle of a blob")
        fault = self._fault(descriptor.digest)
        data = held.blobs[descriptor.digest]
        if fault.kind == "wrong":
            data = _spoilt(data)
        limit = fault.after_bytes if fault.kind in ("fail", "truncate") else None
        end = len(data) if length_bytes is None else offset_bytes + length_bytes
        blob = _Blob(self, descriptor.digest, data[offset_bytes:end], limit, fault.kind == "fail")
        with self._lock:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        try:
            yield io.BufferedReader(blob, 16384)
        finally:
            with self._lock:
                self._open -= 1

    def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        credentials: Credentials | None,
        sent: Callable[[int], None],
        mount_from: Iterable[str] = (),
    ) -> bool:
        """See `RegistryBackend`."""
        held = self._enter("push_blob", ref, descriptor.digest, credentials)
        if descriptor.digest in held.blobs:
            return False
        for source in mount_from:
            if descriptor.digest in self._repositories[source].blobs:
                held.blobs[descriptor.digest] = self._repositories[source].blobs[descriptor.digest]
                return False
        with open_blob() as stream:
            data = bytearray()
            while chunk := stream.read(1 << 16):
                if self.before_write is not None:
                    self.before_write(descriptor.digest, len(data))
                data += chunk
                sent(len(chunk))
        if digest_of(bytes(data)) != descriptor.digest:
            raise Unavailable(f"digest invalid: pushed bytes are not {descriptor.digest}")
        held.blobs[descriptor.digest] = bytes(data)
        return True

    def push_manifest(self, ref: Reference, manifest: Manifest, credentials: Credentials | None) -> None:
        """See `RegistryBackend`; refuses (`NotFound`) a manifest whose blobs or members are not there."""
        held = self._enter("push_manifest", ref, ref.tag or ref.digest, credentials)
        document = json.loads(manifest.data)
        needed = [*document.get("layers", []), *([document["config"]] if "config" in document else [])]
        for blob in needed:
            if blob["digest"] not in held.blobs:
                raise NotFound(f"manifest blob unknown: {blob['digest']}")
        for member in document.get("manifests", []):
            if member["digest"] not in held.manifests:
                raise NotFound(f"manifest unknown: {member['digest']}")
        with self._lock:
            self._put(held, ref.tag, manifest)

    def tags(self, ref: Reference, credentials: Credentials | None) -> list[str]:
        """See `RegistryBackend`."""
        held = self._enter("tags", ref, "", credentials)
        if not held.manifests:
            raise NotFound(f"repository {ref.familiar_name} not found")
        return sorted(held.tags)

    def search(self, host: str, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        """The repositories whose name holds *term*, sorted."""
        self.calls.append(("search", host, term))
        self._authorise(credentials)
        names = sorted(name for name, held in self._repositories.items() if term in name and held.manifests)
        return [SearchResult(name) for name in names[:limit]]

    def login(self, host: str, credentials: Credentials) -> Mapping[str, str]:
        """See `RegistryBackend`."""
        self.calls.append(("login", host, credentials.username))
        self._authorise(credentials)
        return {"Status": "Login Succeeded", "IdentityToken": ""}

    def close(self) -> None:
        """Holds no connection."""

    def _enter(self, method: str, ref: Reference, what: str, credentials: Credentials | None) -> _Repository:
        with self._lock:
            self.calls.append((method, ref.repository, what))
            if self.unreachable:
                raise Unavailable(f"cannot reach registry {ref.host}: connection refused")
            self._authorise(credentials)
            return self._repositories[ref.repository]

    def _authorise(self, credentials: Credentials | None) -> None:
        if self.users and (credentials is None or self.users.get(credentials.username) != credentials.password):
            raise Unauthorized("unauthorized: authentication required")

    def _find(self, held: _Repository, ref: Reference, digest: str) -> Manifest:
        if digest not in held.manifests:
            raise NotFound(f"manifest for {ref.familiar} not found: manifest unknown: manifest unknown")
        found = held.manifests[digest]
        return Manifest(found.descriptor, _spoilt(found.data)) if self._fault(digest).kind == "wrong" else found

    def _fault(self, digest: str) -> _Fault:
        """The fault that this answer has, once less now; one of no kind where there is none."""
        with self._lock:
            fault = self._faults.get(digest)
            if fault is None or fault.times <= 0:
                return _Fault("", 0, 0)
            fault.times -= 1
            return fault

    @staticmethod
    def _put(held: _Repository, tag: str, manifest: Manifest) -> None:
        held.manifests[manifest.descriptor.digest] = manifest
        if tag:
            held.tags[tag] = manifest.descriptor.digest


class _Blob(io.RawIOBase):
    """The bytes of one fetch, with the fault that was asked for."""

    def __init__(self, registry: FakeRegistry, digest: str, data: bytes, limit: int | None, fails: bool) -> None:
        super().__init__()
        self._registry, self._digest, self._fails = registry, digest, fails
        self._data = data if limit is None else data[:limit]
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._registry.before_read is not None:
            self._registry.before_read(self._digest, self._at)
        if self._fails and self._at == len(self._data):
            raise Unavailable(f"connection to the registry was lost after {self._at} bytes of {self._digest}")
        chunk = self._data[self._at : self._at + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        with self._registry._lock:
            self._registry.fetched[self._digest] += len(chunk)
        return len(chunk)


def _spoilt(data: bytes) -> bytes:
    """As many bytes as *data* has, none of them the same."""
    return hashlib.shake_128(data).digest(len(data)) if data else data
