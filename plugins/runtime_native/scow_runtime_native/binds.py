"""Bind mounts of the container: volumes, files of the engine, another container's /dev/shm.

A bind is a detached copy of its source (open_tree), whose attributes are set before it is attached: at no moment can
the container see it writable that shall be read-only. Entries are those of `scow_runtime_native.plan`.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from scow.errors import SyscallError
from scow.linux import mounts
from scow.linux import syscalls as sys
from scow_runtime_native import idmap
from scow_runtime_native.failure import StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE = sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC


def open_live(entries: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Copies of the sources that go on exchanging mounts with the host (slave, shared), by their place in *entries*.

    They are taken before the namespace turns private: a copy is in its source's peer group, while nothing else that is
    mounted here can reach the host.
    """
    bound = [(place, entry) for place, entry in enumerate(entries) if entry["kind"] == "bind"]
    return {place: open_source(entry) for place, entry in bound if entry["live"]}


def mount(root_fd: int, entry: dict[str, Any], tree: int | None) -> None:
    """The bind *entry* is mounted inside *root_fd*; *tree* is its copy if it is live."""
    if tree is None:
        tree = open_source(entry)
    try:
        set_attributes(tree, entry)
    except BaseException:
        os.close(tree)
        raise
    place(root_fd, entry, tree)


def place(root_fd: int, entry: dict[str, Any], tree: int) -> None:
    """The detached mount *tree*, which is closed, is at the destination of *entry* inside *root_fd*."""
    try:
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        target = mounts.open_target(root_fd, entry["destination"].strip("/") or ".", directory=directory)
        try:
            check_place(root_fd, target, entry["destination"])
            attach(tree, target)
        finally:
            os.close(target)
    except NotADirectoryError as error:
        raise _kinds_differ(entry) from error
    except SyscallError as error:
        if error.errno != errno.ENOTDIR:
            raise
        raise _kinds_differ(entry) from error
    finally:
        os.close(tree)


def check_place(root_fd: int, target: int, destination: str) -> None:
    """Raises `StageError` where links of the image lead *destination* to the root or into /proc, which a mount must not
    cover (CVE-2019-16884); what names a file of /proc itself was looked at by the plan."""
    place, root = os.fstat(target), os.fstat(root_fd)
    try:
        proc = os.stat("proc", dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        proc = root
    in_proc = place.st_dev == proc.st_dev != root.st_dev and not destination.startswith("/proc/")
    if in_proc or os.path.samestat(place, root):
        raise StageError(
            f"it leads to {'/proc' if in_proc else 'the root'}",
            stage=f"mounting {destination}",
            errno=errno.EPERM,
            hint="the image has a symbolic link there",
        )


def _kinds_differ(entry: dict[str, Any]) -> StageError:
    return StageError(
        f"cannot mount {entry['source']} at {entry['destination']}: not a directory",
        stage=f"mounting {entry['destination']}",
        errno=errno.ENOTDIR,
        hint="one is a directory and the other a file",
    )


def attach(tree: int, target: int) -> None:
    """The detached mount *tree* is on top of *target*."""
    sys.move_mount(tree, "", target, "", sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_EMPTY_PATH)


def open_source(entry: dict[str, Any]) -> int:
    """A detached copy of what the bind *entry* shows. Raises `StageError` where it does not exist."""
    flags = _CLONE | (sys.AT_RECURSIVE if entry["recursive"] else 0)
    source = entry["source"]
    try:
        if entry["namespace"]:
            return mounts.open_elsewhere(entry["namespace"], source, flags)
        return sys.open_tree(sys.AT_FDCWD, source, flags)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
        raise StageError(
            f"bind source path does not exist: {source}", stage=f"mounting {entry['destination']}", errno=errno.ENOENT
        ) from error


def set_attributes(tree: int, entry: dict[str, Any], user: int = -1) -> None:
    """The copy *tree* has what *entry* asks for; attributes that nobody named stay those of the source. *user* is the
    container's user namespace, for an idmapped mount without a mapping of its own."""
    if entry["idmap"]:
        _map_owners(tree, entry, user)
    if entry["set"] or entry["clear"]:
        sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH, entry["set"], entry["clear"])
    if entry["set_recursive"] or entry["clear_recursive"]:
        deep = sys.AT_EMPTY_PATH | sys.AT_RECURSIVE
        sys.mount_setattr(tree, "", deep, entry["set_recursive"], entry["clear_recursive"])
    if entry["live"] and entry["recursive"] and entry["propagation"][-1] & sys.MS_SLAVE:
        # what is mounted below a slave would be in its source's peer group still: the container could mount on the host
        sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH | sys.AT_RECURSIVE, propagation=sys.MS_SLAVE)
    for propagation in entry["propagation"]:
        flags = sys.AT_EMPTY_PATH | (sys.AT_RECURSIVE if propagation & sys.MS_REC else 0)
        sys.mount_setattr(tree, "", flags, propagation=propagation & ~sys.MS_REC)


def _map_owners(tree: int, entry: dict[str, Any], user: int) -> None:
    wanted = entry["idmap"]
    own = idmap.namespace(wanted["uids"], wanted["gids"]) if wanted["uids"] else -1
    try:
        during = f"mounting {entry['destination']}"
        idmap.apply(tree, own if own >= 0 else user, entry["source"], during, recursive=wanted["recursive"])
    finally:
        if own >= 0:
            os.close(own)
