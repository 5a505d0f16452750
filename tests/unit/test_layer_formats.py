"""What layers hold beside plain files, and how tars of other writers say it; without root."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from scow.errors import InvalidArgument
from scow.layers import Applied, Whiteouts, apply_layer, tree_diff
from scow.linux.trees import remove_tree
from scow.tar_reader import DIRECTORY, REGULAR, Member, TarReader
from scow.tar_writer import END, member_header
from scow.testing.fakes_registry import FileTree, make_tar
from scow.testing.trees import entry
from tests.properties import pictured


def applied(root: Path, tar: bytes) -> Applied:
    root.mkdir(exist_ok=True)
    return apply_layer(io.BytesIO(tar), str(root), Whiteouts.DELETE)


def copied(tmp_path: Path, new: Path, old: Path | None = None) -> Path:
    """The diff of *new* over *old*, applied to a copy of *old*."""
    copy = tmp_path / "copy"
    if old is None:
        copy.mkdir()
    else:
        subprocess.run(["cp", "-a", old, copy], check=True)
    applied(copy, b"".join(tree_diff(str(new), None if old is None else str(old))))
    return copy


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two directories with the same files ``a``, ``b`` and ``d/c``; ``a`` and ``b`` are one file."""
    made = []
    for name in ("old", "new"):
        root = tmp_path / name
        (root / "d").mkdir(parents=True)
        (root / "a").write_text("linked")
        (root / "d/c").write_text("alone")
        os.link(root / "a", root / "b")
        for path in ("a", "d/c"):
            os.utime(root / path, (1000, 1000))
        made.append(root)
    return made[0], made[1]


def test_a_new_hard_link_to_an_old_file_is_one_afterwards(tmp_path: Path, trees: tuple[Path, Path]) -> None:
    old, new = trees
    os.link(new / "d/c", new / "e")
    copy = copied(tmp_path, new, old)
    assert pictured(copy) == pictured(new)
    assert (copy / "e").stat().st_ino == (copy / "d/c").stat().st_ino


def test_hard_links_that_were_parted_are_two_files_afterwards(tmp_path: Path, trees: tuple[Path, Path]) -> None:
    old, new = trees
    (new / "b").unlink()
    (new / "b").write_text("linked")
    os.utime(new / "b", (1000, 1000))
    copy = copied(tmp_path, new, old)
    assert (copy / "a").stat().st_nlink == (copy / "b").stat().st_nlink == 1


def test_a_change_of_a_file_reaches_all_of_its_names(tmp_path: Path, trees: tuple[Path, Path]) -> None:
    old, new = trees
    (new / "a").write_text("changed")
    copy = copied(tmp_path, new, old)
    assert (copy / "b").read_text() == "changed"
    assert (copy / "a").stat().st_ino == (copy / "b").stat().st_ino


def test_owner_and_mode_of_the_root_are_part_of_a_diff(tmp_path: Path, trees: tuple[Path, Path]) -> None:
    old, new = trees
    assert b"".join(tree_diff(str(new), str(old))) == END
    new.chmod(0o711)
    assert stat.S_IMODE(copied(tmp_path, new, old).stat().st_mode) == 0o711


def test_holes_are_not_read_and_take_no_room_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    size = 200 << 20
    with (root / "sparse").open("wb") as file:
        for position, data in ((0, b"head"), (77 << 20, b"middle" * 1000), (size - 4, b"tail")):
            file.seek(position)
            file.write(data)
    (root / "hole").touch()
    os.truncate(root / "hole", 10 << 20)
    copy = copied(tmp_path, root)
    for name in ("sparse", "hole"):
        assert subprocess.run(["cmp", root / name, copy / name], check=False).returncode == 0
        assert (copy / name).stat().st_blocks * 512 < 4 << 20


def test_zeros_of_any_length_are_still_zeros(tmp_path: Path) -> None:
    files: FileTree = {
        f"{before}-{zeros}-{after}": b"x" * before + bytes(zeros) + b"y" * after
        for before in (0, 1, 1000)
        for zeros in (0, 1 << 17, (1 << 17) - 1, (1 << 18) + 5)
        for after in (0, 1)
    }
    applied(tmp_path / "root", make_tar(files))
    for name, data in files.items():
        assert (tmp_path / "root" / name).read_bytes() == data


NAMES = [b"\xff\xfe", "grün".encode("latin-1"), b"new\nline", b"tab\t", b"a=b", b" ", b"n" * 255, b"\\", b"%41"]


def test_names_that_are_no_text_come_through_both_ways(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "root")
    os.makedirs(root + b"/" + b"d" * 200 + b"/\xe9")
    for name in NAMES:
        for folder in (root, root + b"/" + b"d" * 200 + b"/\xe9"):
            Path(os.fsdecode(folder + b"/" + name)).write_bytes(name)
            os.symlink(name, folder + b"/l" + name[:250])
    assert pictured(copied(tmp_path, tmp_path / "root")) == pictured(tmp_path / "root")


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_every_format_that_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    (source / "dir/sub").mkdir(parents=True)
    (source / "dir/sub/file").write_text("text")
    os.link(source / "dir/sub/file", source / "hard")
    (source / "soft").symlink_to("dir/sub")
    if form in ("gnu", "oldgnu", "pax"):
        (source / ("n" * 140)).write_text("long")
        (source / "link").symlink_to("t" * 140)
    if form != "v7":
        os.mkfifo(source / "fifo")
    owner = ["--owner=+0", "--group=+0"] if os.geteuid() == 0 else []
    packed = subprocess.run(
        ["tar", "-C", source, f"--format={form}", *owner, "-c", "."], check=True, capture_output=True
    ).stdout
    applied(tmp_path / "root", packed)
    assert pictured(tmp_path / "root") == pictured(source)


def test_a_header_that_sums_up_signed_bytes_is_read() -> None:
    header = bytearray(member_header(Member(b"plain", REGULAR, 0o644, 0, 0, 0, 0, b"", 0, 0, {})))
    header[0:3] = b"\xe9\xe8\xe7"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in header)
    member = TarReader(io.BytesIO(bytes(header) + END)).next()
    assert member is not None
    assert member.name == b"\xe9\xe8\xe7in"


@pytest.mark.parametrize(("field", "value"), [("size", "1_0"), ("size", "+5"), ("uid", " 7"), ("mtime", "1e9")])
def test_numbers_that_python_reads_and_others_do_not_are_refused(tmp_path: Path, field: str, value: str) -> None:
    info = tarfile.TarInfo("PaxHeaders/x")
    record = f" {field}={value}\n"
    data = f"{len(record) + 2}{record}".encode()
    info.type, info.size = b"x", len(data)
    with pytest.raises(InvalidArgument, match="number"):
        applied(tmp_path / "root", info.tobuf() + data.ljust(512, b"\0") + make_tar({"file": "x" * 10}))


def test_a_directory_said_twice_is_as_the_second_says(tmp_path: Path) -> None:
    first, second = entry(tarfile.DIRTYPE, mode=0o700), entry(tarfile.DIRTYPE, mode=0o755)
    first.pax_headers = {"SCHILY.xattr.user.first": "1"}
    second.pax_headers = {"SCHILY.xattr.user.second": "2"}
    applied(tmp_path / "root", make_tar({"d/": first, "d/x": "1", "./d/": second}))
    assert os.listxattr(tmp_path / "root/d") == ["user.second"]
    assert (tmp_path / "root/d").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "root/d/x").read_text() == "1"


def test_what_no_tar_can_say_is_left_out_of_a_diff(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/.wh.passwd").write_text("")
    (root / "file").write_text("1")
    os.setxattr(root / "file", "user.a=b", b"1")
    os.setxattr(root / "file", "user.a", b"2")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))
    copy = copied(tmp_path, root)
    assert sorted(os.listdir(copy)) == ["d", "file"]
    assert os.listdir(copy / "d") == []
    assert os.listxattr(copy / "file") == ["user.a"]


def test_a_tree_that_changes_meanwhile_gives_a_whole_tar_and_nothing_from_outside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("SECRET")
    root.mkdir()
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            os.makedirs(root / "d/e", exist_ok=True)
            (root / "d/e/f").write_text("mine" * 1000)
            (root / "d/e/f").write_text("")
            (root / "d/e/f").unlink()
            os.mkfifo(root / "d/e/f")
            (root / "d/e/f").unlink()
            (root / "d/e").rmdir()
            (root / "d/e").symlink_to(outside)
            (root / "d/e").unlink()
            (root / "d").rmdir()
            (root / "d").symlink_to(outside)
            (root / "d").unlink()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            data = b"".join(tree_diff(str(root), None))
            assert b"SECRET" not in data
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                assert set(tar.getnames()) <= {".", "d", "d/e", "d/e/f"}
    finally:
        ended.set()
        thread.join()


def test_deep_trees_are_read_or_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for depth in range(1200):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        if depth == 1100:
            assert len(b"".join(tree_diff(str(root), None))) > 1100 * 512
    for _ in range(1200):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(InvalidArgument, match="too long a path for a layer"):
        b"".join(tree_diff(str(root), None))
    above = os.open(tmp_path, os.O_RDONLY)
    remove_tree(above, b"root")
    os.close(above)


def test_times_that_no_clock_shows_are_refused_and_go_s_zero_time_is_not(tmp_path: Path) -> None:
    for kind in (REGULAR, DIRECTORY):
        never = member_header(Member(b"d", kind, 0o755, 0, 0, 0, (1 << 63) * 1_000_000_000, b"", 0, 0, {}))
        with pytest.raises(InvalidArgument, match="no clock"):
            applied(tmp_path / "never", never + END)
        year_one = member_header(Member(b"d", kind, 0o755, 0, 0, 0, -62135596800_000_000_000, b"", 0, 0, {}))
        applied(tmp_path / "year one", year_one + END)
