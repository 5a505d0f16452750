"""As root, on real mounts: what a container did to its root comes back from a diff, and both drivers show the same."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.errors import InvalidArgument
from scow.layers import Whiteouts, apply_layer, tree_diff
from scow.linux.mounts import mounted
from scow.ports import DriverContext
from scow.ports.storage import StorageDriver
from scow.testing.storage import ACTIVE
from scow.testing.trees import layer_key
from scow_storage_overlay import OverlayDriver, VfsDriver
from tests.properties import HOSTILE, NAMES, TREES, Evil, Node, folder, packed, pictured, plant, properties

pytestmark = pytest.mark.root

DRIVERS: dict[str, Callable[[DriverContext], StorageDriver]] = {"overlay": OverlayDriver, "vfs": VfsDriver}
CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)


def made(name: str, place: Path) -> StorageDriver:
    (place / "state").mkdir(parents=True)
    return DRIVERS[name](DriverContext(name, place / "state", place))


# What a process in a container may do; each takes two paths and a number.


def _write(path: bytes, other: bytes, number: int) -> None:
    with open(path, "wb") as file:
        file.write(b"%d" % number * (number % 50))


def _remove(path: bytes, other: bytes, number: int) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _own(path: bytes, other: bytes, number: int) -> None:
    os.chown(path, number * 1000, 3_000_000 + number, follow_symlinks=False)


def _device(path: bytes, other: bytes, number: int) -> None:
    os.mknod(path, (stat.S_IFCHR if number % 2 else stat.S_IFBLK) | 0o640, os.makedev(7, number))


def _rename(path: bytes, other: bytes, number: int) -> None:
    with contextlib.suppress(IsADirectoryError, NotADirectoryError):
        os.rename(path, other)


OPERATIONS: dict[str, Callable[[bytes, bytes, int], object]] = {
    "write": _write,
    "make a directory": lambda path, other, number: os.mkdir(path, 0o700 | number),
    "remove": _remove,
    "remove again": _remove,
    "rename": _rename,
    "link": lambda path, other, number: os.link(path, other, follow_symlinks=False),
    "point to": lambda path, other, number: os.symlink(other[-90:], path),
    "change the mode": lambda path, other, number: os.chmod(path, (0o4700, 0o2700)[number % 2] | number),
    "change the owner": _own,
    "set an attribute": lambda path, other, number: os.setxattr(path, "user.x", b"%d" % number),
    "give a capability": lambda path, other, number: os.setxattr(path, "security.capability", CAPABILITY),
    "make a device": _device,
    "make a FIFO": lambda path, other, number: os.mkfifo(path),
    "set the time": lambda path, other, number: os.utime(path, (number, number)),
}
_PATHS = st.lists(st.sampled_from(NAMES[:5]), min_size=1, max_size=3).map(b"/".join)
_STEPS = st.lists(st.tuples(st.sampled_from(list(OPERATIONS)), _PATHS, _PATHS, st.integers(0, 63)), max_size=25)


def change(root: Path, steps: list[tuple[str, bytes, bytes, int]]) -> None:
    """All of *steps* that can be done, in the root of a chroot: links of the tree lead nowhere else."""
    pid = os.fork()
    if pid == 0:
        try:
            os.chroot(root)
            for operation, path, other, number in steps:
                with contextlib.suppress(OSError, shutil.Error):
                    OPERATIONS[operation](b"/" + path, b"/" + other, number)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("name", DRIVERS)
@given(tree=TREES, steps=_STEPS, more=_STEPS)
@properties(60)
def test_the_diff_of_a_container_applied_elsewhere_gives_its_root(
    tmp_path: Path,
    name: str,
    tree: dict[bytes, Node],
    steps: list[tuple[str, bytes, bytes, int]],
    more: list[tuple[str, bytes, bytes, int]],
) -> None:
    with folder(tmp_path) as place, contextlib.closing(made(name, place)) as driver:
        (place / "at").mkdir()
        base = layer_key("base")
        driver.apply(base, None, base, io.BytesIO(tar_of(plant(place / "tree", tree))))
        middle = ""
        for number, doing in enumerate((steps, more)):
            parent = middle or base
            with mounted(driver.prepare(ACTIVE, parent), str(place / "at")):
                change(place / "at", doing)
            data = b"".join(driver.diff(ACTIVE))
            copy = layer_key(f"copy {number}")
            driver.apply(copy, parent, copy, io.BytesIO(data))
            with mounted(driver.mounts(ACTIVE), str(place / "at")):
                wanted = without_mount_points(pictured(place / "at"))
            with mounted(driver.view(copy), str(place / "at")):
                assert without_mount_points(pictured(place / "at")) == wanted
            assert b"".join(driver.diff(copy)) == data
            middle = layer_key(f"middle {number}")
            driver.commit(middle, ACTIVE)


def tar_of(tree: Path) -> bytes:
    """*tree* as a first layer."""
    return b"".join(tree_diff(str(tree), None))


def without_mount_points(picture: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    """*picture* without what the driver laid below the root for the runtime."""
    return {
        name: what for name, what in picture.items() if name.partition(b"/")[0] not in (b"dev", b"proc", b"sys", b"etc")
    }


@given(st.lists(HOSTILE, min_size=1, max_size=3))
@properties(150)
def test_both_drivers_show_the_same_of_any_layers(tmp_path: Path, tars: list[list[Evil]]) -> None:
    with folder(tmp_path) as place:
        shown = [shown_by(name, place / name, tars) for name in DRIVERS]
        assert shown[0] == shown[1]


def shown_by(name: str, place: Path, tars: list[list[Evil]]) -> list[object]:
    """What the layers *tars* look like one on the other, up to one that is refused."""
    found: list[object] = []
    with contextlib.closing(made(name, place)) as driver:
        (place / "at").mkdir()
        parent = None
        for number, tar in enumerate(tars):
            key = layer_key(str(number))
            try:
                driver.apply(key, parent, key, io.BytesIO(packed(tar)))
            except InvalidArgument:
                found.append("refused")
                break
            parent = key
            with mounted(driver.view(key), str(place / "at")):
                found.append(pictured(place / "at"))
    return found


@given(st.lists(HOSTILE, min_size=1, max_size=3))
@properties(150)
def test_hostile_layers_leave_what_is_outside_alone(tmp_path: Path, tars: list[list[Evil]]) -> None:
    with folder(tmp_path) as place:
        (place / "outside").mkdir(mode=0o750)
        (place / "outside/secret").write_text("s")
        before = pictured(place / "outside")
        lower: list[str] = []
        for number, tar in enumerate(tars):
            root = place / f"root{number}"
            root.mkdir()
            with contextlib.suppress(InvalidArgument):
                apply_layer(io.BytesIO(packed(tar)), str(root), Whiteouts.OVERLAY, lower)
            lower.insert(0, str(root))
        assert sorted(os.listdir(place)) == ["outside", *sorted(os.path.basename(path) for path in lower)]
        assert pictured(place / "outside") == before
        assert (place / "outside").stat().st_mode & 0o777 == 0o750
