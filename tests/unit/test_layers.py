"""The tar applier without root: hostile and odd tars, whiteouts as deletions, and the way back."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scow.compression import compress_gzip, decompress
from scow.errors import Corrupt, InvalidArgument
from scow.layers import Whiteouts, apply_layer, tree_diff
from scow.linux.trees import remove_tree, tree_usage
from scow.tar_reader import TarReader
from scow.testing.fakes_registry import FileTree, make_tar
from scow.testing.trees import described, entry, names


def applied(root: Path, tar: bytes | FileTree, whiteouts: Whiteouts = Whiteouts.DELETE) -> Path:
    root.mkdir(exist_ok=True)
    apply_layer(io.BytesIO(tar if isinstance(tar, bytes) else make_tar(tar)), str(root), whiteouts)
    return root


SYM, LNK, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
ESCAPES: dict[str, FileTree] = {
    "dot dot": {"../evil": "x"},
    "dot dot inside": {"a/../../evil": "x"},
    "absolute dot dot": {"/../evil": "x"},
    "hard link out": {"evil": entry(LNK, linkname="../outside/secret")},
    "hard link to a path through a link": {"l": entry(SYM, linkname="/outside"), "e": entry(LNK, linkname="l/secret")},
    "hard link to nothing": {"e": entry(LNK, linkname="nowhere")},
    "hard link to a directory": {"d/": None, "e": entry(LNK, linkname="d")},
    "root as a file": {".": entry(), "x": "y"},
    "root as a link": {".": entry(SYM, linkname="../outside")},
    "whiteout of dot dot": {".wh...": ""},
    "whiteout of dot": {"a/.wh..": ""},
    "whiteout of nothing": {".wh.": ""},
    "a link round itself as a parent": {"l": entry(SYM, linkname="l"), "l/x": "y"},
    "two links round each other": {"a": entry(SYM, linkname="b"), "b": entry(SYM, linkname="a"), "a/x": "y"},
    "a name too long": {"n" * 300: "x"},
    "a file as a parent": {"f": "1", "f/x": "y"},
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_hostile_tar_is_refused_and_touches_nothing_outside(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    with pytest.raises(InvalidArgument):
        applied(tmp_path / "root", ESCAPES[name])
    assert names(outside) == ["secret"]
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


CONTAINED: dict[str, tuple[FileTree, str]] = {
    "absolute names": ({"/etc/x": "1"}, "etc/x"),
    "dot dot that stays inside": ({"a/../b": "1"}, "b"),
    "through an absolute link": ({"l": entry(SYM, linkname="/t"), "t/": None, "l/x": "1"}, "t/x"),
    "through a climbing link": ({"l": entry(SYM, linkname="../" * 9 + "t"), "t/": None, "l/x": "1"}, "t/x"),
    "through a dangling link": ({"l": entry(SYM, linkname="/made/here"), "l/x": "1"}, "made/here/x"),
    "over a link": ({"l": entry(SYM, linkname="../outside/secret"), "./l": "1"}, "l"),
    "a directory over a link": ({"l": entry(SYM, linkname="../outside"), "l/": entry(DIR), "l/x": "1"}, "l/x"),
    "a link over a directory, then through it": (
        {"d/": None, "d/y": "1", "./d": entry(SYM, linkname="/t"), "t/": None, "d/x": "1"},
        "t/x",
    ),
}


@pytest.mark.parametrize("name", CONTAINED)
def test_what_looks_hostile_but_stays_inside_is_contained_exactly(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    files, place = CONTAINED[name]
    root = applied(tmp_path / "root", files)
    assert (root / place).read_text() == "1"
    assert not (root / place).is_symlink()
    assert (outside / "secret").read_text() == "s"
    assert names(outside) == ["secret"]


def test_a_link_that_the_lower_layer_brought_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    root = applied(tmp_path / "root", {"l": entry(SYM, linkname=str(tmp_path / "outside"))})
    applied(root, {"l/x": "1", "l/.wh.y": "", "l/.wh..wh..opq": ""})
    assert names(tmp_path / "outside") == []


@pytest.mark.parametrize(
    ("second", "left"),
    [
        ({".wh.a": ""}, ["d", "d/x", "d/y"]),
        ({".wh.d": ""}, ["a"]),
        ({".wh.nothing": "", "nowhere/.wh.x": ""}, ["a", "d", "d/x", "d/y"]),
        ({"d/.wh.x": ""}, ["a", "d", "d/y"]),
        ({"d/.wh..wh..opq": "", "d/z": "1"}, ["a", "d", "d/z"]),
        ({"d/z": "1", "d/.wh..wh..opq": ""}, ["a", "d", "d/z"]),
        ({"d/": None, "d/z": "1", ".wh.d": ""}, ["a", "d", "d/z"]),
        ({".wh..wh..opq": "", "b": "1"}, ["b"]),
        ({".wh..wh.plnk": "", ".wh..wh.aufs": ""}, ["a", "d", "d/x", "d/y"]),
        ({"d": "file"}, ["a", "d"]),
        ({"a/": None, "a/b": "1"}, ["a", "a/b", "d", "d/x", "d/y"]),
    ],
)
def test_whiteouts_delete(tmp_path: Path, second: FileTree, left: list[str]) -> None:
    root = applied(tmp_path / "root", {"a": "1", "d/": None, "d/x": "1", "d/y": "1"})
    assert names(applied(root, second)) == left


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_times_of_both_formats(tmp_path: Path, form: int) -> None:
    deep = "/".join(["d" * 60] * 8) + "/" + "f" * 200
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        info = tarfile.TarInfo(deep)
        info.size, info.mtime = 3, 1500000000
        tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = SYM, "t" * 180
        tar.addfile(link)
        hard = tarfile.TarInfo("hard")
        hard.type, hard.linkname = LNK, deep
        tar.addfile(hard)
    root = applied(tmp_path / "root", out.getvalue())
    assert (root / deep).read_text() == "abc"
    assert (root / "hard").stat().st_nlink == 2
    assert (root / deep).stat().st_mtime == 1500000000
    assert os.readlink(root / "link") == "t" * 180


def test_pax_records_for_parts_of_a_second_and_xattrs(tmp_path: Path) -> None:
    info = entry(mtime=1234567890.25)
    info.pax_headers = {"SCHILY.xattr.user.colour": "grün", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    root = applied(tmp_path / "root", {"file": info})
    assert (root / "file").stat().st_mtime_ns == 1234567890_250000000
    assert os.getxattr(root / "file", "user.colour") == "grün".encode()
    assert [key for key in os.listxattr(root / "file") if "overlay" in key] == []


@pytest.mark.parametrize(
    "form", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"]
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        for block in range(0, 60, 2):
            file.seek(block * 65536)
            file.write(bytes([block]) * 4096)
        file.truncate(60 * 65536)
    (source / "after").write_text("still here")
    packed = tmp_path / "a.tar"
    formats = [f"--format={form.split()[0]}", *form.split()[1:]]
    subprocess.run(["tar", "-C", source, *formats, "-S", "-cf", packed, "holes", "after"], check=True)
    assert packed.stat().st_size < 1 << 20
    root = applied(tmp_path / "root", packed.read_bytes())
    assert (root / "holes").read_bytes() == (source / "holes").read_bytes()
    assert (root / "holes").stat().st_blocks * 512 < 1 << 20
    assert (root / "after").read_text() == "still here"


def test_gnu_tar_of_a_real_tree_comes_out_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b/c").mkdir(parents=True)
    for number in range(300):
        (source / "a" / f"f{number}").write_bytes(os.urandom(number * 37))
    (source / "a/b/c/link").symlink_to("../../f1")
    os.link(source / "a/f2", source / "a/b/hard")
    os.mkfifo(source / "fifo", 0o622)
    (source / "a/f3").chmod(0o4711)
    packed = subprocess.run(["tar", "-C", str(source), "-c", "."], check=True, capture_output=True).stdout
    assert described(applied(tmp_path / "root", packed)) == described(source)


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "no tar": lambda tar: b"\x7fELF" + os.urandom(5000),
    "cut in a header": lambda tar: tar[:700],
    "cut in data": lambda tar: tar[:2100],
    "wrong checksum": lambda tar: tar[:10] + b"X" + tar[11:],
    "size that is no number": lambda tar: rechecked(tar[:124] + b"zzzzzzzzzzz\0" + tar[136:]),
    "negative size": lambda tar: rechecked(tar[:124] + b"\xff" * 12 + tar[136:]),
    "enormous size": lambda tar: rechecked(tar[:124] + b"\x80" + b"\x7f" * 11 + tar[136:]),
    "unknown type": lambda tar: rechecked(tar[:156] + b"Q" + tar[157:]),
}


def rechecked(tar: bytes) -> bytes:
    header = tar[:148] + b" " * 8 + tar[156:512]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:] + tar[512:]


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_tar_is_an_invalid_argument(tmp_path: Path, name: str) -> None:
    tar = MALFORMED[name](make_tar({"file": "x" * 3000, "other": "y"}))
    with pytest.raises(InvalidArgument):
        applied(tmp_path / "root", tar)


@pytest.mark.parametrize(
    "records",
    [b"99 path=x\n", b"path=x\n", b"9 path=x\n\n", b"8 =x\nabc\n", b"12 size=abc\n", b"16 size=-100000\n", b"\0" * 20],
)
def test_malformed_pax_records_are_invalid(tmp_path: Path, records: bytes) -> None:
    info = tarfile.TarInfo("PaxHeaders/x")
    info.type, info.size = b"x", len(records)
    data = info.tobuf() + records.ljust(512, b"\0") + make_tar({"file": "x"})
    with pytest.raises(InvalidArgument):
        applied(tmp_path / "root", data)


def test_random_damage_never_escapes_nor_crashes(tmp_path: Path) -> None:
    seed = random.Random(4)
    good = make_tar(
        {
            "d/": None,
            "d/f": "x" * 700,
            "l": entry(SYM, linkname="d"),
            "n" * 150: "long",
            "h": entry(LNK, linkname="d/f"),
        }
    )
    for number in range(300):
        bad = bytearray(good)
        for _ in range(seed.randrange(1, 6)):
            bad[seed.randrange(len(bad))] = seed.randrange(256)
        data = (
            bytes(bad)
            if number % 3
            else b"".join(rechecked(bytes(bad[at : at + 512])) for at in range(0, len(bad), 512))
        )
        try:
            applied(tmp_path / f"r{number}", data)
        except (InvalidArgument, PermissionError):
            pass  # a device, without root
    assert all(name.startswith("r") for name in os.listdir(tmp_path))


def test_the_reader_agrees_with_tarfile(tmp_path: Path) -> None:
    data = make_tar({f"d{n % 7}/file{n}": os.urandom(n * 11) for n in range(200)})
    reader, found = TarReader(io.BytesIO(data)), {}
    while (member := reader.next()) is not None:
        found[member.name.decode()] = (
            b"".join(bytes(piece) for piece in reader.pieces()) if member.name[-1:] != b"3" else None
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            file = tar.extractfile(info)
            assert found[info.name] in (None, file.read() if file else b"")
    assert len(found) == 200


def test_a_diff_makes_the_new_tree_of_the_old(tmp_path: Path) -> None:
    files: FileTree = {"a": "1", "d/": None, "d/x": "1", "gone/": None, "gone/y": "1", "same": "1", "swap": "file"}
    old = applied(tmp_path / "old", files)
    new = applied(tmp_path / "new", files)
    applied(new, {"a": "22", ".wh.gone": "", "d/z": "3", "swap/": None, "swap/in": "4", "l": entry(SYM, linkname="a")})
    data = b"".join(tree_diff(str(new), str(old)))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sorted(tar.getnames()) == [".wh.gone", "a", "d/z", "l", "swap", "swap/in"]
    assert described(applied(old, data)) == described(new)


def test_the_diff_of_a_tree_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    files: FileTree = {f"f{n}": str(n) for n in range(20)}
    root = applied(tmp_path / "root", files | {"ü" * 80: "x", "b" * 250: "y"})
    first = b"".join(tree_diff(str(root), None))
    assert first == b"".join(tree_diff(str(root), None))
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert "ü" * 80 in tar.getnames()
    assert described(applied(tmp_path / "copy", first)) == described(root)


def test_compression_is_told_by_the_first_bytes() -> None:
    data = os.urandom(100_000) * 3
    packed = b"".join(compress_gzip([data]))
    assert gzip.decompress(packed) == data
    assert packed == b"".join(compress_gzip([data]))
    for source in (data, packed, gzip.compress(data[:1000]) + gzip.compress(data[1000:])):
        stream = decompress(io.BytesIO(source))
        assert b"".join(iter(lambda stream=stream: stream.read(1 << 20), b"")) == data  # type: ignore[misc]
    with pytest.raises(InvalidArgument, match="xz compression is not supported"):
        decompress(io.BytesIO(b"\xfd7zXZ\0 and so on"))
    with pytest.raises(Corrupt, match="gzip stream is damaged"):
        decompress(io.BytesIO(packed[:-20])).read()


def test_a_failing_source_is_not_taken_for_damage() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1000:
                raise OSError("the cable was cut")
            return super().read(min(size or 0, 500))

    packed = gzip.compress(os.urandom(5000))
    with pytest.raises(OSError, match="cable"):
        decompress(Failing(packed)).read()


def test_deep_trees_are_removed(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("deep", dir_fd=top)
    fd = os.open("deep", os.O_RDONLY, dir_fd=top)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(top, b"deep")
    os.close(top)
    assert os.listdir(tmp_path) == []


def test_usage_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "l").symlink_to("/etc")
    assert tree_usage(str(tmp_path)) == (1000, 3)
