"""Reads and makes image manifests and configs (image-spec manifest.md, config.md; Docker's schema 2)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from scow.engine.times import parse_rfc3339_ns
from scow.errors import Corrupt, InvalidArgument, ScowError, Unsupported
from scow.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
)
from scow.ports.registry import Manifest
from scow.types import ImageConfig, without_nulls

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_BYTES = 8 << 20
_CONFIG_ORDER = ("created", "author", "architecture", "variant", "os", "config", "rootfs", "history")
_GO_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_DIFF_ID = re.compile("sha256:[0-9a-f]{64}")
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """A manifest of one image."""

    digest: str
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


def check_bytes(manifest: Manifest, wanted: str) -> dict[str, Any]:
    """The JSON of *manifest*, whose bytes have the digest *wanted* (``""``: the one that its descriptor says).

    Raises `Corrupt`.
    """
    wanted = wanted or manifest.descriptor.digest
    if len(manifest.data) > LIMIT_BYTES:
        raise Corrupt(f"manifest {wanted} is larger than {LIMIT_BYTES} bytes")
    if not wanted.startswith("sha512:") and digest_of(manifest.data) != wanted:
        raise Corrupt(f"manifest verification failed for digest {wanted}: got {digest_of(manifest.data)}")
    try:
        document = json.loads(manifest.data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"manifest {wanted} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Corrupt(f"manifest {wanted} is not a JSON object")
    if not isinstance(document.get("mediaType") or "", str):
        raise Corrupt(f"manifest {wanted} has a media type that is no text")
    return document


def is_index(document: dict[str, Any], served_as: str) -> bool:
    """Whether *document* lists manifests. Raises `Unsupported` for what is neither an index nor a manifest."""
    media_type = document.get("mediaType") or served_as
    if media_type in INDEXES or (media_type not in MANIFESTS and "manifests" in document):
        return True
    if media_type in MANIFESTS or ("config" in document and "layers" in document):
        return False
    if document.get("schemaVersion") == 1:
        raise Unsupported(
            "manifests of schema version 1 are not supported", hint="push the image again, to get schema 2"
        )
    raise Unsupported(f"unsupported manifest type {media_type!r}")


def index_members(document: dict[str, Any]) -> list[Descriptor]:
    """The manifests that an index lists. Raises `InvalidArgument`."""
    return _descriptors(document, "manifests")


def parse_manifest(document: dict[str, Any], digest: str, served_as: str) -> ImageManifest:
    """Raises `InvalidArgument`; `Unsupported` for an artifact that is no image."""
    config = Descriptor.from_json(document.get("config"))
    if config.media_type not in _CONFIGS:
        raise Unsupported(f"not a container image: its config is {config.media_type!r}")
    layers = tuple(_descriptors(document, "layers"))
    return ImageManifest(digest, document.get("mediaType") or served_as or OCI_MANIFEST, config, layers)


def _descriptors(document: dict[str, Any], key: str) -> list[Descriptor]:
    listed = document.get(key) or []
    if not isinstance(listed, list):
        raise InvalidArgument(f"invalid manifest: {key} is no list")
    return [Descriptor.from_json(each) for each in listed]


def parse_config(data: bytes, layers: Sequence[Descriptor] | None) -> ImageConfig:
    """The image config in *data*, with one diff ID for each of *layers*. Raises `Corrupt`."""
    try:
        config = msgspec.convert(without_nulls(msgspec.json.decode(data)), ImageConfig)
        diff_ids = config.rootfs.get("diff_ids") or []
        if not isinstance(diff_ids, list):
            raise Corrupt("image config has diff IDs that are no list")
        if layers is not None and len(diff_ids) != len(layers):
            raise Corrupt(f"image config has {len(diff_ids)} diff IDs for {len(layers)} layers")
        if not all(isinstance(diff_id, str) and _DIFF_ID.fullmatch(diff_id) for diff_id in diff_ids):
            raise Corrupt("image config has diff IDs that are no sha256 digests")
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"image config is malformed: {error}") from error
    return config


def created_ns(config: ImageConfig) -> int:
    """When the image was made; 0 where it does not say or says nonsense."""
    try:
        return parse_rfc3339_ns(config.created)
    except InvalidArgument:
        return 0


def make_config(document: dict[str, Any]) -> bytes:
    """The image config *document* as the Go programs write it that read it: in their order of members, with their
    escapes. So its digest, which is the image's ID, survives when one of them takes it apart and puts it together."""
    known = {name: document[name] for name in _CONFIG_ORDER if document.get(name)}
    rest = {name: value for name, value in document.items() if name not in known and value}
    text = json.dumps({**known, **rest}, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_GO_ESCAPES).encode()


def make_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest, the same bytes for the same image."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def with_layers(data: bytes, layers: Sequence[Descriptor]) -> Manifest:
    """The manifest *data* with the blobs *layers* in the place of its own. One of Docker's schema 2 stays one, unless a
    layer is zstd, which that does not know: then it is an OCI manifest."""
    document = json.loads(data)
    docker = document.get("mediaType") == DOCKER_MANIFEST and not any(
        layer.media_type.endswith("zstd") for layer in layers
    )
    named = [replace(layer, media_type=_layer_type(layer.media_type, docker)) for layer in layers]
    document["layers"] = [layer.to_json() for layer in named]
    document["mediaType"] = media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    document["config"]["mediaType"] = DOCKER_CONFIG if docker else OCI_CONFIG
    made = json.dumps(document, separators=(",", ":")).encode()
    return Manifest(Descriptor(media_type, digest_of(made), len(made)), made)


def _layer_type(media_type: str, docker: bool) -> str:
    if docker:
        return {OCI_LAYER_GZIP: DOCKER_LAYER_GZIP, OCI_LAYER: DOCKER_LAYER}.get(media_type, media_type)
    return {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP, DOCKER_LAYER: OCI_LAYER}.get(media_type, media_type)


def manifest_in_store(data: bytes, digest: str) -> ImageManifest:
    """The manifest *data*, as the content store has it. Raises `Corrupt`."""
    try:
        return parse_manifest(json.loads(data), digest, "")
    except (ValueError, ScowError) as error:
        raise Corrupt(f"stored manifest {digest} is malformed: {error}") from error
