"""Settings of the property tests, and trees and tars for them to draw.

The same examples are drawn at every run: a test that fails does so for everybody. `make fuzz` looks for others.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., Any])

# names that collide, nest, and are no text; one that `=` or a newline could break
NAMES = (b"a", b"b", b"c", b"dir", b"\xff\xfe", "ü".encode(), b"with space", b"new\nline", b"a=b", b"n" * 200)
XATTRS = (b"user.a", b"user.colour", b"user.\xff")


def properties(examples: int) -> Callable[[Test], Test]:
    """Runs a property test on that many examples, always the same, for as long as it takes."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(slots=True)
class Node:
    """A file, directory, link or FIFO of a tree: *kind* is one of ``fdlp``; *entries* are a directory's."""

    kind: str
    mode: int
    data: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    entries: dict[bytes, Node] = field(default_factory=dict)
    twin: bytes = b""  # a further name beside it, by a hard link


_TWINS = st.sampled_from([b"", b"", b"", b"twin", b"c"])


def _nodes() -> st.SearchStrategy[Node]:
    modes = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o777, *([0o400, 0] if os.geteuid() == 0 else [])])
    xattrs = st.dictionaries(st.sampled_from(XATTRS), st.binary(max_size=20), max_size=2)
    contents = st.one_of(st.binary(max_size=40), st.sampled_from([1 << 18, 513]).map(bytes))
    files = st.builds(Node, st.just("f"), modes, contents, xattrs, twin=_TWINS)
    links = st.builds(Node, st.just("l"), st.just(0o777), st.sampled_from([b"a", b"../b", b"/c", b"\xff" * 120]))
    fifos = st.builds(Node, st.just("p"), modes)
    leaves = st.one_of(files, files, links, fifos)

    def directories(below: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        entries = st.dictionaries(st.sampled_from(NAMES), below, max_size=5)
        return st.builds(Node, st.just("d"), st.sampled_from([0o755, 0o700, 0o1777]), xattrs=xattrs, entries=entries)

    return st.recursive(leaves, directories, max_leaves=12)


TREES = st.dictionaries(st.sampled_from(NAMES), _nodes(), max_size=6)


@st.composite
def changed_trees(draw: st.DrawFn) -> tuple[dict[bytes, Node], dict[bytes, Node]]:
    """Two trees; the second often has parts of the first, some of them with other hard links."""
    old, new = draw(TREES), draw(TREES)
    for name in sorted(old):
        if draw(st.booleans()):
            new[name] = old[name]
            if old[name].kind == "f" and draw(st.booleans()):
                new[name] = replace(old[name], twin=draw(_TWINS))
    return old, new


def plant(root: Path, tree: dict[bytes, Node]) -> Path:
    """*tree* lies in the new directory *root*. The same node has the same times wherever it is."""
    root.mkdir()
    _plant(os.fsencode(root), tree)
    return root


def _plant(folder: bytes, tree: dict[bytes, Node]) -> None:
    for name, node in tree.items():
        path = folder + b"/" + name
        if os.path.lexists(path):
            continue  # a twin has the name
        if node.kind == "d":
            os.mkdir(path)
            _plant(path, node.entries)
        elif node.kind == "l":
            os.symlink(node.data, path)
        elif node.kind == "p":
            os.mkfifo(path)
        else:
            with open(path, "xb") as file:
                file.write(node.data)
        for key, value in node.xattrs.items():
            os.setxattr(path, key, value)
        if node.kind != "l":
            os.chmod(path, node.mode)
        twin = folder + b"/" + node.twin
        if node.twin and node.twin not in tree and not os.path.lexists(twin):
            os.link(path, twin)
        # what `tree_diff` takes for the same file is the same: different contents have different times
        seconds = 1_000_000_000 + zlib.crc32(repr((node.kind, node.data, node.mode, node.xattrs)).encode()) % 10**8
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def pictured(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Every path below *root*: all that a layer can say of it, hard links by the first of their names. Directories
    without their times, which depend on what was done in them."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)
    for folder, directories, files in os.walk(top):
        for base in sorted(directories + files):
            path = folder + b"/" + base
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            is_directory = stat.S_ISDIR(status.st_mode)
            name = path[len(top) + 1 :]
            found[name] = (
                status.st_mode,
                (status.st_uid, status.st_gid),
                status.st_rdev,
                0 if is_directory else int(status.st_mtime),
                b"" if is_directory else first.setdefault((status.st_dev, status.st_ino), name),
                content,
                _xattrs(path),
            )
    return found


def _xattrs(path: bytes) -> dict[str, bytes]:
    return {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
        if not key.startswith("trusted.overlay.")
    }


# Tars of an attacker

_PARTS = st.sampled_from(["a", "b", "l", "d", "..", ".", "", ".wh.a", ".wh.d", ".wh..wh..opq", ".wh..", "x" * 120])
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_KINDS = st.sampled_from(
    [tarfile.REGTYPE] * 3
    + [tarfile.DIRTYPE] * 2
    + [tarfile.SYMTYPE] * 2
    + [tarfile.LNKTYPE] * 2
    + [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)


@dataclass(frozen=True, slots=True)
class Evil:
    """One member: *link* counts for links, *data* for files, *device* for devices."""

    name: str
    kind: bytes
    mode: int
    link: str
    data: bytes
    device: tuple[int, int]


OUTSIDE = st.sampled_from(["/nowhere", "/outside", "/outside/secret", "../" * 8 + "outside", "/", "..", "d"])
HOSTILE = st.lists(
    st.builds(
        Evil,
        _PATHS,
        _KINDS,
        st.sampled_from([0o644, 0o755, 0o7777, 0]),
        st.one_of(_PATHS, OUTSIDE),
        st.binary(max_size=8),
        st.sampled_from([(1, 3), (7, 0)]),
    ),
    min_size=1,
    max_size=7,
)
"""Members in any order that name each other, climb out, link to what is outside, delete and replace."""


def packed(members: list[Evil]) -> bytes:
    """A tar of *members*."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.mode = member.kind, member.mode
            if member.kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = member.link
            elif member.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                info.devmajor, info.devminor = member.device
            elif member.kind == tarfile.REGTYPE:
                info.size = len(member.data)
            tar.addfile(info, io.BytesIO(member.data))
    return out.getvalue()


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A new directory below *parent* for one example."""
    with tempfile.TemporaryDirectory(dir=parent) as path:
        yield Path(path)
