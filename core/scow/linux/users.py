"""Who a container process runs as: names looked up in the passwd and group files of the container's own root.

Rules as Docker has them (``--user name|uid[:group|gid]``, ``--group-add``); nothing is taken from the host.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from scow.errors import ScowError
from scow.linux import syscalls as sys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LIMIT_BYTES = 4 << 20  # of a file; what an image has behind that is not looked at
_MAX_ID = (1 << 31) - 1


class User(NamedTuple):
    """The numbers that a process runs with, and the HOME that goes with them."""

    uid: int
    gid: int
    groups: list[int]
    home: str


def resolve(root_fd: int, user: str, additional: Iterable[str], *, exact: bool = False) -> User:
    """*user* and the *additional* groups in the root *root_fd*; *exact*: no other groups than those (``process.user``
    of the specification), not even the user's own. Raises `ScowError` for a name that is not there."""
    passwd, group = read_inside(root_fd, "etc/passwd"), read_inside(root_fd, "etc/group")
    found = look_up(user, additional, passwd, group)
    return found._replace(groups=[int(name) for name in additional]) if exact else found


def read_inside(root_fd: int, path: str) -> str:
    """The regular file *path* below *root_fd*, never outside it; ``""`` where there is none (a FIFO must not block)."""
    try:
        fd = sys.openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK, resolve=sys.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""
        raise
    try:
        has = os.fstat(fd)
        if not stat.S_ISREG(has.st_mode):
            return ""
        return os.read(fd, min(has.st_size, _LIMIT_BYTES)).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def look_up(user: str, additional: Iterable[str], passwd: str, group: str) -> User:
    """As `resolve`, from the files' text."""
    wanted, _, wanted_group = user.partition(":")
    wanted = wanted or "0"
    uid, gid, home, name = _find_user(wanted, passwd)
    supplementary: list[int] = []
    if wanted_group:
        gid = _find_group(wanted_group, group)
    elif name:
        members = _records(group, 4)
        supplementary = [int(g[2]) for g in members if name in g[3].split(",") and _is_id(g[2])]
    extra = [_find_group(item, group) for item in additional]
    return User(uid, gid, list(dict.fromkeys([gid, *extra, *supplementary])), home or "/")


def _records(text: str, least: int) -> Iterator[list[str]]:
    """One at a time: millions of them must not fill the memory."""
    for line in io.StringIO(text):
        fields = line.strip().split(":")
        if len(fields) >= least and not line.startswith("#"):
            yield fields


def _find_user(wanted: str, passwd: str) -> tuple[int, int, str, str]:
    number = _number(wanted)
    by_number = None
    for fields in _records(passwd, 4):
        if not (_is_id(fields[2]) and _is_id(fields[3])):
            continue
        found = int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "", fields[0]
        if fields[0] == wanted:
            return found
        if by_number is None and found[0] == number:
            by_number = found
    if by_number is not None:
        return by_number
    if number is None:
        raise ScowError(f"unable to find user {wanted}: no matching entries in passwd file")
    return number, 0, "", ""


def _find_group(wanted: str, text: str) -> int:
    number = _number(wanted)
    for fields in _records(text, 3):
        if fields[0] == wanted and _is_id(fields[2]):
            return int(fields[2])
    if number is None:
        raise ScowError(f"unable to find group {wanted}: no matching entries in group file")
    return number


def _is_id(text: str) -> bool:
    """Whether *text* is an id that a process can have: 4294967295 would leave it root (setresuid(2))."""
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _MAX_ID


def _number(text: str) -> int | None:
    if not text.lstrip("-").isdigit():
        return None
    number = int(text)
    if not 0 <= number <= _MAX_ID:
        raise ScowError(f"uids and gids must be in range 0-{_MAX_ID}: {text}")
    return number
