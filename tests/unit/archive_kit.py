"""Archives of images as other tools write them, whole and broken."""

from __future__ import annotations

import json
import tarfile
from typing import Any

from scow.oci import OCI_INDEX
from scow.ports.registry import Manifest
from scow.testing.fakes_registry import FileTree, SmallImage

NAME, REF = "io.containerd.image.name", "org.opencontainers.image.ref.name"


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def oci_files(*images: SmallImage | Manifest, names: list[str] | None = None, key: str = NAME) -> FileTree:
    """The files of an OCI archive; *names* go to the images in order, ``""`` for none."""
    files: FileTree = {"oci-layout": '{"imageLayoutVersion":"1.0.0"}', "blobs/": None, "blobs/sha256/": None}
    entries: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        manifest = image if isinstance(image, Manifest) else image.manifest
        entry: dict[str, Any] = manifest.descriptor.to_json()
        if names and names[number]:
            entry["annotations"] = {key: names[number]}
        entries.append(entry)
        files[blob_path(manifest.descriptor.digest)] = manifest.data
        if isinstance(image, SmallImage):
            files |= {blob_path(digest): data for digest, data in image.blobs.items()}
    files["index.json"] = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return files


def docker_files(image: SmallImage, tags: list[str] | None, *, links: bool = False) -> FileTree:
    """The files of a docker-archive as docker before 25 wrote it, or with *links* as podman and skopeo do."""
    files: FileTree = {}
    layers = []
    for number, layer in enumerate(image.layers):
        hexes = layer.digest.removeprefix("sha256:")
        if links:
            files[f"{hexes}.tar"] = image.blobs[layer.digest]
            files[f"{number}/layer.tar"] = link(f"../{hexes}.tar")
        else:
            files[f"{number}/VERSION"] = "1.0"
            files[f"{number}/layer.tar"] = image.blobs[layer.digest]
        layers.append(f"{number}/layer.tar")
    config = image.id.removeprefix("sha256:") + ".json"
    files[config] = image.blobs[image.id]
    files["manifest.json"] = json.dumps([{"Config": config, "RepoTags": tags, "Layers": layers}])
    files["repositories"] = "{}"
    return files
