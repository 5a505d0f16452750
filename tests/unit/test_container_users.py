"""Who a container runs as: looked up in the container's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scow.errors import ScowError
from scow.linux.users import User, look_up, read_inside, resolve

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
web:x:33:34:web:/var/www:/bin/false
broken line
other:x:44:45::/home/other:/bin/sh
"""
GROUP = "root:x:0:\nwheel:x:10:root,web\nweb:x:34:\naudio:x:29:web\n"


def test_no_user_is_root_with_roots_groups() -> None:
    assert look_up("", (), PASSWD, GROUP) == User(0, 0, [0, 10], "/root")


def test_a_name_brings_its_group_home_and_supplementary_groups() -> None:
    assert look_up("web", (), PASSWD, GROUP) == User(33, 34, [34, 10, 29], "/var/www")


def test_a_number_with_an_entry_is_that_user() -> None:
    assert look_up("33", (), PASSWD, GROUP).home == "/var/www"


def test_a_number_without_an_entry_runs_in_group_root_at_the_root() -> None:
    assert look_up("1234", (), PASSWD, GROUP) == User(1234, 0, [0], "/")


def test_an_explicit_group_replaces_the_supplementary_ones() -> None:
    assert look_up("web:audio", (), PASSWD, GROUP) == User(33, 29, [29], "/var/www")
    assert look_up("web:77", (), PASSWD, GROUP).gid == 77


def test_added_groups_may_be_names_or_numbers() -> None:
    assert look_up("1234", ("audio", "55"), PASSWD, GROUP).groups == [0, 29, 55]


@pytest.mark.parametrize(
    ("user", "groups", "message"),
    [
        ("nobody", (), "unable to find user nobody: no matching entries in passwd file"),
        ("web:none", (), "unable to find group none: no matching entries in group file"),
        ("web", ("none",), "unable to find group none: no matching entries in group file"),
        ("2147483648", (), "uids and gids must be in range 0-2147483647"),
        ("-1", (), "uids and gids must be in range 0-2147483647"),
    ],
)
def test_what_is_not_there_is_named(user: str, groups: tuple[str, ...], message: str) -> None:
    with pytest.raises(ScowError, match=message):
        look_up(user, groups, PASSWD, GROUP)


def test_exact_groups_are_those_that_are_named_and_no_others(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert resolve(root_fd, "33:34", ("5", "77"), exact=True).groups == [5, 77]
        assert resolve(root_fd, "33:34", (), exact=True) == User(33, 34, [], "/")
    finally:
        os.close(root_fd)


def test_an_image_without_files_has_numbers_only() -> None:
    assert look_up("5:6", (), "", "") == User(5, 6, [6], "/")


def test_the_files_are_read_inside_the_root_whatever_they_link_to(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("evil:x:0:0::/:\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").symlink_to(tmp_path / "outside")
    (root / "etc/group").symlink_to("/proc/self/fd/0")
    fd = os.open(root, os.O_PATH)
    try:
        assert read_inside(fd, "etc/passwd") == "" and read_inside(fd, "etc/group") == ""
        (root / "etc/passwd").unlink()
        (root / "etc/real").write_text(PASSWD)
        (root / "etc/passwd").symlink_to("/etc/real")
        assert resolve(fd, "web", ()).uid == 33
    finally:
        os.close(fd)


def test_a_fifo_in_place_of_passwd_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert read_inside(fd, "etc/passwd") == ""
    finally:
        os.close(fd)
