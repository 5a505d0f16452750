"""Media types, descriptors, digests and platforms of the OCI image specification 1.1 and Docker's schema 2."""

from __future__ import annotations

import hashlib
import json
import platform as host_platform
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
LAYERS = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def check_digest(digest: str) -> str:
    """*digest* itself, once it has the form of a sha256 or sha512 digest; raises `InvalidArgument`."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"invalid digest {digest!r}", hint="expected sha256:<64 hex digits>")
    return digest


def digest_of(data: bytes) -> str:
    """The sha256 digest of *data* in the form ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_id(parent: str | None, diff_id: str) -> str:
    """The chain ID of a layer on *parent*'s (image-spec config.md, "Layer ChainID")."""
    return diff_id if parent is None else digest_of(f"{parent} {diff_id}".encode())


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain IDs of an image's layers, lowest first."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(chain_id(chains[-1] if chains else None, diff_id))
    return chains


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and CPU, as ``linux/arm64/v8``."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""

    @classmethod
    def host(cls) -> Platform:
        """That of this machine."""
        machine = host_platform.machine()
        return cls("linux", _ARCHITECTURES.get(machine, machine), "v7" if machine == "armv7l" else "")

    @classmethod
    def parse(cls, text: str) -> Platform:
        """From ``os[/arch[/variant]]`` or ``arch``; raises `InvalidArgument`."""
        parts = text.lower().split("/")
        if not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts) or len(parts) > 3:
            raise InvalidArgument(f"invalid platform {text!r}", hint="expected os/architecture[/variant]")
        if len(parts) == 1:
            if parts[0] == "linux":
                return cls.host()
            parts = ["linux", parts[0]]
        architecture = _ARCHITECTURES.get(parts[1], parts[1])
        return cls(parts[0], architecture, parts[2] if len(parts) == 3 else "")

    @classmethod
    def decode(cls, text: str) -> Platform:
        """From a request: the JSON object of API 1.46 and later, or as `parse`. Raises `InvalidArgument`."""
        if not text.startswith("{"):
            return cls.parse(text)
        try:
            raw = json.loads(text)
            return cls.parse("/".join([raw["os"], raw["architecture"], *filter(None, [raw.get("variant")])]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidArgument(f"invalid platform {text!r}") from error

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names a blob: media type, digest and size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: str
    size_bytes: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Any) -> Descriptor:
        """From a decoded JSON object; raises `InvalidArgument` where a field is missing or malformed."""
        try:
            raw = value.get("platform")
            where = Platform(*map(_text, (raw["os"], raw["architecture"], raw.get("variant") or ""))) if raw else None
            size = value["size"]
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise ValueError(f"size {size!r}")
            return cls(
                str(value.get("mediaType") or ""),
                check_digest(value["digest"]),
                size,
                where,
                dict(value.get("annotations") or {}),
                tuple(value.get("urls") or ()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument(f"invalid descriptor: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the descriptor."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        if self.platform is not None:
            value["platform"] = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.variant:
                value["platform"]["variant"] = self.platform.variant
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
