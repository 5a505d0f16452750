"""From ``-v``, ``--mount``, ``--tmpfs`` and an image's VOLUMEs to the mount points of a container."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from scow.engine.model import MountPoint
from scow.engine.names import VOLUME_NAME, new_id
from scow.errors import InvalidArgument, NotFound, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scow.engine.model import Container
    from scow.types import ContainerConfig, HostConfig, MountSpec

_PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_SELINUX = frozenset({"z", "Z"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated"})
_MAPPED = frozenset({"idmap", "ridmap"})  # for containers with a user namespace; a volume is idmapped anyhow
_KNOWN = frozenset({"ro", "rw", "nocopy"}) | _PROPAGATION | _SELINUX | _CONSISTENCY | _MAPPED


def mount_points(
    config: ContainerConfig, host: HostConfig, find: Callable[[str], Container]
) -> tuple[list[MountPoint], list[str]]:
    """The container's mount points in the order in which they are made, and warnings.

    Later sources win over earlier ones for one destination: image volumes, ``--volumes-from``, ``-v``, ``--mount``.
    Raises `InvalidArgument`; a missing source of ``--mount type=bind`` is one (Docker's text).
    """
    points: dict[str, MountPoint] = {}
    for destination in config.volumes:
        point = _volume(_destination(destination), "", host.volume_driver)
        points[point.destination] = point
    for source in host.volumes_from:
        points.update((point.destination, point) for point in _inherited(source, find))
    explicit: set[str] = set()
    for bind in host.binds:
        _add(points, explicit, parse_bind(bind, host.volume_driver))
    for spec in host.mounts:
        _add(points, explicit, from_spec(spec))
    for destination, options in host.tmpfs.items():
        words = tuple(word for word in options.split(",") if word)
        _add(points, explicit, MountPoint(type="tmpfs", destination=_destination(destination), options=words))
    ordered = sorted(points.values(), key=lambda point: point.destination.count("/") if point.destination != "/" else 0)
    return ordered, []


def _add(points: dict[str, MountPoint], explicit: set[str], point: MountPoint) -> None:
    if point.destination in explicit:
        raise InvalidArgument(f"Duplicate mount point: {point.destination}")
    explicit.add(point.destination)
    points[point.destination] = point


def parse_bind(text: str, volume_driver: str = "") -> MountPoint:
    """One ``-v``: ``[source:]destination[:options]``; a source with a leading slash is a bind, else a volume name."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]) or not parts[0]:
        raise InvalidArgument(f"invalid volume specification: {text!r}", hint="expected [source:]destination[:options]")
    if len(parts) == 1:
        return _volume(_destination(parts[0]), "", volume_driver)
    source, destination = parts[0], _destination(parts[1])
    options = [word for word in (parts[2].split(",") if len(parts) == 3 else []) if word]
    unknown = [word for word in options if word not in _KNOWN]
    if unknown:
        raise InvalidArgument(f"invalid mode: {','.join(options)}", hint=f"unknown: {', '.join(unknown)}")
    if "ro" in options and "rw" in options:
        raise InvalidArgument(f"invalid mode: {','.join(options)}")
    mode, writable = ",".join(options), "ro" not in options
    if source.startswith("/"):
        propagation = next((word for word in options if word in _PROPAGATION), "rprivate")
        return MountPoint(
            type="bind",
            destination=destination,
            source=posixpath.normpath(source),
            mode=mode,
            rw=writable,
            propagation=propagation,
            options=("create",),
        )
    if not VOLUME_NAME.fullmatch(source):
        raise InvalidArgument(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed',
            hint="if you intended to pass a host directory, use an absolute path",
        )
    return _volume(destination, source, volume_driver, mode or "z", writable, "nocopy" not in options)


def from_spec(spec: MountSpec) -> MountPoint:
    """One ``--mount``; raises `InvalidArgument` in Docker's words."""
    destination = _destination(spec.target)
    if spec.type == "bind":
        return _bind(spec, destination)
    if spec.type == "tmpfs":
        tmpfs = spec.tmpfs_options
        words = [f"size={tmpfs.size_bytes}"] if tmpfs and tmpfs.size_bytes else []
        words += [f"mode={tmpfs.mode:o}"] if tmpfs and tmpfs.mode else []
        words += ["=".join(option) for option in tmpfs.options] if tmpfs else []
        words += ["ro"] if spec.read_only else []
        return MountPoint(type="tmpfs", destination=destination, rw=not spec.read_only, options=tuple(words))
    if spec.type == "image":
        raise Unsupported("mounts of type image are not supported by this version of scow")
    if spec.type != "volume":
        raise InvalidArgument(f"mount type unknown: {spec.type!r}", hint="known: bind, volume, tmpfs")
    options = spec.volume_options
    if options is not None and options.subpath:
        raise Unsupported("volume-subpath is not supported by this version of scow", hint="mount the whole volume")
    driver = options.driver_config.name if options and options.driver_config else ""
    if spec.source and not VOLUME_NAME.fullmatch(spec.source):
        raise InvalidArgument(f'create {spec.source}: "{spec.source}" includes invalid characters for a volume name')
    copy = not (options is not None and options.no_copy)
    return _volume(destination, spec.source, driver, "z", not spec.read_only, copy)


def _bind(spec: MountSpec, destination: str) -> MountPoint:
    if not spec.source.startswith("/"):
        raise InvalidArgument(
            f"invalid mount config for type \"bind\": invalid mount path: '{spec.source}' mount path must be absolute"
        )
    options = spec.bind_options
    create = options is not None and options.create_mountpoint
    if not create and not Path(spec.source).exists():
        raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {spec.source}')
    propagation = (options.propagation if options else "") or "rprivate"
    if propagation not in _PROPAGATION:
        raise InvalidArgument(f"invalid propagation: {propagation}", hint=f"known: {', '.join(sorted(_PROPAGATION))}")
    words = (["create"] if create else []) + (["nonrecursive"] if options and options.non_recursive else [])
    return MountPoint(
        type="bind",
        destination=destination,
        source=posixpath.normpath(spec.source),
        rw=not spec.read_only,
        propagation=propagation,
        options=tuple(words),
    )


def _volume(
    destination: str, name: str, driver: str, mode: str = "", rw: bool = True, copy_up: bool = True
) -> MountPoint:
    return MountPoint(
        type="volume",
        destination=destination,
        name=name or new_id(),
        driver=driver,
        mode=mode,
        rw=rw,
        copy_up=copy_up,
        anonymous=not name,
    )


def _inherited(text: str, find: Callable[[str], Container]) -> Iterable[MountPoint]:
    ref, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid mode for volumes-from: {mode}")
    try:
        source = find(ref)
    except NotFound as error:  # not 404: at that the docker CLI pulls the image
        raise InvalidArgument(error.message, hint=error.hint) from error
    for point in source.mounts:
        if point.type == "tmpfs":
            continue
        writable = point.rw and mode != "ro"
        yield MountPoint(
            type=point.type,
            destination=point.destination,
            source=point.source,
            name=point.name,
            driver=point.driver,
            mode=mode or point.mode,
            rw=writable,
            propagation=point.propagation,
            options=point.options,
        )


def _destination(text: str) -> str:
    if not text.startswith("/"):
        raise InvalidArgument(f"invalid mount config: invalid mount path: '{text}' mount path must be absolute")
    path = posixpath.normpath(text)
    path = "/" + path.lstrip("/")
    if path == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return path
