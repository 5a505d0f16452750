"""The ``mounts`` of the runtime spec: the system's own, the container's files, volumes, binds and tmpfs."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from scow.engine import spec_defaults as defaults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scow.engine.model import Container, MountPoint
    from scow.types import HostConfig

_FILES = {"resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname", "hosts": "/etc/hosts"}
_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")
_CONTRARY = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
_MAPPED_WORDS = frozenset({"idmap", "ridmap"})
_ENGINE_WORDS = frozenset({"create", "nonrecursive", "ro-nonrecursive"})


def mounts(
    container: Container,
    files: Path,
    sources: Mapping[str, str],
    joined: Mapping[str, int],
    writable_cgroups: bool,
) -> list[dict[str, Any]]:
    """In the order in which they are made: the system's first, then by depth of the destination.

    A mount of the user replaces the system's at the same place, and one of /dev all those below it.
    """
    host = container.host_config
    mapped = container.ids is not None
    own = [_user_mount(point, sources, mapped) for point in container.mounts]
    taken = {mount["destination"] for mount in own}
    own += [
        _tmpfs(posixpath.normpath(destination), tuple(word for word in options.split(",") if word))
        for destination, options in host.tmpfs.items()
        if posixpath.normpath(destination) not in taken
    ]
    own += _files(files, host, {mount["destination"] for mount in own}, mapped)
    taken = {mount["destination"] for mount in own}
    system = [
        mount
        for mount in system_mounts(host, joined, writable_cgroups)
        if mount["destination"] not in taken and not ("/dev" in taken and mount["destination"].startswith("/dev/"))
    ]
    return [*system, *sorted(own, key=lambda mount: mount["destination"].rstrip("/").count("/"))]


def system_mounts(host: HostConfig, joined: Mapping[str, int], writable_cgroups: bool) -> list[dict[str, Any]]:
    """What every container has mounted."""
    access = "rw" if host.privileged else "ro"
    cgroup_access = "rw" if writable_cgroups else "ro"
    result = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", cgroup_access),
    ]
    result.append(_mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"))
    if host.ipc_mode == "host":
        return [*result, _bind("/dev/shm", "/dev/shm", "rbind", "nosuid", "nodev", "noexec")]
    if "ipc" in joined:
        shm = _bind(f"/proc/{joined['ipc']}/root/dev/shm", "/dev/shm", "rbind", "nosuid", "nodev", "noexec")
        return [*result, shm]
    if host.ipc_mode != "none":
        size = host.shm_size or defaults.SHM_SIZE_BYTES
        result.append(_mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={size}"))
    return result


def _mount(destination: str, fstype: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": fstype, "source": source, "options": list(options)}


def _bind(source: str, destination: str, *options: str) -> dict[str, Any]:
    return _mount(destination, "bind", source, *options)


def _files(directory: Path, host: HostConfig, taken: set[str], mapped: bool) -> list[dict[str, Any]]:
    access = (["ro"] if host.readonly_rootfs else []) + (["idmap"] if mapped else [])
    return [
        _bind(str(directory / name), destination, "bind", "rprivate", *access)
        for name, destination in _FILES.items()
        if destination not in taken
    ]


def _user_mount(point: MountPoint, sources: Mapping[str, str], mapped: bool) -> dict[str, Any]:
    """A volume or bind. A read-only one is read-only throughout (Linux 5.12) unless it says ``ro-nonrecursive``. In a
    user namespace (*mapped*) the owners of a volume are the container's, those of a bind if it asks for that."""
    if point.type == "tmpfs":
        words = point.options if point.rw or "ro" in point.options else (*point.options, "ro")
        return _tmpfs(point.destination, words)
    recursive = "nonrecursive" not in point.options
    options = ["rbind" if recursive else "bind"]
    if not point.rw:
        options.append("ro")
        if recursive and "ro-nonrecursive" not in point.options:
            options.append("rro")
    options += [word for word in point.options if word not in _ENGINE_WORDS]
    if mapped:
        options += ["idmap"] if point.type == "volume" else [w for w in point.mode.split(",") if w in _MAPPED_WORDS]
    options.append(point.propagation or "rprivate")
    return _bind(sources.get(point.destination, point.source), point.destination, *options)


def _tmpfs(destination: str, words: tuple[str, ...]) -> dict[str, Any]:
    """``--tmpfs``: noexec, nosuid and nodev unless the contrary is asked for."""
    contrary = {_CONTRARY[word] for word in words if word in _CONTRARY}
    options = [word for word in _TMPFS_DEFAULTS if word not in contrary]
    return _mount(destination, "tmpfs", "tmpfs", *options, "rprivate", *words)
