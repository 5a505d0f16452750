"""``/system/df`` in Docker's words, and ``/scow/v1/disk-usage`` with everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.api import images_json, inspect
from scow.api.call import answer
from scow.api.containers import image_ids
from scow.api.routing import Route
from scow.api.times import rfc3339
from scow.api.volumes import volume_json
from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from scow.api.call import Call
    from scow.engine.disk_usage import ContainerSpace, Everything, ImageSpace, Objects, VolumeSpace
    from scow.engine.orphans import Orphan

Json = dict[str, Any]
Version = tuple[int, int]

TYPES = ("container", "image", "volume", "build-cache")
NULL_UNTIL = (1, 42)  # before, there was no ``type`` and a list that is empty was null
USAGE_SINCE = (1, 52)  # since then each type has its own object; with ``verbose`` the lists are in there only


async def system_df(call: Call) -> web.StreamResponse:
    """``GET /system/df``; ``type`` chooses among container, image, volume, build-cache."""
    types = call.texts("type") or list(TYPES)
    for name in types:
        if name not in TYPES:
            raise InvalidArgument(f"unknown object type: {name}", hint=f"known: {', '.join(TYPES)}")
    found = await call.engine.disk_usage.objects()
    lists = _lists(found, call, types)
    value: Json = {}
    verbose = call.flag("verbose")
    if call.version < USAGE_SINCE or not verbose:
        value |= {"LayersSize": found.layers_bytes} if "image" in types else {}
        value |= {name: items or (None if call.version < NULL_UNTIL else []) for name, items in lists.items()}
    if call.version >= USAGE_SINCE:
        value |= _usages(found, lists, types, verbose)
    return answer(value)


def _lists(found: Objects, call: Call, types: list[str]) -> dict[str, list[Json]]:
    lists: dict[str, list[Json]] = {}
    if "image" in types:
        lists["Images"] = [
            images_json.summary(space.image, space.users, space.shared, call.version) for space in found.images
        ]
    if "container" in types:
        sizes = {space.image.id: space.layers for space in found.images}
        names = image_ids(call.engine)
        lists["Containers"] = [
            inspect.summary(
                space.container,
                names,
                (max(space.root, 0), max(space.root, 0) + sizes.get(space.container.image_id, 0)),
            )
            for space in found.containers
        ]
    if "volume" in types:
        lists["Volumes"] = [
            {**volume_json(space.volume), "UsageData": {"Size": space.size, "RefCount": space.users}}
            for space in found.volumes
        ]
    if "build-cache" in types:
        lists["BuildCache"] = []
    return lists


def _usages(found: Objects, lists: dict[str, list[Json]], types: list[str], verbose: bool) -> Json:
    """Docker's ImagesDiskUsage and so on."""
    images, containers, volumes = found.images, found.containers, found.volumes
    rows = {
        "image": ("Image", "Images", sum(1 for space in images if space.users), len(images), found.layers_bytes),
        "container": (
            "Container",
            "Containers",
            sum(1 for space in containers if space.container.state.running),
            len(containers),
            _known(space.root for space in containers),
        ),
        "volume": (
            "Volume",
            "Volumes",
            sum(1 for space in volumes if space.users),
            len(volumes),
            _known(space.size for space in volumes),
        ),
        "build-cache": ("BuildCache", "BuildCache", 0, 0, 0),
    }
    free = {
        "image": found.layers_bytes - found.layers_used,
        "container": _known(space.root for space in containers if not space.container.state.running),
        "volume": _known(space.size for space in volumes if not space.users),
        "build-cache": 0,
    }
    value: Json = {}
    for kind in types:
        name, items, active, count, size = rows[kind]
        usage: Json = {"ActiveCount": active, "TotalCount": count, "Reclaimable": free[kind], "TotalSize": size}
        value[f"{name}Usage"] = usage | ({"Items": lists[items]} if verbose else {})
    return value


def _known(sizes: Iterable[int]) -> int:
    return sum(size for size in sizes if size > 0)


async def everything(call: Call) -> web.StreamResponse:
    """``GET /scow/v1/disk-usage``: every byte below the data root, by who has it; -1 where it is not measured yet."""
    found = await call.engine.disk_usage.everything()
    objects = found.objects
    return answer(
        {
            "Summary": _summary(found),
            "Images": [_image(space) for space in objects.images],
            "Containers": [_container(space) for space in objects.containers],
            "Volumes": [_volume(space) for space in objects.volumes],
            "Orphans": [_orphan(orphan) for orphan in found.orphans],
            "Partial": [_orphan(orphan) for orphan in found.partial],
        }
    )


def _summary(found: Everything) -> list[Json]:
    objects = found.objects
    images, containers, volumes = objects.images, objects.containers, objects.volumes
    used = sum(1 for space in images if space.users)
    idle = [space for space in containers if not space.container.state.running]
    blobs = sum(found.blobs.values())
    orphans, partial = _known(o.size_bytes for o in found.orphans), _known(o.size_bytes for o in found.partial)

    def row(kind: str, count: int, active: int, size: int, free: int) -> Json:
        return {"Type": kind, "Count": count, "Active": active, "Size": size, "Reclaimable": free}

    return [
        row("layers", len(images), used, objects.layers_bytes, objects.layers_bytes - objects.layers_used),
        row("blobs", len(found.blobs), len(found.blobs_used), blobs, blobs - sum(found.blobs_used.values())),
        row("partial", len(found.partial), 0, partial, partial),
        row("orphans", len(found.orphans), 0, orphans, orphans),
        row(
            "containers",
            len(containers),
            len(containers) - len(idle),
            _known(space.root for space in containers),
            _known(space.root for space in idle),
        ),
        row(
            "container files",
            len(containers),
            len(containers) - len(idle),
            _known(space.files for space in containers),
            _known(space.files for space in idle),
        ),
        row(
            "volumes",
            len(volumes),
            sum(1 for space in volumes if space.users),
            _known(space.size for space in volumes),
            _known(space.size for space in volumes if not space.users),
        ),
        row("drivers", 0, 0, max(found.drivers, 0), 0),
        row("engine", 0, 0, found.engine, 0),
    ]


def _image(space: ImageSpace) -> Json:
    return {
        "Id": space.image.id,
        "RepoTags": images_json.repo_tags(space.image),
        "RepoDigests": images_json.repo_digests(space.image),
        "Created": space.image.created_ns // 10**9,
        "Size": space.layers,
        "SharedSize": space.shared,
        "UniqueSize": space.layers - space.shared,
        "BlobsSize": space.blobs,
        "Containers": space.users,
    }


def _container(space: ContainerSpace) -> Json:
    record = space.container
    return {
        "Id": record.id,
        "Name": record.name,
        "Image": record.image_ref,
        "Command": " ".join((record.path, *record.args)),
        "Created": record.created_ns // 10**9,
        "State": record.state.status,
        "Mounts": sum(1 for point in record.mounts if point.type == "volume"),
        "SizeRw": space.root,
        "Files": space.files,
        "Measured": rfc3339(space.measured_ns),
    }


def _volume(space: VolumeSpace) -> Json:
    return {
        "Name": space.volume.name,
        "Driver": space.volume.driver,
        "Containers": space.users,
        "Size": space.size,
        "Measured": rfc3339(space.measured_ns),
    }


def _orphan(orphan: Orphan) -> Json:
    return {"Kind": orphan.kind, "Id": orphan.id, "Size": orphan.size_bytes}


ROUTES = (Route("GET", "/system/df", system_df),)
OWN_ROUTES = (Route("GET", "/scow/v1/disk-usage", everything),)
