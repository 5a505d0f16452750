from __future__ import annotations

from scow.linux import mounts
from scow.linux import syscalls as sys
from scow.linux.mount_options import parse_options


def test_words_become_flags_and_the_rest_is_the_filesystems() -> None:
    options = parse_options(["ro", "nosuid", "size=64k", "rslave", "mode=1777"])
    assert options.flags == sys.MS_RDONLY | sys.MS_NOSUID
    assert options.data == ("size=64k", "mode=1777")
    assert options.propagation == (sys.MS_SLAVE | sys.MS_REC,)


def test_a_later_word_wins() -> None:
    assert parse_options(["ro", "rw"]).flags == 0
    both = parse_options(["rw", "ro"])
    assert (both.flags, both.cleared) == (sys.MS_RDONLY, 0)


def test_escaped_colons_do_not_split_lower_directories() -> None:
    assert mounts._split_lower(r"/a\:b:/c\\:/d") == ["/a:b", "/c\\", "/d"]
