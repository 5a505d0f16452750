"""From a container's record to the OCI runtime spec (runtime-spec 1.2), and the checks of what a client asked for.

The pieces: `scow.engine.spec_process` (user, environment, capabilities, ulimits), `spec_mounts`, `spec_resources`
(cgroup limits and devices), `spec_security` (``--security-opt``), `spec_validate` (checks at create). Two of Scow's own
keys go beyond the standard, which other runtimes ignore: ``process.user.groups`` (``--group-add``, names or numbers)
and the annotation ``scow.init``; ``process.user.username`` is used on Linux too (``name[:group]``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scow.engine import spec_defaults as defaults
from scow.engine.spec_mounts import mounts
from scow.engine.spec_process import exec_process, process
from scow.engine.spec_resources import changed_limits, device_nodes, resources
from scow.engine.spec_security import capabilities, security
from scow.engine.spec_validate import validate
from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scow.engine.id_ranges import IdRange
    from scow.engine.model import Container
    from scow.types import HostConfig

__all__ = ["build", "changed_limits", "exec_process", "joins", "namespace_path", "resources", "validate"]

_PROC_NAMES = {"network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts", "user": "user"}


def namespace_path(kind: str, pid: int) -> str:
    """Where the kernel shows the namespace of *kind* (``network``, ``pid``, ``ipc``, ``uts``, ``user``) of *pid*."""
    return f"/proc/{pid}/ns/{_PROC_NAMES[kind]}"


def joins(host: HostConfig) -> dict[str, str]:
    """Which other containers' namespaces the container joins: kind → name or id (``--network container:web``)."""
    modes = {"network": host.network_mode, "pid": host.pid_mode, "ipc": host.ipc_mode}
    return {kind: mode.partition(":")[2] for kind, mode in modes.items() if mode.startswith("container:")}


def build(
    container: Container,
    *,
    directory: Path,
    sources: Mapping[str, str] | None = None,
    joined: Mapping[str, int] | None = None,
    files: Path | None = None,
) -> dict[str, Any]:
    """The runtime spec of *container*.

    *directory* is the container's folder (its ``rootfs`` is the mount point); *sources* the host path of each volume
    and bind by destination (default: the mount point's own source); *joined* the PID of the init of the container
    that is joined, for each kind in `joins` and for ``user`` where its user namespace is; *files* the folder of
    ``hosts``, ``hostname`` and ``resolv.conf`` (default: *directory*; another container's for ``--network
    container:``).

    The record has passed `validate`. Raises `InvalidArgument` for what only shows now (a device that is gone).
    """
    host = container.host_config
    caps = capabilities(host)
    namespaces = _namespaces(container, joined or {})
    limits = security(host, caps)
    own_network = {"type": "network"} in namespaces
    ids = container.ids
    linux: dict[str, Any] = {
        "namespaces": namespaces,
        "resources": resources(host),
        "devices": device_nodes(host),
        "maskedPaths": limits.masked_paths,
        "readonlyPaths": limits.readonly_paths,
        "sysctl": {**(_network_sysctls(ids) if own_network else {}), **host.sysctls},
    }
    if {"type": "user"} in namespaces and ids is not None:
        linux.update(ids.mappings())
    if limits.seccomp is not None:
        linux["seccomp"] = limits.seccomp
    if host.cgroup_parent:
        linux["cgroupsPath"] = f"/{host.cgroup_parent.strip('/')}/{container.id}"  # from the root, as with dockerd
    return {
        "ociVersion": defaults.OCI_VERSION,
        "process": process(container, caps, limits),
        "root": {"path": str(directory / "rootfs"), "readonly": host.readonly_rootfs},
        "hostname": _hostname(container),
        "domainname": "" if host.uts_mode == "host" else container.config.domainname,
        "mounts": mounts(container, files or directory, sources or {}, joined or {}, limits.writable_cgroups),
        "annotations": {**host.annotations, **({"scow.init": "true"} if host.init else {})},
        "linux": linux,
    }


def _hostname(container: Container) -> str:
    """``""`` leaves the host's name: with the host's UTS namespace, and by default with its network."""
    host = container.host_config
    if host.uts_mode == "host":
        return ""
    return container.config.hostname or ("" if host.network_mode == "host" else container.id[:12])


def _network_sysctls(ids: IdRange | None) -> dict[str, str]:
    """Groups that a user namespace does not have cannot be named in it."""
    if ids is None:
        return defaults.NETWORK_SYSCTLS
    return {**defaults.NETWORK_SYSCTLS, defaults.PING_GROUPS: f"0 {ids.size - 1}"}


def _namespaces(container: Container, joined: Mapping[str, int]) -> list[dict[str, str]]:
    """``mount`` always; the others new, joined by path, or left out, which means the host's."""
    host = container.host_config
    namespaces = [{"type": "mount"}]
    for kind, mode in (
        ("network", host.network_mode),
        ("pid", host.pid_mode),
        ("ipc", host.ipc_mode),
        ("uts", host.uts_mode),
    ):
        if mode == "host":
            continue
        if mode.startswith("container:"):
            if kind not in joined:
                raise InvalidArgument(f"cannot join the {kind} namespace of {mode!r}: it is not running")
            namespaces.append({"type": kind, "path": namespace_path(kind, joined[kind])})
        else:
            namespaces.append({"type": kind})
    if host.cgroupns_mode == "private" or (not host.cgroupns_mode and not host.privileged):
        namespaces.append({"type": "cgroup"})
    if container.ids is not None:
        path = {"path": namespace_path("user", joined["user"])} if "user" in joined else {}
        namespaces.append({"type": "user", **path})
    return namespaces
