"""Makes mounts from recipes (`scow.ports.Mount`, or anything with its four fields).

Standard library and `scow.linux.syscalls` only: the runtime's child uses it between fork and exec. Targets are resolved
inside the root with ``openat2(RESOLVE_IN_ROOT)``, so that no symbolic link of an image leads a mount outside
(the CVE-2021-30465 family). Needs /proc. Option names: mount(8), and runc's ``rro`` … for recursive attributes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from scow.errors import SyscallError
from scow.linux import syscalls as sys
from scow.linux.mount_options import Options, attribute_changes, attributes, parse_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Protocol

    class Recipe(Protocol):
        """The fields of `scow.ports.Mount`, so that the child need not import it."""

        @property
        def type(self) -> str: ...
        @property
        def source(self) -> str: ...
        @property
        def target(self) -> str: ...
        @property
        def options(self) -> Sequence[str]: ...


PAGE_BYTES = 4096
"""What mount(2) takes as data, with the final NUL."""

_MAX_LINKS = 40
_STATVFS_KEEP = {
    os.ST_RDONLY: sys.MS_RDONLY,
    os.ST_NOSUID: sys.MS_NOSUID,
    os.ST_NODEV: sys.MS_NODEV,
    os.ST_NOEXEC: sys.MS_NOEXEC,
    os.ST_NOATIME: sys.MS_NOATIME,
    os.ST_NODIRATIME: sys.MS_NODIRATIME,
    os.ST_RELATIME: sys.MS_RELATIME,
}

_no_setattr = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) < (5, 12)


def mount_all(mounts: Iterable[Recipe], root: str) -> None:
    """Every recipe is mounted in order, its target below *root* made where missing (a file for the bind of a file).

    After an exception (`SyscallError`) the earlier ones stay mounted: the caller's namespace or `mounted` ends them.
    """
    root_fd = -1
    try:
        for mount in mounts:
            target = mount.target.strip("/")
            if not target:
                mount_at(mount, root)
            if root_fd < 0 or not target:
                _close(root_fd)
                root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if target:
                _mount_below(mount, root_fd, target, os.path.join(root, target))
    finally:
        _close(root_fd)


def mount_at(mount: Recipe, path: str) -> None:
    """*mount* is mounted at *path*, which exists; its target is not looked at."""
    options = parse_options(mount.options)
    with _naming(mount, path):
        if not options.flags & sys.MS_REMOUNT:
            _attach(mount, options, path)
        _adjust(mount, options, path)


def _mount_below(mount: Recipe, root_fd: int, target: str, shown: str) -> None:
    """As `mount_at`, at *target* inside *root_fd*. A descriptor opened before a mount names what that covers: what is
    done to the new mount needs another."""
    options = parse_options(mount.options)
    with _naming(mount, shown):
        if not options.flags & sys.MS_REMOUNT:
            fd = open_target(root_fd, target, directory=_wants_directory(mount))
            try:
                _attach(mount, options, f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
        recursive = options.recursive or options.recursive_cleared
        if options.flags & sys.MS_REMOUNT or options.propagation or recursive or _no_setattr:
            fd = sys.openat2(root_fd, target, os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
            try:
                _adjust(mount, options, f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)


def _attach(mount: Recipe, options: Options, path: str) -> None:
    if _is_bind(mount):
        _bind(mount.source, path, options)
    elif mount.type == "overlay":
        _overlay(mount.source, path, options)
    else:
        sys.mount(mount.source, path, mount.type, options.flags, ",".join(options.data) or None)


def _adjust(mount: Recipe, options: Options, path: str) -> None:
    """What can only be asked of a mount that is there, whose root is *path*."""
    if options.flags & sys.MS_REMOUNT:
        sys.mount(None, path, None, options.flags, ",".join(options.data) or None)
    elif _is_bind(mount) and _no_setattr:
        _remount_bind(path, options)
    elif (options.recursive or options.recursive_cleared) and not _is_bind(mount):
        sys.mount_setattr(sys.AT_FDCWD, path, sys.AT_RECURSIVE, options.recursive, options.recursive_cleared)
    for propagation in options.propagation:
        sys.mount(None, path, None, propagation)


def _is_bind(mount: Recipe) -> bool:
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


@contextlib.contextmanager
def _naming(mount: Recipe, shown: str) -> Iterator[None]:
    """Errors say what was to be mounted where, not through which descriptor."""
    try:
        yield
    except OSError as error:
        what = mount.source if _is_bind(mount) else mount.type
        syscall = error.syscall if isinstance(error, SyscallError) else "mount"
        raise SyscallError(error.errno or 0, syscall, f"{what} at {shown}") from error


def open_target(root_fd: int, path: str, *, directory: bool) -> int:
    """A descriptor (O_PATH) of *path* inside *root_fd*, made where it is missing: parents 0755, a file 0644 and empty.

    Symbolic links are followed as a process whose root is *root_fd* would; one that dangles has its target made.
    """
    try:
        return sys.openat2(root_fd, path, os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    return _make_target(root_fd, path, directory)


def _make_target(root_fd: int, path: str, directory: bool) -> int:
    """Walks *path* one name at a time; *done* never holds a link, and each step is resolved inside the root anew."""
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            done = done[:-1]
            continue
        parent = sys.openat2(root_fd, "/".join(done) or ".", os.O_PATH | os.O_DIRECTORY, resolve=sys.RESOLVE_IN_ROOT)
        try:
            link = _make_entry(parent, name, directory or bool(todo))
        finally:
            os.close(parent)
        if link is None:
            done.append(name)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise SyscallError(errno.ELOOP, "mkdir", path)
        if link.startswith("/"):
            done = []
        todo += [part for part in reversed(link.split("/")) if part not in ("", ".")]
    return sys.openat2(root_fd, "/".join(done) or ".", os.O_PATH, resolve=sys.RESOLVE_IN_ROOT)


def _make_entry(parent: int, name: str, directory: bool) -> str | None:
    """*name* exists in *parent*; where it is a symbolic link, what it says."""
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return os.readlink(name, dir_fd=parent)
    return None


def _wants_directory(mount: Recipe) -> bool:
    return not _is_bind(mount) or stat.S_ISDIR(os.stat(mount.source).st_mode)


def _bind(source: str, path: str, options: Options) -> None:
    """A bind mount whose attributes are set before it is visible; those of the source that nobody named are kept."""
    if _no_setattr:
        if options.recursive or options.recursive_cleared:
            raise SyscallError(errno.ENOSYS, "mount_setattr", hint="recursive attributes need Linux 5.12")
        sys.mount(source, path, None, sys.MS_BIND | (options.flags & sys.MS_REC))
        return
    wanted, unwanted = attribute_changes(options)
    deep = sys.AT_RECURSIVE if options.flags & sys.MS_REC else 0
    tree = sys.open_tree(sys.AT_FDCWD, source, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC | deep)
    try:
        if wanted or unwanted:
            sys.mount_setattr(tree, "", sys.AT_EMPTY_PATH, wanted, unwanted)
        if options.recursive or options.recursive_cleared:
            deep = sys.AT_EMPTY_PATH | sys.AT_RECURSIVE
            sys.mount_setattr(tree, "", deep, options.recursive, options.recursive_cleared)
        sys.move_mount(tree, "", sys.AT_FDCWD, path, sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_SYMLINKS)
    finally:
        os.close(tree)


def _remount_bind(path: str, options: Options) -> None:
    """Attributes of a bind mount before Linux 5.12: a second call, which drops those that it does not repeat."""
    flags = options.flags & ~(sys.MS_BIND | sys.MS_REC)
    if flags or options.cleared:
        has = os.statvfs(path).f_flag
        kept = sum(flag for bit, flag in _STATVFS_KEEP.items() if has & bit)
        sys.mount(None, path, None, sys.MS_REMOUNT | sys.MS_BIND | flags | (kept & ~options.cleared))


def _overlay(source: str, path: str, options: Options) -> None:
    """mount(2) where its one page holds the options; for more lower directories, or names with a comma, ``lowerdir+``
    (Linux 6.5), and before that descriptors, whose names are short: about 230 layers."""
    data = ",".join(options.data)
    if len(os.fsencode(data)) < PAGE_BYTES and data.count(",") == len(options.data) - 1 and "\\" not in data:
        sys.mount(source, path, "overlay", options.flags, data)
        return
    try:
        _overlay_by_parameters(source, path, options)
    except SyscallError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS) or error.syscall not in ("fsconfig", "fsopen"):
            raise
        _overlay_by_descriptors(source, path, options)


def _overlay_by_parameters(source: str, path: str, options: Options) -> None:
    context = sys.fsopen("overlay")
    try:
        sys.fsconfig(context, sys.FSCONFIG_SET_STRING, "source", source)
        for option in options.data:
            key, equals, value = option.partition("=")
            if key == "lowerdir":
                for directory in _split_lower(value):
                    sys.fsconfig(context, sys.FSCONFIG_SET_STRING, "lowerdir+", directory)
            elif equals:
                sys.fsconfig(context, sys.FSCONFIG_SET_STRING, key, value)
            else:
                sys.fsconfig(context, sys.FSCONFIG_SET_FLAG, key)
        if options.flags & sys.MS_RDONLY:
            sys.fsconfig(context, sys.FSCONFIG_SET_FLAG, "ro")
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        mount = sys.fsmount(context, attributes(options.flags))
    finally:
        os.close(context)
    try:
        sys.move_mount(mount, "", sys.AT_FDCWD, path, sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_SYMLINKS)
    finally:
        os.close(mount)


def _overlay_by_descriptors(source: str, path: str, options: Options) -> None:
    with contextlib.ExitStack() as stack:
        data = []
        for option in options.data:
            key, _, value = option.partition("=")
            if key != "lowerdir":
                data.append(option)
                continue
            names = []
            for directory in _split_lower(value):
                fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                names.append(f"/proc/self/fd/{fd}")
            data.append("lowerdir=" + ":".join(names))
        sys.mount(source, path, "overlay", options.flags, ",".join(data))


def _split_lower(value: str) -> list[str]:
    """The directories of a ``lowerdir`` option, in which a backslash escapes a colon (overlayfs.rst)."""
    marked = value.replace("\\\\", "\0").replace("\\:", "\1")
    return [part.replace("\1", ":").replace("\0", "\\") for part in marked.split(":")]


def open_elsewhere(namespace: str, source: str, flags: int) -> int:
    """A copy, open_tree(2), of the mount at *source* of another mount namespace, which is *namespace* in /proc: only
    from inside it may one be taken. The working directory is the root afterwards. Single-threaded callers only.

    A container may have put /proc/<pid>/root and its like in the way, which only we may follow: those are refused.
    """
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sys.setns(other, sys.CLONE_NEWNS)
        finally:
            os.close(other)
        try:
            found = sys.openat2(sys.AT_FDCWD, source, os.O_PATH, resolve=sys.RESOLVE_NO_MAGICLINKS)
            try:
                return sys.open_tree(found, "", flags | sys.AT_EMPTY_PATH)
            finally:
                os.close(found)
        finally:
            sys.setns(own, sys.CLONE_NEWNS)
    finally:
        os.close(own)


def umount_below(path: str) -> int:
    """Nothing is mounted at *path* or below it any more (lazily); answers how many mounts that took away.

    For what a killed daemon left behind: reads /proc/self/mountinfo, newest mount first.
    """
    prefix = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        points = [_unescape(line.split(" ", 5)[4]) for line in lines]
    found = [point for point in points if point == prefix or point.startswith(prefix.rstrip("/") + "/")]
    for point in reversed(found):
        try:
            sys.umount(point, sys.MNT_DETACH)
        except SyscallError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # went with its parent
                raise
    return len(found)


def mount_point_of(path: str) -> str:
    """Where the mount that *path* lies on is mounted (realpath; what is mounted over it later does not count)."""
    real = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        points = {_unescape(line.split(" ", 5)[4]) for line in lines}
    return max((p for p in points if real == p or real.startswith(p.rstrip("/") + "/")), key=len)


def _unescape(point: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, char)
    return point


@contextlib.contextmanager
def mounted(mounts: Iterable[Recipe], at: str) -> Iterator[str]:
    """Inside the block *mounts* are mounted at *at* (an existing directory), seen by no other mount namespace through
    propagation; afterwards detached, whatever is still open there. Answers *at*."""
    sys.mount(at, at, None, sys.MS_BIND)
    lowest = _mount_id(at)
    try:
        sys.mount(None, at, None, sys.MS_PRIVATE)
        mount_all(mounts, at)
        yield at
    finally:
        while True:  # what is on top first; detaching the bind mount takes what is left
            on_top = _mount_id(at)
            sys.umount(at, sys.MNT_DETACH)
            if on_top == lowest:
                break


def _mount_id(path: str) -> str:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as lines:
            return next(line for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
