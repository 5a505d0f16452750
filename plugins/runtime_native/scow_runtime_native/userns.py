"""Containers with a user namespace: what their init may not do itself, and a helper with the host's rights does for it.

The init is cloned into its user namespace together with those that this one owns: it has rights over the container's
mounts, network and host name, and none over the host's. A fork of the monitor, which has these, goes into the new mount
namespace and makes what only they allow: the root on idmapped layers, copies of what is bound, a /dev with device
nodes. It hands these mounts over by descriptor and ends. The init attaches them and mounts the rest with its own
rights, so that whatever an image holds is looked up with the rights of the container alone.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import resource
import stat
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from scow.linux import mounts
from scow.linux import syscalls as sys
from scow.linux.filesystem_ids import files_as
from scow_runtime_native import binds, devices, idmap, process, rootfs
from scow_runtime_native.failure import StageError, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANNEL_FD = 5
"""Where the init finds its end of the channel."""

_ROOT = -1
_ROOT_STAGE = "mounting the root filesystem"
_BATCH = 250  # descriptors a message; the kernel takes 253
_END = b"end"
_APART = b"apart"
_PTS = range(136, 144)  # major numbers of pseudoterminals' slaves
_NEW_PLACE = sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_SYMLINKS


class Handed(NamedTuple):
    """What the helper made: a descriptor (O_PATH) of the root, and detached mounts by their place in the plan."""

    root: int
    trees: dict[int, int]


class Owner(NamedTuple):
    """What the container's root is outside."""

    uid: int
    gid: int


# ---------------------------------------------------------------- the side with the host's rights


def channel() -> tuple[_socket.socket, _socket.socket]:
    """The helper's end, and the init's."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def clone(plan: dict[str, Any], flags: int, make: Callable[[dict[str, Any], int], int]) -> int:
    """The pid of the init, 0 in it. *make* clones with *flags*. Where namespaces are joined by path, a process between
    joins them before: the host's rights open every door, so the user namespace is the last."""
    ids = plan["userns"]
    try:
        return _clone_after_joins(ids["join"], plan, flags, make) if ids["join"] else make(plan, flags)
    except OSError as error:
        raise _refused("clone", error) from error


def _refused(call: str, error: OSError) -> StageError:
    hint = None
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        hint = "raise the limits user.max_user_namespaces and user.max_*_namespaces (sysctl)"
    elif error.errno == errno.EPERM:
        hint = "the kernel makes no user namespaces for who lives in a chroot (user_namespaces(7))"
    text = os.strerror(error.errno or 0).lower()
    return StageError(f"{call}: {text}", stage="user namespace", errno=error.errno or 0, hint=hint)


def _clone_after_joins(
    joins: list[tuple[str, int]], plan: dict[str, Any], flags: int, make: Callable[[dict[str, Any], int], int]
) -> int:
    told, tell = os.pipe()
    helper = sys.clone(0)
    if helper:
        os.close(tell)
        try:
            answer = os.read(told, 64)
        finally:
            os.close(told)
            os.waitpid(helper, 0)
        pid = int(answer or -errno.EIO)
        if pid < 0:
            raise OSError(-pid, "setns")
        return pid
    try:
        for path, kind in joins:
            join(path, kind)
        pid = make(plan, flags | sys.CLONE_PARENT)
    except OSError as error:
        pid = -(error.errno or errno.EIO)
    if pid == 0:
        return 0
    os.write(tell, b"%d" % pid)
    os._exit(0)


def join(path: str, kind: int) -> None:
    """The caller is in the namespace at *path*."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sys.setns(fd, kind)
    finally:
        os.close(fd)


def serve(
    plan: dict[str, Any], pid: int, stdio: tuple[int, int, int], end: _socket.socket, status: int, *, leaves: bool
) -> None:
    """The init *pid*, which waits in `arrive`, has its mappings and its mounts. The caller is in the init's mount
    namespace for a moment; its working directory is ``/`` and *status*, the init's pipe, is closed afterwards.
    *leaves*: the init, an `embryo`, leaves the host's mount namespace by itself, and says so."""
    if plan["join_pid"] is not None and not end.recv(len(_APART)):
        return  # it could not leave, and has said why
    ids = plan["userns"]
    with stage("user namespace"):
        if ids["uids"]:
            idmap.write(pid, ids["uids"], ids["gids"])
        owner = owner_of(pid)
        give(stdio, owner)
        user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_limits(plan["process"], pid)
        if leaves and not end.recv(len(_APART)):
            return
        handed = _mounts(plan, pid, user, owner)
    finally:
        os.close(user)
    try:
        os.close(status)  # before the init can execute anything: that the pipe ends is how the monitor knows
        _send(end, handed)
    finally:
        for fd in (handed.root, *handed.trees.values()):
            os.close(fd)


def owner_of(pid: int) -> Owner:
    """What root of the user namespace of *pid* is outside. Raises `StageError` where there is none."""
    uid, gid = (idmap.outside(idmap.read(pid, kind), 0) for kind in ("uid", "gid"))
    if uid is None or gid is None:
        raise StageError("the mappings have no user 0 and group 0", stage="user namespace", errno=errno.EINVAL)
    return Owner(uid, gid)


def give(stdio: tuple[int, ...], owner: Owner) -> None:
    """Pipes and terminals belong to the container's root, who can give them to other users inside."""
    for fd in dict.fromkeys(stdio):
        has = os.fstat(fd)
        if stat.S_ISFIFO(has.st_mode) or stat.S_ISSOCK(has.st_mode) or os.major(has.st_rdev) in _PTS:
            os.fchown(fd, owner.uid, owner.gid)


def _set_limits(spec: dict[str, Any], pid: int) -> None:
    """The OOM score, and hard limits that are raised: both need CAP_SYS_RESOURCE of the host."""
    process.set_oom_score(spec, str(pid))
    for name, number, soft, hard in spec["rlimits"]:
        had_soft, had_hard = resource.prlimit(pid, number)
        if had_hard != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > had_hard):
            try:
                resource.prlimit(pid, number, (had_soft, hard))
            except (OSError, ValueError) as error:
                raise process.limit_refused(name, soft, hard, had_hard, error) from error


def _mounts(plan: dict[str, Any], pid: int, user: int, owner: Owner) -> Handed:
    ids = plan["userns"]
    layers = _idmapped(ids["layers"], user) if ids["layers"] else -1
    trees: dict[int, int] = {}
    with _inside(pid):
        entries = list(enumerate(plan["mounts"]))
        bound = [(place, entry) for place, entry in entries if entry["kind"] == "bind"]
        trees |= binds.open_live(plan["mounts"])
        sys.mount(None, "/", None, sys.MS_REC | (plan["root_propagation"] & sys.MS_SLAVE or sys.MS_PRIVATE))
        for place, entry in bound:
            with stage(f"mounting {entry['destination']}"):
                if place not in trees:
                    trees[place] = binds.open_source(entry)
                binds.set_attributes(trees[place], entry, user)
        if plan["setup_dev"]:
            with stage("making devices"):
                trees |= _dev(entries, plan["devices"], owner)
        with stage(_ROOT_STAGE):
            if layers >= 0:
                sys.move_mount(layers, "", sys.AT_FDCWD, ids["layers"], _NEW_PLACE)
                os.close(layers)
            with files_as(*owner):
                for recipe, mapped in zip(plan["root"], ids["root"], strict=True):
                    _mount_root(recipe, mapped and recipe[0] != "overlay", plan["rootfs"], user)
            root = os.open(plan["rootfs"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return Handed(root, trees)


@contextlib.contextmanager
def _inside(pid: int) -> Iterator[None]:
    """The block runs in the mount namespace of *pid*, with the caller's rights. Single-threaded callers only."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        join(f"/proc/{pid}/ns/mnt", sys.CLONE_NEWNS)
        try:
            yield
        finally:
            sys.setns(own, sys.CLONE_NEWNS)
    finally:
        os.close(own)


def _idmapped(path: str, user: int, flags: int = 0) -> int:
    """A detached, private copy of the mount at *path* that shows the owners of *user*."""
    tree = sys.open_tree(sys.AT_FDCWD, path, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | flags)
    try:
        idmap.apply(tree, user, path, _ROOT_STAGE, recursive=bool(flags & sys.AT_RECURSIVE), private=True)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _mount_root(recipe: list[Any], mapped: bool, root: str, user: int) -> None:
    """One recipe of the root; where *mapped*, the mount itself shows the owners of *user*."""
    mount = rootfs.Recipe(*recipe)
    bind = mount.type == "bind"
    if not (mapped and bind):
        mounts.mount_all([mount], root)
    if not mapped:
        return
    place = os.path.join(root, mount.target.strip("/"))
    tree = _idmapped(mount.source if bind else place, user, sys.AT_RECURSIVE if "rbind" in mount.options else 0)
    try:
        if "ro" in mount.options:
            sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH, sys.MOUNT_ATTR_RDONLY)
        sys.move_mount(tree, "", sys.AT_FDCWD, place, _NEW_PLACE)
    finally:
        os.close(tree)


def _dev(entries: list[tuple[int, dict[str, Any]]], nodes: list[dict[str, Any]], owner: Owner) -> dict[int, int]:
    """The tmpfs of the plan's /dev with its device nodes, which only the host's rights can make."""
    for place, entry in reversed(entries):
        if entry["destination"].rstrip("/") == "/dev":
            own = entry["kind"] == "tmpfs" and not any(key in (entry["data"] or "") for key in ("uid=", "gid="))
            return {place: devices.filesystem(entry, nodes, owner.uid, owner.gid)} if own else {}
    return {}


def _send(end: _socket.socket, handed: Handed) -> None:
    """*handed* is on its way; the last message says so."""
    fds = {_ROOT: handed.root, **handed.trees}
    places = list(fds)
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        words = [b"%d" % place for place in batch]
        if start + _BATCH >= len(places):
            words.append(_END)
        rights = struct.pack(f"{len(batch)}i", *(fds[place] for place in batch))
        end.sendmsg([b" ".join(words)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])


# ---------------------------------------------------------------- the init's side


def _leave(plan: dict[str, Any]) -> None:
    """The caller is in the namespaces that `clone` would have put it in, but for the PID namespace, which is joined: it
    is there for its children only, as the other container may trace whoever comes."""
    try:
        for path, kind in plan["userns"]["join"]:
            join(path, kind)
        sys.unshare(plan["clone"])
    except OSError as error:
        raise _refused("unshare", error) from error
    os.write(CHANNEL_FD, _APART)


def arrive(plan: dict[str, Any], *, apart: bool) -> Handed:
    """The caller is root of its user namespace, with the mounts that the helper made. Ends the process where there are
    none; the helper has said why. *apart*: an `embryo` has just left the host's mount namespace."""
    if plan["join_pid"] is not None:
        _leave(plan)
    elif apart:
        os.write(CHANNEL_FD, _APART)
    fds: dict[int, int] = {}
    end = _socket.socket(fileno=CHANNEL_FD)
    words: list[bytes] = []
    while _END not in words:
        size = _socket.CMSG_SPACE(_BATCH * 4)
        data, ancillary, _flags, _address = end.recvmsg(65536, size, _socket.MSG_CMSG_CLOEXEC)
        words = data.split()
        if not words:
            os._exit(1)
        for _level, _type, rights in ancillary:
            received = struct.unpack(f"{len(rights) // 4}i", rights)
            fds.update((int(word), fd) for word, fd in zip(words, received, strict=False))
    end.close()
    become_root()
    plan["process"]["oom_score_adj"] = None  # set by `serve`
    return Handed(fds.pop(_ROOT), fds)


def become_root() -> None:
    """The caller is root of the user namespace that it is in, without the groups that it had outside."""
    with stage("user namespace"):
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        sys.prctl(sys.PR_SET_DUMPABLE, 0)  # a new user makes a process dumpable where fs.suid_dumpable is 1
