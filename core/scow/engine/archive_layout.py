"""Which images an archive holds: an OCI image layout (image-spec image-layout.md), else what ``docker save`` wrote.

Blobs of a layout are found by their digest, not by their name, so that none can lie about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scow.compression import compression_of
from scow.engine import manifests
from scow.engine.platforms import choose, fits
from scow.errors import Corrupt, InvalidArgument, NotFound
from scow.oci import LAYERS, OCI_CONFIG, Descriptor, Platform, chain_ids, digest_of
from scow.reference import Reference

if TYPE_CHECKING:
    from scow.content import Staged
    from scow.engine.archive_members import Members
    from scow.types import ImageConfig

FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_NESTED_LIMIT = 3


@dataclass(slots=True)
class ArchivedImage:
    """One image of an archive, complete. *manifest* are the bytes that name *config_blob* and *layers*; *names* are
    full references with a tag."""

    config_blob: Descriptor
    raw_config: bytes
    config: ImageConfig
    manifest: bytes
    layers: tuple[Descriptor, ...]
    files: tuple[Staged, ...]  # one for each of *layers*
    names: list[str]

    @property
    def diff_ids(self) -> list[str]:
        return [str(diff_id) for diff_id in self.config.rootfs.get("diff_ids") or []]

    @property
    def chains(self) -> list[str]:
        return chain_ids(self.diff_ids)

    @property
    def manifest_digest(self) -> str:
        return digest_of(self.manifest)


def read_images(members: Members, platform: Platform | None) -> list[ArchivedImage]:
    """The images that *members* hold, each once; with *platform* only those for it. Blocks.

    Raises `InvalidArgument` for what is no archive of images or names what it does not hold, `Corrupt` for wrong
    digests, `NotFound` without one for *platform*.
    """
    index, listing = members.find("index.json"), members.find("manifest.json")
    if index is None and listing is None:
        hint = "docker import takes the tar of a root filesystem"
        raise InvalidArgument("not an archive of images: it has neither index.json nor manifest.json", hint=hint)
    found = [] if index is None else _of_layout(members, members.json(index), platform or Platform.host())
    if not found and listing is not None:
        found = _of_docker(members, members.json(listing))
    if not found:
        raise InvalidArgument("the archive holds no image")
    if platform is not None:
        found = [image for image in found if fits(image.config, platform)]
        if not found:
            raise NotFound(f"the archive has no image for platform {platform}")
    return _merged(found)


def _of_layout(members: Members, index: Any, platform: Platform) -> list[ArchivedImage]:
    if not isinstance(index, dict):
        raise InvalidArgument("index.json of the archive is no JSON object")
    found = []
    for entry in manifests.index_members(index):
        name = _name(entry)
        found.append(_image(members, _manifest(members, entry, platform), [name] if name else []))
    return found


def _manifest(members: Members, entry: Descriptor, platform: Platform) -> tuple[Descriptor, dict[str, Any], bytes]:
    """The manifest of one image that *entry* names, by way of indexes if need be."""
    for _ in range(_NESTED_LIMIT):
        data = members.read(_blob(members, entry.digest))
        document = members.json(_blob(members, entry.digest))
        if not isinstance(document, dict):
            raise InvalidArgument(f"manifest {entry.digest} in the archive is no JSON object")
        if not manifests.is_index(document, entry.media_type):
            return entry, document, data
        there = [member for member in manifests.index_members(document) if members.blob(member.digest) is not None]
        entry = choose(there, platform)
    raise InvalidArgument(f"the index {entry.digest} in the archive lists indexes of indexes")


def _image(members: Members, manifest: tuple[Descriptor, dict[str, Any], bytes], names: list[str]) -> ArchivedImage:
    entry, document, data = manifest
    parsed = manifests.parse_manifest(document, entry.digest, entry.media_type)
    raw = members.read(_blob(members, parsed.config.digest))
    files = tuple(_blob(members, layer.digest) for layer in parsed.layers)
    for layer, file in zip((parsed.config, *parsed.layers), (None, *files), strict=True):
        size = len(raw) if file is None else file.size_bytes
        if layer.size_bytes != size:
            raise Corrupt(f"blob {layer.digest} in the archive has {size} bytes, its manifest says {layer.size_bytes}")
    config = manifests.parse_config(raw, parsed.layers)
    return ArchivedImage(parsed.config, raw, config, data, parsed.layers, files, names)


def _of_docker(members: Members, listing: Any) -> list[ArchivedImage]:
    """``manifest.json``: configs, layers by name and tags (moby image/spec/spec.md). There is no manifest: one is
    made."""
    if not isinstance(listing, list):
        raise InvalidArgument("manifest.json of the archive is no JSON list")
    found = []
    for entry in listing:
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise InvalidArgument("manifest.json of the archive names no config")
        raw = members.read(members.file(entry["Config"]))
        files = tuple(members.file(name) for name in _texts(entry.get("Layers"), "Layers"))
        layers = tuple(Descriptor(_layer_type(members, file), file.digest, file.size_bytes) for file in files)
        blob = Descriptor(OCI_CONFIG, digest_of(raw), len(raw))
        config = manifests.parse_config(raw, layers)
        names = [str(Reference.parse(tag)) for tag in _texts(entry.get("RepoTags"), "RepoTags")]
        found.append(ArchivedImage(blob, raw, config, manifests.make_manifest(blob, layers), layers, files, names))
    return found


def _merged(images: list[ArchivedImage]) -> list[ArchivedImage]:
    """Each image once, with all its names."""
    by_id: dict[str, ArchivedImage] = {}
    for image in images:
        known = by_id.setdefault(image.config_blob.digest, image)
        known.names += [name for name in image.names if name not in known.names]
    return list(by_id.values())


def _layer_type(members: Members, file: Staged) -> str:
    return LAYERS[compression_of(members.head(file))]


def _texts(value: Any, what: str) -> list[str]:
    """A list of texts; null stands for none. Raises `InvalidArgument`."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"manifest.json of the archive: {what} is no list of texts")
    return value


def _blob(members: Members, digest: str) -> Staged:
    found = members.blob(digest)
    if found is not None:
        return found
    named = members.find("blobs/" + digest.replace(":", "/"))
    if named is not None:
        raise Corrupt(f"blob {digest} in the archive has the digest {named.digest}")
    raise InvalidArgument(f"the archive has no blob {digest}")


def _name(entry: Descriptor) -> str:
    """The reference that the annotations of *entry* give, ``""`` for none: a reference name may be a mere tag."""
    name = entry.annotations.get(FULL_NAME) or entry.annotations.get(REF_NAME) or ""
    if "@" in name or not (":" in name or "/" in name):
        return ""
    return str(Reference.parse(name))
