"""The part of a plan that is about user namespaces and idmapped mounts (runtime-spec 1.2, config-linux and config)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scow.ports import Mount

_MAPPED = {"idmap": False, "ridmap": True}
_MOST_LINES = 340  # user_namespaces(7)
_LAYERS = ("lowerdir", "upperdir", "workdir")
_JOINED = ("network", "ipc", "uts", "cgroup", "time", "pid", "user")  # the user namespace's rights come last


def namespace_plan(
    linux: Mapping[str, Any], namespaces: Mapping[str, str], kinds: Mapping[str, int], root: Sequence[Mount]
) -> dict[str, Any] | None:
    """What the monitor makes for a container with a user namespace, None without one. *namespaces* are paths by type
    (``""``: new), *kinds* the flags of those that can be joined.

    Recipes of *root* with the option ``idmap`` show the owners on disk as the container's (``layers`` is the folder
    with all directories of an overlay: one idmapped mount of it serves every layer).
    """
    uids, gids = _map(linux, "uidMappings"), _map(linux, "gidMappings")
    if "user" not in namespaces:
        if uids or gids:
            raise InvalidArgument("uid and gid mappings need a user namespace", hint="add it to linux.namespaces")
        if any("idmap" in mount.options for mount in root):
            raise InvalidArgument("an idmapped root needs a user namespace")
        return None
    path = namespaces["user"]
    if not path and not (uids and gids):
        raise InvalidArgument("a new user namespace needs linux.uidMappings and linux.gidMappings")
    mapped = [mount for mount in root if "idmap" in mount.options and mount.type == "overlay"]
    return {
        "uids": [] if path else uids,
        "gids": [] if path else gids,
        "join": [[namespaces[kind], kinds[kind]] for kind in _JOINED if namespaces.get(kind)],
        "root": ["idmap" in mount.options for mount in root],
        "layers": layers_folder(mapped) if mapped else "",
    }


def layers_folder(mounts: Sequence[Mount]) -> str:
    """The deepest folder that holds every directory of the overlays *mounts*."""
    found: list[str] = []
    for mount in mounts:
        for option in mount.options:
            key, _, value = option.partition("=")
            if key == "lowerdir":
                marked = value.replace("\\\\", "\0").replace("\\:", "\1")
                found += [part.replace("\1", ":").replace("\0", "\\") for part in marked.split(":")]
            elif key in _LAYERS:
                found.append(value)
    return os.path.commonpath(found)


def mount_mapping(mount: Mapping[str, Any], words: Sequence[str], user_namespace: bool) -> dict[str, Any] | None:
    """The mapping of one bind mount: its own, or (no lines) the container's. None where it is not idmapped."""
    uids, gids = _map(mount, "uidMappings"), _map(mount, "gidMappings")
    wanted = [word for word in words if word in _MAPPED]
    if not (wanted or uids or gids):
        return None
    destination = mount["destination"]
    if bool(uids) != bool(gids):
        raise InvalidArgument(f"mount {destination}: an idmapped mount needs both uidMappings and gidMappings")
    if not uids and not user_namespace:
        raise InvalidArgument(
            f"mount {destination}: {wanted[-1]} needs mappings", hint="give it its own, or a user namespace"
        )
    return {"uids": uids, "gids": gids, "recursive": bool(wanted) and _MAPPED[wanted[-1]]}


def without_mapping_words(words: Sequence[str]) -> list[str]:
    """*words* without those that ask for an idmapped mount, which mount(2) does not know."""
    return [word for word in words if word not in _MAPPED]


def _map(spec: Mapping[str, Any], key: str) -> list[list[int]]:
    lines = [[line["containerID"], line["hostID"], line["size"]] for line in spec.get(key) or ()]
    if len(lines) > _MOST_LINES:
        raise InvalidArgument(f"{key} has {len(lines)} lines, the kernel takes {_MOST_LINES}")
    for line in lines:
        if not all(isinstance(number, int) and 0 <= number < 1 << 32 for number in line) or not line[2]:
            raise InvalidArgument(f"{key}: {line} is not a range of ids")
    return lines
