"""Directory trees that hold what containers made: removed and measured without following links, however deep.

Standard library only. `shutil.rmtree` recurses and fails on trees deeper than Python's stack.
"""

from __future__ import annotations

import os
import stat

_DEPTH = 64  # levels (and descriptors) before a tree is cut in pieces


def remove_at(dir_fd: int, name: bytes) -> bool:
    """Nothing is called *name* in *dir_fd*; whether it was there as anything but a file without links of its own
    (a directory or symbolic link, through which paths may have led)."""
    try:
        mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=dir_fd)
        return stat.S_ISLNK(mode)
    remove_tree(dir_fd, name)
    return True


def remove_tree(dir_fd: int, name: bytes) -> None:
    """The directory *name* in *dir_fd* and all below it are gone. Raises OSError where something cannot be removed."""
    top = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        while _empty(top, top, 0):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=dir_fd)


def _empty(fd: int, top: int, depth: int) -> int:
    """*fd* holds nothing more; subtrees below `_DEPTH` were moved to *top*: answers how many."""
    moved = 0
    with os.scandir(fd) as entries:
        listed = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif depth >= _DEPTH:
            os.rename(name, b".scow-%d-%d" % (os.stat(name, dir_fd=fd).st_ino, depth), src_dir_fd=fd, dst_dir_fd=top)
            moved += 1
        else:
            moved += _empty_child(fd, name, top, depth)
    return moved


def _empty_child(fd: int, name: bytes, top: int, depth: int) -> int:
    try:
        os.rmdir(name, dir_fd=fd)
        return 0
    except OSError:
        pass  # not empty, most likely; anything else shows again below
    child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        moved = _empty(child, top, depth + 1)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=fd)
    return moved


def tree_usage(path: str) -> tuple[int, int]:
    """Bytes of the regular files below *path*, hard links once, and how many entries there are. What disappears
    meanwhile is not counted."""
    size = entries = 0
    seen: set[int] = set()
    todo = [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as found:
                for entry in found:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        if status.st_nlink == 1 or status.st_ino not in seen:
                            seen.add(status.st_ino)
                            size += status.st_size
        except (FileNotFoundError, NotADirectoryError):
            continue
    return size, entries
