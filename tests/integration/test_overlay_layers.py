"""Layers on overlayfs as root: what only the kernel can show."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import DriverUnusable, InvalidArgument
from scow.layers import Whiteouts, apply_layer, overlay_diff
from scow.linux.mounts import mounted
from scow.ports import DriverContext, Mount
from scow.testing.fakes_registry import FileTree, make_tar
from scow.testing.storage import ACTIVE
from scow.testing.trees import add, described, entry, layer_key, names
from scow_storage_overlay import OverlayDriver
from scow_storage_overlay.host import filesystem_name

pytestmark = pytest.mark.root


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OverlayDriver]:
    (tmp_path / "state").mkdir()
    driver = OverlayDriver(DriverContext("overlay", tmp_path / "state", tmp_path))
    yield driver
    driver.close()


def applied(root: Path, files: FileTree, *lower: Path) -> Path:
    root.mkdir()
    apply_layer(io.BytesIO(make_tar(files)), str(root), Whiteouts.OVERLAY, [str(path) for path in lower])
    return root


def test_whiteouts_become_overlayfs_own(tmp_path: Path) -> None:
    root = applied(tmp_path / "l", {".wh.gone": "", "d/": None, "d/.wh..wh..opq": "", "d/new": "1"})
    gone = (root / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"


def test_an_image_cannot_set_overlayfs_attributes(tmp_path: Path) -> None:
    info = entry(tarfile.DIRTYPE)
    info.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.mine": "kept"}
    root = applied(tmp_path / "l", {"d": info})
    assert os.listxattr(root / "d") == ["trusted.mine"]


def test_devices_owners_and_capabilities(tmp_path: Path) -> None:
    capability = entry(mode=0o755, uid=5)
    capability.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04" + "\x00" * 14}
    root = applied(
        tmp_path / "l",
        {
            "null": entry(tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            "disk": entry(tarfile.BLKTYPE, devmajor=7, devminor=0, gid=6),
            "ping": capability,
            "owned": entry(uid=3000000, gid=4000000),
        },
    )
    null = (root / "null").stat()
    assert (null.st_rdev, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 0o666)
    assert (root / "disk").stat().st_gid == 6
    assert os.getxattr(root / "ping", "security.capability")[:4] == b"\x01\x00\x00\x02"
    assert ((root / "owned").stat().st_uid, (root / "owned").stat().st_gid) == (3000000, 4000000)


@pytest.mark.parametrize("way", list(Whiteouts))
def test_a_directory_passes_its_group_to_nothing_of_a_layer(tmp_path: Path, way: Whiteouts) -> None:
    first: FileTree = {"d": entry(tarfile.DIRTYPE, mode=0o2775, gid=50), "d/x": "1", "d/sub/y": "1"}
    second: FileTree = {"d/z": "1", "d/new/z": "1", "d/l": entry(tarfile.SYMTYPE, linkname="x")}
    (tmp_path / "1").mkdir()
    apply_layer(io.BytesIO(make_tar(first)), str(tmp_path / "1"), way)
    top = tmp_path / ("2" if way is Whiteouts.OVERLAY else "1")
    top.mkdir(exist_ok=True)
    apply_layer(io.BytesIO(make_tar(second)), str(top), way, [str(tmp_path / "1")])
    for root in (tmp_path / "1", top):
        assert (stat.S_IMODE((root / "d").stat().st_mode), (root / "d").stat().st_gid) == (0o2775, 50)
        for path in (root / "d").rglob("*"):
            assert (path.lstat().st_gid, path.lstat().st_mode & stat.S_ISGID) == (0, 0), path


def test_parents_that_only_lower_layers_have_look_like_them(tmp_path: Path) -> None:
    lowest = applied(
        tmp_path / "1",
        {
            "var": entry(tarfile.DIRTYPE, mode=0o711, uid=7),
            "var/tmp": entry(tarfile.DIRTYPE, mode=0o1777),
            "link": entry(tarfile.SYMTYPE, linkname="var/tmp"),
        },
    )
    middle = applied(tmp_path / "2", {"other": "1"})
    top = applied(tmp_path / "3", {"var/tmp/x": "1", "link/y": "1"}, middle, lowest)
    assert names(top) == ["var", "var/tmp", "var/tmp/x", "var/tmp/y"]
    assert ((top / "var").stat().st_mode & 0o7777, (top / "var").stat().st_uid) == (0o711, 7)
    assert (top / "var/tmp").stat().st_mode & 0o7777 == 0o1777


def test_a_directory_below_a_deleted_one_takes_nothing_from_it(tmp_path: Path) -> None:
    low = applied(
        tmp_path / "1",
        {
            "a": entry(tarfile.DIRTYPE),
            "a/secret": entry(tarfile.DIRTYPE, mode=0o700, uid=7),
            "a/link": entry(tarfile.SYMTYPE, linkname="/elsewhere"),
            "o/": None,
            "o/link": entry(tarfile.SYMTYPE, linkname="/elsewhere"),
        },
    )
    files: FileTree = {
        ".wh.a": "",
        "a/secret/x": "1",
        "a/link/y": "1",
        "o/.wh..wh..opq": "",
        "o/link/z": "1",
    }
    top = applied(tmp_path / "2", files, low)
    assert names(top) == ["a", "a/link", "a/link/y", "a/secret", "a/secret/x", "o", "o/link", "o/link/z"]
    assert ((top / "a/secret").stat().st_mode & 0o7777, (top / "a/secret").stat().st_uid) == (0o755, 0)


ASKED: dict[str, tuple[FileTree, int]] = {
    "a layer with its directories": ({"d/": None, "d/x": "1", "h": entry(tarfile.LNKTYPE, linkname="d/x")}, 0),
    "whiteouts in its root": ({".wh.e": "", "f": "1"}, 0),
    "opaque directories": ({"f/": None, "f/.wh..wh..opq": "", "f/.wh.g": ""}, 0),
    "whiteouts in directories": ({"d/": None, "d/.wh.x": "", "d/.wh.y": ""}, 1),
    "a directory below a deleted one": ({"d/": None, "d/.wh..wh..opq": "", "d/e/x": "1"}, 0),
    "directories left out": ({"d/x": "1", "e/f/y": "1"}, 1),
    "a hard link to a file below": ({"h": entry(tarfile.LNKTYPE, linkname="tool"), "e/y": "1"}, 1),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_layers_below_are_asked_for_only_where_the_tar_leaves_something_to_them(tmp_path: Path, name: str) -> None:
    low = applied(tmp_path / "low", {"tool": "#!", "d/": None, "d/x": "0"})
    files, wanted = ASKED[name]
    asked = []

    def below() -> list[str]:
        asked.append(name)
        return [str(low)]

    (tmp_path / "top").mkdir()
    done = apply_layer(io.BytesIO(make_tar(files)), str(tmp_path / "top"), Whiteouts.OVERLAY, below)
    assert len(asked) == wanted
    assert not done.root_described


def test_a_layer_tells_whether_it_describes_its_root(tmp_path: Path) -> None:
    files: FileTree = {"./": entry(tarfile.DIRTYPE, mode=0o711), "x": "1"}
    assert apply_layer(io.BytesIO(make_tar(files)), str(tmp_path), Whiteouts.OVERLAY).root_described


def test_a_hard_link_to_a_lower_layers_file_gets_a_copy(tmp_path: Path) -> None:
    low = applied(tmp_path / "1", {"tool": entry(mode=0o4755, uid=9)} | {"bin/sh": "#!"})
    top = applied(
        tmp_path / "2",
        {"sh": entry(tarfile.LNKTYPE, linkname="bin/sh"), "t": entry(tarfile.LNKTYPE, linkname="tool")},
        low,
    )
    assert (top / "sh").read_text() == "#!"
    assert ((top / "t").stat().st_mode & 0o7777, (top / "t").stat().st_uid) == (0o4755, 9)
    with pytest.raises(InvalidArgument, match="what the layer deletes"):
        applied(
            tmp_path / "3",
            {".wh.sh": "", "again": entry(tarfile.LNKTYPE, linkname="sh")},
            applied(tmp_path / "w", {".wh.sh": ""}),
            top,
        )


def test_the_diff_of_an_upper_directory_gives_the_same_tree(tmp_path: Path) -> None:
    base = applied(
        tmp_path / "base",
        {"a": "1", "d/": None, "d/x": "1", "gone/": None, "gone/y": "1", "keep/": None, "keep/z": "1"},
    )
    for name in ("up", "work", "at"):
        (tmp_path / name).mkdir()
    recipe = Mount(
        "overlay", "overlay", "", (f"lowerdir={base}", f"upperdir={tmp_path}/up", f"workdir={tmp_path}/work")
    )
    with mounted([recipe], str(tmp_path / "at")) as at:
        root = Path(at)
        (root / "a").write_text("22")
        (root / "gone/y").unlink()
        (root / "gone").rmdir()
        (root / "gone").mkdir()
        (root / "gone/new").write_text("3")
        (root / "d/x").unlink()
        os.mknod(root / "dev", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        (root / "keep").chmod(0o700)
        wanted = described(root)
    data = b"".join(overlay_diff(str(tmp_path / "up")))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {"d/.wh.x", "gone/.wh..wh..opq"} <= set(tar.getnames())
    (tmp_path / "copy").mkdir()
    apply_layer(io.BytesIO(data), str(tmp_path / "copy"), Whiteouts.OVERLAY, [str(base)])
    with mounted([Mount("overlay", "overlay", "", (f"lowerdir={tmp_path}/copy:{base}",))], str(tmp_path / "at")) as at:
        assert described(Path(at)) == wanted


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    with mounted([Mount("tmpfs", "tmpfs", "", ("size=1m",))], str(place)):
        (place / "state").mkdir()
        driver = OverlayDriver(DriverContext("overlay", place / "state", tmp_path))
        try:
            with pytest.raises(OSError) as caught:
                add(driver, "big", None, {f"f{n}": os.urandom(100_000) for n in range(30)})
            assert caught.value.errno == errno.ENOSPC
            assert driver.list() == []
            driver._folder.trash.empty()
            add(driver, "small", None, {"f": os.urandom(100_000)})
        finally:
            driver.close()


def test_check_tries_a_mount_that_nobody_sees(driver: OverlayDriver, tmp_path: Path) -> None:
    driver.check()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    place = tmp_path / "proc"
    place.mkdir()
    with mounted([Mount("tmpfs", "tmpfs", "", ("ro",))], str(place)):
        broken = OverlayDriver.__new__(OverlayDriver)
        broken._state_dir = place
        with pytest.raises((DriverUnusable, OSError)):
            broken.check()


def test_any_name_of_the_data_root_will_do(tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c d=e+f"
    for path in (odd / "state", tmp_path / "at"):
        path.mkdir(parents=True)
    driver = OverlayDriver(DriverContext("overlay", odd / "state", tmp_path))
    driver.check()
    key = add(driver, "two", add(driver, "one", None, {"a": "1"}), {"b": "1"})
    for recipe in (driver.view(key), driver.prepare(ACTIVE, key)):
        with mounted(recipe, str(tmp_path / "at")) as at:
            assert names(Path(at)) == ["a", "b"]
    driver.close()


def test_a_volatile_root_can_be_mounted_again(tmp_path: Path) -> None:
    for name in ("state", "at"):
        (tmp_path / name).mkdir()
    context = DriverContext("overlay", tmp_path / "state", tmp_path, {"mount_options": ["volatile"]})
    driver = OverlayDriver(context)
    driver.prepare(ACTIVE, None)
    for text in ("1", "2"):
        with mounted(driver.mounts(ACTIVE), str(tmp_path / "at")) as at:
            Path(at, text).write_text(text)
    with mounted(driver.mounts(ACTIVE), str(tmp_path / "at")) as at:
        assert names(Path(at)) == ["1", "2"]
    driver.close()


def test_removed_snapshots_leave_no_files_behind(driver: OverlayDriver, tmp_path: Path) -> None:
    key = add(driver, "one", None, {f"d{n}/f": "x" for n in range(50)})
    driver.prepare(ACTIVE, key)
    driver.remove(ACTIVE)
    driver.remove(key)
    driver.close()
    driver = OverlayDriver(DriverContext("overlay", tmp_path / "state", tmp_path))
    driver._folder.trash.empty()
    driver.close()
    assert names(tmp_path / "state" / "s") == []
    assert names(tmp_path / "state" / "trash") == []


def test_what_a_crash_left_half_made_is_gone_at_the_next_start(driver: OverlayDriver, tmp_path: Path) -> None:
    add(driver, "one", None, {"f": "1"})
    driver.close()
    (tmp_path / "state/stage/new-1/diff/x").mkdir(parents=True)
    (tmp_path / "state/s/garbage").mkdir()
    (tmp_path / "state/s/7+99+orphan").mkdir()
    again = OverlayDriver(DriverContext("overlay", tmp_path / "state", tmp_path))
    assert [snapshot.key for snapshot in again.list()] == [layer_key("one")]
    again._folder.trash.empty()
    assert names(tmp_path / "state/stage") == []
    again.close()


def test_the_same_layer_applied_by_two_threads_is_there_once(driver: OverlayDriver) -> None:
    files: FileTree = {f"f{n}": "x" * 1000 for n in range(200)}
    threads = [threading.Thread(target=add, args=(driver, "one", None, files)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(driver.list()) == 1
    assert len(os.listdir(driver._folder.index.directory)) == 1


def test_layers_are_spread_over_the_disk_where_the_filesystem_is_ext4(driver: OverlayDriver, tmp_path: Path) -> None:
    if filesystem_name(str(tmp_path)) != "ext4":
        pytest.skip("the folder for temporary files is not on ext4")
    shown = subprocess.run(["lsattr", "-d", tmp_path / "state/stage"], check=True, capture_output=True, text=True)
    assert "T" in shown.stdout.split()[0]
    add(driver, "one", None, {"d/": None})
    key = driver.stat(layer_key("one")).key
    inside = subprocess.run(
        ["lsattr", "-d", driver._folder.path(driver._folder.index.get(key), "diff/d")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "T" not in inside.stdout.split()[0]


def test_a_filesystem_without_such_flags_serves_as_well(tmp_path: Path) -> None:
    with mounted([Mount("tmpfs", "tmpfs", "", ())], str(tmp_path)):
        (tmp_path / "state").mkdir()
        driver = OverlayDriver(DriverContext("overlay", tmp_path / "state", tmp_path))
        assert driver.usage(add(driver, "one", None, {"f": "1"})).inodes == 1
        driver.close()
