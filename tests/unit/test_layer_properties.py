"""Properties of tars and layers, on drawn examples; without root."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from scow.errors import InvalidArgument
from scow.layers import Whiteouts, apply_layer, tree_diff
from scow.tar_reader import CHAR, DIRECTORY, LINK, REGULAR, SYMLINK, Member, TarReader
from scow.tar_writer import END, member_header, padding
from tests.properties import HOSTILE, Evil, Node, changed_trees, folder, packed, pictured, plant, properties


@given(changed_trees())
@properties(80)
def test_a_diff_applied_to_the_old_tree_gives_the_new_one(
    tmp_path: Path, trees: tuple[dict[bytes, Node], dict[bytes, Node]]
) -> None:
    with folder(tmp_path) as place:
        old, new = plant(place / "old", trees[0]), plant(place / "new", trees[1])
        data = b"".join(tree_diff(str(new), str(old)))
        apply_layer(io.BytesIO(data), str(old), Whiteouts.DELETE)
        assert pictured(old) == pictured(new)
        assert b"".join(tree_diff(str(new), str(old))) == END


@given(changed_trees())
@properties(40)
def test_other_readers_find_in_a_diff_what_the_applier_makes_of_it(
    tmp_path: Path, trees: tuple[dict[bytes, Node], dict[bytes, Node]]
) -> None:
    with folder(tmp_path) as place:
        new = plant(place / "new", trees[1])
        with tarfile.open(fileobj=io.BytesIO(b"".join(tree_diff(str(new), None)))) as tar:
            found = {os.fsencode(info.name): (info.mode, int(info.mtime)) for info in tar if not info.isdir()}
        wanted = {
            name: (status[0] & 0o7777, status[3]) for name, status in pictured(new).items() if status[0] >> 12 != 4
        }
        assert found == wanted


_NAME = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))
_MEMBERS = st.builds(
    Member,
    _NAME,
    st.sampled_from([REGULAR, DIRECTORY, SYMLINK, LINK, CHAR]),
    st.integers(0, 0o7777),
    st.integers(0, (1 << 32) - 2),
    st.integers(0, (1 << 32) - 2),
    st.integers(0, 2000),
    st.integers(-(1 << 40), 1 << 40).map(lambda seconds: seconds * 1_000_000_000),
    _NAME,
    st.integers(0, 4095),
    st.integers(0, (1 << 20) - 1),
    st.dictionaries(st.binary(min_size=1, max_size=30).filter(lambda key: b"=" not in key), st.binary(max_size=100)),
)


@given(st.lists(_MEMBERS, max_size=4))
@properties(200)
def test_what_the_writer_wrote_the_reader_reads(members: list[Member]) -> None:
    for member in members:
        if member.type != REGULAR:
            member.size_bytes = 0
        if member.type != CHAR:
            member.major = member.minor = 0
        if member.type not in (SYMLINK, LINK):
            member.link = b""
    parts = [member_header(member) + bytes(member.size_bytes) + padding(member.size_bytes) for member in members]
    reader = TarReader(io.BytesIO(b"".join(parts) + END))
    assert list(iter(reader.next, None)) == members


@given(st.binary(max_size=4096), st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=12)), max_size=5))
@properties(200)
def test_any_bytes_are_a_tar_or_an_invalid_argument(data: bytes, changes: list[tuple[int, bytes]]) -> None:
    good = bytearray(
        member_header(Member(b"n" * 130, REGULAR, 0o644, 1 << 22, 0, 600, 10**18, b"", 0, 0, {b"user.a": b"b"}))
        + bytes(600)
        + padding(600)
        + END
    )
    for position, change in changes:
        good[position : position + len(change)] = change
    for source in (data, bytes(good)):
        reader = TarReader(io.BytesIO(source))
        try:
            while reader.next() is not None:
                assert sum(len(piece) for piece in reader.pieces()) <= len(source)
        except InvalidArgument:
            continue


@given(st.lists(HOSTILE, min_size=1, max_size=3))
@properties(200)
def test_hostile_tars_stay_inside_and_fail_cleanly(tmp_path: Path, tars: list[list[Evil]]) -> None:
    with folder(tmp_path) as place:
        (place / "root").mkdir()
        (place / "outside").mkdir(mode=0o750)
        (place / "outside/secret").write_text("s")
        before = pictured(place / "outside")
        for tar in tars:
            try:
                apply_layer(io.BytesIO(packed(tar)), str(place / "root"), Whiteouts.DELETE)
            except InvalidArgument:
                continue
            except OSError as error:  # without root: a device, or what lies in a directory that may not be entered
                assert error.errno in (errno.EPERM, errno.EACCES)
        os.chmod(place / "root", 0o755)
        assert sorted(os.listdir(place)) == ["outside", "root"]
        assert pictured(place / "outside") == before
        assert (place / "outside").stat().st_mode & 0o777 == 0o750
