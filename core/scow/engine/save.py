"""Writes images into one archive: ``docker save``. An OCI image layout that holds Docker's manifest.json, too, so that
every engine reads it; what tells of the images comes first, then each blob once, as the content store has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scow.engine.archive_layout import FULL_NAME, REF_NAME
from scow.engine.manifests import manifest_in_store
from scow.errors import ScowError
from scow.oci import OCI_INDEX
from scow.reference import Reference
from scow.tar_reader import DIRECTORY, REGULAR, Member
from scow.tar_writer import END, file_member, member_header, padding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scow.content import ContentStore
    from scow.engine.image_store import ImageStore
    from scow.engine.manifests import ImageManifest
    from scow.engine.model import Image

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Selected:
    """An image to write, and its manifest; *tags* are the full references that the archive gives it."""

    image: Image
    manifest: ImageManifest
    tags: list[Reference]

    @property
    def blobs(self) -> list[str]:
        """The digests of all that it consists of."""
        return [self.manifest.digest, self.manifest.config.digest, *(layer.digest for layer in self.manifest.layers)]


def select(store: ImageStore, names: Sequence[str]) -> list[tuple[Image, list[Reference]]]:
    """The images that *names* mean, each once, with the tags to write: the one that was said, all of a repository that
    was said without a tag, none for an id or digest. Raises `NotFound`."""
    found: dict[str, tuple[Image, list[Reference]]] = {}
    for name in names:
        for image, tags in _named(store, name):
            _, known = found.setdefault(image.id, (image, []))
            known += [tag for tag in tags if tag not in known]
    return list(found.values())


def _named(store: ImageStore, name: str) -> list[tuple[Image, list[Reference]]]:
    try:
        ref = Reference.parse(name, default_tag="")
    except ScowError:
        return [(store.get(name), [])]  # an id, if anything
    if ref.tag and not ref.digest:
        image = store.by_name(str(ref))
        if image is not None:
            return [(image, [ref])]
    elif not ref.digest:
        all_tags = [(image, Reference.parse(tag)) for image in store.all() for tag in image.tags]
        mine = [(image, [tag]) for image, tag in all_tags if tag.name == ref.name]
        if mine:
            return sorted(mine, key=lambda pair: str(pair[1][0]))
    return [(store.get(name), [])]


def read_manifest(content: ContentStore, image: Image, tags: list[Reference]) -> Selected:
    """*image* with its manifest. Blocks. Raises `NotFound`, `Corrupt`."""
    manifest = manifest_in_store(content.read(image.manifest_digest), image.manifest_digest)
    return Selected(image, manifest, tags)


def archive(content: ContentStore, images: Sequence[Selected]) -> Iterator[bytes]:
    """The tar of *images*, the same bytes for the same images. Blocks. Whoever calls it holds leases on the blobs."""
    yield from file_member(b"oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
    yield from file_member(b"index.json", _json(_index(content, images)))
    yield from file_member(b"manifest.json", _json([_listing(image) for image in images]))
    yield member_header(_folder(b"blobs/"))
    yield member_header(_folder(b"blobs/sha256/"))
    for digest in dict.fromkeys(digest for image in images for digest in image.blobs):
        yield from _blob(content, digest)
    yield END


def _index(content: ContentStore, images: Sequence[Selected]) -> dict[str, Any]:
    entries = []
    for selected in images:
        entry = {
            "mediaType": selected.manifest.media_type,
            "digest": selected.manifest.digest,
            "size": content.size(selected.manifest.digest),
        }
        for tag in selected.tags:
            entries.append({**entry, "annotations": {FULL_NAME: str(tag), REF_NAME: tag.tag}})
        if not selected.tags:
            entries.append(entry)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _listing(selected: Selected) -> dict[str, Any]:
    return {
        "Config": _path(selected.manifest.config.digest),
        "RepoTags": [tag.familiar for tag in selected.tags] or None,
        "Layers": [_path(layer.digest) for layer in selected.manifest.layers],
    }


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _folder(name: bytes) -> Member:
    return Member(name, DIRECTORY, 0o755, 0, 0, 0, 0, b"", 0, 0, {})


def _blob(content: ContentStore, digest: str) -> Iterator[bytes]:
    size = content.size(digest)
    yield member_header(Member(_path(digest).encode(), REGULAR, 0o644, 0, 0, size, 0, b"", 0, 0, {}))
    with content.open(digest) as blob:
        while data := blob.read(_PIECE_BYTES):
            yield data
    yield padding(size)
