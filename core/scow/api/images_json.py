"""An `Image` as the Engine API shows it: ``GET /images/{name}/json`` and a line of ``GET /images/json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.api.inspect import container_config
from scow.api.times import SECOND_NS, rfc3339
from scow.reference import Reference

if TYPE_CHECKING:
    from scow.engine.model import Image

Json = dict[str, Any]

NONE_TAG_UNTIL = (1, 43)  # before, an image without a name was shown as <none>:<none>
VIRTUAL_SIZE_UNTIL = (1, 44)


def repo_tags(image: Image) -> list[str]:
    """Its tags as users write them."""
    return [Reference.parse(tag).familiar for tag in image.tags]


def repo_digests(image: Image) -> list[str]:
    """Its repository digests as users write them."""
    return [Reference.parse(digest).familiar for digest in image.digests]


def inspect(image: Image, storage_driver: str, version: tuple[int, int]) -> Json:
    """Docker's ImageInspect."""
    config = image.config
    history = config.history[-1] if config.history else {}
    value: Json = {
        "Id": image.id,
        "RepoTags": repo_tags(image),
        "RepoDigests": repo_digests(image),
        "Parent": image.parent,
        "Comment": history.get("comment", ""),
        "Created": rfc3339(image.created_ns),
        "DockerVersion": "",
        "Author": config.author,
        "Config": container_config(config.config),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size_bytes,
        "GraphDriver": {"Name": storage_driver, "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": rfc3339(image.pulled_ns)},
    }
    if config.variant:
        value["Variant"] = config.variant
    if version < VIRTUAL_SIZE_UNTIL:
        value["VirtualSize"] = image.size_bytes
    return value


def summary(image: Image, containers: int, shared_bytes: int, version: tuple[int, int]) -> Json:
    """A line of ``docker images``; *containers* is how many use it, *shared_bytes* what of it other images have, too;
    -1 where that was not counted."""
    tags, digests = repo_tags(image), repo_digests(image)
    if version < NONE_TAG_UNTIL:
        tags, digests = tags or ["<none>:<none>"], digests or ["<none>@<none>"]
    value: Json = {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": image.created_ns // SECOND_NS,
        "Size": image.size_bytes,
        "SharedSize": shared_bytes,
        "Labels": image.config.config.labels,
        "Containers": containers,
    }
    if version < VIRTUAL_SIZE_UNTIL:
        value["VirtualSize"] = image.size_bytes
    return value
