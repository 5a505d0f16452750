from __future__ import annotations

import os
from pathlib import Path

import pytest

from scow.errors import SyscallError
from scow.linux import mounts
from scow.linux.mount_options import parse_options
from scow.ports import Mount

pytestmark = pytest.mark.root


def mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    at = tmp_path / "at"
    at.mkdir()
    return at


def layer(tmp_path: Path, name: str, **files: str) -> Path:
    root = tmp_path / name
    root.mkdir()
    for file, text in files.items():
        (root / file).write_text(text)
    return root


@pytest.mark.parametrize("layers", [2, 128])
def test_an_overlay_of_many_layers_is_mounted_and_leaves_nothing(tmp_path: Path, place: Path, layers: int) -> None:
    lower = [str(layer(tmp_path, f"a-rather-long-name-for-one-layer-{n}", **{f"f{n}": str(n)})) for n in range(layers)]
    (tmp_path / "up").mkdir()
    (tmp_path / "work").mkdir()
    recipe = Mount(
        "overlay",
        "overlay",
        "",
        (f"lowerdir={':'.join(lower)}", f"upperdir={tmp_path}/up", f"workdir={tmp_path}/work"),
    )
    with mounts.mounted([recipe], str(place)):
        assert len(list(place.iterdir())) == layers
        (place / "new").write_text("x")
    assert (tmp_path / "up" / "new").read_text() == "x"
    assert not [point for point in mount_points() if point.startswith(str(tmp_path))]


def test_many_layers_work_through_descriptors_on_older_kernels(tmp_path: Path, place: Path) -> None:
    lower = [str(layer(tmp_path, f"a-rather-long-name-for-one-layer-{n}", **{f"f{n}": str(n)})) for n in range(100)]
    options = parse_options((f"lowerdir={':'.join(lower)}",))
    mounts._overlay_by_descriptors("overlay", str(place), options)
    try:
        assert len(list(place.iterdir())) == 100
    finally:
        assert mounts.umount_below(str(place)) == 1


def test_a_read_only_bind_keeps_the_source_writable(tmp_path: Path, place: Path) -> None:
    source = layer(tmp_path, "source", file="x")
    with mounts.mounted([Mount("bind", str(source), "", ("bind", "ro", "nosuid", "rprivate"))], str(place)):
        with pytest.raises(OSError, match="Read-only"):
            (place / "file").write_text("y")
        (source / "file").write_text("y")
        assert (place / "file").read_text() == "y"


def test_before_mount_setattr_a_bind_is_made_read_only_by_a_remount(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_no_setattr", True)
    source = layer(tmp_path, "source", file="x")
    recipes = [Mount("tmpfs", "tmpfs"), Mount("bind", str(source), "sub", ("rbind", "ro"))]
    with mounts.mounted(recipes, str(place)):
        with pytest.raises(OSError, match="Read-only"):
            (place / "sub" / "file").write_text("y")
        (place / "other").write_text("y")


def test_propagation_below_the_root_is_that_of_the_new_mount(tmp_path: Path, place: Path) -> None:
    source = layer(tmp_path, "source")
    recipes = [Mount("tmpfs", "tmpfs"), Mount("bind", str(source), "sub", ("rbind", "shared"))]
    with mounts.mounted(recipes, str(place)):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        (line,) = [line for line in lines if line.split()[4] == f"{place}/sub"]
        assert " shared:" in line


def test_a_remount_changes_what_is_there(place: Path) -> None:
    recipes = [
        Mount("tmpfs", "tmpfs"),
        Mount("tmpfs", "tmpfs", "dev"),
        Mount("", "", "dev", ("remount", "bind", "ro")),
    ]
    with mounts.mounted(recipes, str(place)):
        with pytest.raises(OSError, match="Read-only"):
            (place / "dev" / "x").write_text("")
        (place / "x").write_text("")


def test_recursive_read_only_reaches_the_mounts_below(tmp_path: Path, place: Path) -> None:
    source = layer(tmp_path, "source")
    (source / "sub").mkdir()
    recipes = [
        Mount("bind", str(source), "", ("rbind",)),
        Mount("tmpfs", "tmpfs", "sub", ("size=64k",)),
    ]
    other = tmp_path / "other"
    other.mkdir()
    with mounts.mounted(recipes, str(place)):
        with mounts.mounted([Mount("bind", str(place), "", ("rbind", "rro"))], str(other)):
            with pytest.raises(OSError, match="Read-only"):
                (other / "sub" / "f").write_text("y")
        (place / "sub" / "f").write_text("y")


def test_targets_are_made_a_file_for_a_file(tmp_path: Path, place: Path) -> None:
    source = layer(tmp_path, "source", hosts="127.0.0.1 x")
    recipes = [
        Mount("tmpfs", "tmpfs"),
        Mount("bind", str(source / "hosts"), "/etc/hosts", ("bind",)),
        Mount("tmpfs", "tmpfs", "/run/a/b", ("mode=1777", "nosuid", "noexec", "nodev")),
    ]
    with mounts.mounted(recipes, str(place)):
        assert (place / "etc/hosts").read_text() == "127.0.0.1 x"
        assert (place / "run/a/b").stat().st_mode & 0o7777 == 0o1777


def test_links_in_the_root_do_not_lead_outside(tmp_path: Path, place: Path) -> None:
    root = layer(tmp_path, "root")
    outside = layer(tmp_path, "outside")
    (root / "absolute").symlink_to(outside)
    (root / "up").symlink_to("../" * 20 + str(outside))
    (root / "dangling").symlink_to("/made/by/mount")
    recipes = [
        Mount("bind", str(root), "", ("bind",)),
        Mount("tmpfs", "tmpfs", "absolute/x", ()),
        Mount("tmpfs", "tmpfs", "up/y", ()),
        Mount("tmpfs", "tmpfs", "dangling", ()),
    ]
    with mounts.mounted(recipes, str(place)):
        inside = str(place) + str(outside)
        assert {f"{inside}/x", f"{inside}/y", f"{place}/made/by/mount"} <= set(mount_points())
    assert not list(outside.iterdir())


def test_a_link_that_turns_round_is_an_error_not_a_loop(tmp_path: Path, place: Path) -> None:
    root = layer(tmp_path, "root")
    (root / "loop").symlink_to("loop")
    with pytest.raises(SyscallError):
        with mounts.mounted([Mount("bind", str(root), "", ("bind",)), Mount("tmpfs", "tmpfs", "loop/x")], str(place)):
            pass
    assert not [point for point in mount_points() if point.startswith(str(tmp_path))]


def test_an_error_names_the_mount(place: Path) -> None:
    with pytest.raises(SyscallError, match="overlay at"):
        with mounts.mounted([Mount("overlay", "overlay", "", ("lowerdir=/no/such",))], str(place)):
            pass
    with pytest.raises(SyscallError, match="/no/such"):
        with mounts.mounted([Mount("bind", "/no/such", "", ("bind",))], str(place)):
            pass
    assert str(place) not in mount_points()


def test_no_descriptor_is_left_open(tmp_path: Path, place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with mounts.mounted([Mount("tmpfs", "tmpfs"), Mount("tmpfs", "tmpfs", "a/b")], str(place)):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
