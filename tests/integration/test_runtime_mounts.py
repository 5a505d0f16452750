"""Mounts as the runtime spec has them, beyond what Docker asks for: every option, propagation, tmpcopyup, remount."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scow.linux import syscalls
from scow.testing.runtime import BUSYBOX, Lab
from scow.types import ContainerConfig

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason=f"needs {BUSYBOX} (Debian: busybox-static)"),
]
MOUNTINFO = "cat /proc/self/mountinfo"


def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def with_mounts(*mounts: dict[str, Any], **linux: Any) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].extend(mounts)
        spec["linux"].update(linux)

    return change


class Info:
    """The lines of a mountinfo by mount point: *options* of the mount, *tags* of its propagation, *superblock*."""

    def __init__(self, text: str) -> None:
        self.options: dict[str, set[str]] = {}
        self.tags: dict[str, list[str]] = {}
        self.superblock: dict[str, set[str]] = {}
        for line in text.splitlines():
            fields = line.split()
            dash = fields.index("-")
            self.options[fields[4]] = set(fields[5].split(","))
            self.tags[fields[4]] = [tag.partition(":")[0] for tag in fields[6:dash]]
            self.superblock[fields[4]] = set(fields[dash + 3].split(","))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a mount, with another mount at ``inner`` inside."""
    top = tmp_path / "tree"
    top.mkdir()
    syscalls.mount("tmpfs", str(top), "tmpfs", 0, "size=1m")
    (top / "inner").mkdir()
    syscalls.mount("tmpfs", str(top / "inner"), "tmpfs", 0, "size=1m")
    yield top
    syscalls.umount(str(top), syscalls.MNT_DETACH)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "has"),
    [
        (("ro",), {"ro"}),
        (("ro", "rw"), {"rw"}),
        (("nosuid", "nodev", "noexec"), {"nosuid", "nodev", "noexec"}),
        (("nosuid", "suid", "nodev", "dev", "noexec", "exec"), {"rw"}),
        (("noatime",), {"noatime"}),
        (("noatime", "atime"), {"relatime"}),
        (("relatime",), {"relatime"}),
        (("strictatime",), {"rw"}),
        (("strictatime", "nostrictatime"), {"relatime"}),
        (("nodiratime",), {"nodiratime", "relatime"}),
        (("nodiratime", "diratime"), {"relatime"}),
        (("norelatime",), {"relatime"}),
        (("nosymfollow",), {"nosymfollow"}),
        (("nosymfollow", "symfollow"), {"relatime"}),
        (("defaults",), {"rw", "relatime"}),
    ],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_attributes_of_a_mount(lab: Lab, tree: Path, kind: str, options: tuple[str, ...], has: set[str]) -> None:
    given = ("tmpfs", "tmpfs", *options) if kind == "tmpfs" else ("none", str(tree), "bind", *options)
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", *given)))).options["/m"]
    times = {"relatime", "noatime"}
    strict = options[-1] == "strictatime"
    assert has <= found and found & times == (set() if strict else has & times or {"relatime"})


@pytest.mark.parametrize(
    ("options", "has"),
    [
        (("sync",), "sync"),
        (("dirsync",), "dirsync"),
        (("lazytime",), "lazytime"),
        (("mand",), ""),
        (("iversion",), ""),
        (("sync", "async", "lazytime", "nolazytime", "noiversion", "nomand", "silent", "loud"), ""),
    ],
)
def test_options_of_the_filesystem_behind_a_mount(lab: Lab, options: tuple[str, ...], has: str) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "tmpfs", "tmpfs", *options, "size=8k"))))
    assert "size=8k" in found.superblock["/m"]
    assert {"sync", "dirsync", "lazytime"} & found.superblock["/m"] == ({has} if has else set())


@pytest.mark.parametrize(
    ("option", "has"),
    [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rrelatime", "relatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ],
)
def test_a_recursive_option_holds_for_the_whole_tree(lab: Lab, tree: Path, option: str, has: str) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "none", str(tree), "rbind", option)))).options
    assert has in found["/m"] and has in found["/m/inner"]


@pytest.mark.parametrize(
    ("option", "had", "flag"),
    [
        ("rrw", "ro", syscalls.MS_RDONLY),
        ("rsuid", "nosuid", syscalls.MS_NOSUID),
        ("rdev", "nodev", syscalls.MS_NODEV),
        ("rexec", "noexec", syscalls.MS_NOEXEC),
        ("ratime", "noatime", syscalls.MS_NOATIME),
        ("rstrictatime", "relatime", syscalls.MS_RELATIME),
        ("rnorelatime", "noatime", syscalls.MS_NOATIME),
        ("rnostrictatime", "noatime", syscalls.MS_NOATIME),
        ("rdiratime", "nodiratime", syscalls.MS_NODIRATIME),
        ("rsymfollow", "nosymfollow", syscalls.MS_NOSYMFOLLOW),
    ],
)
def test_a_recursive_option_takes_an_attribute_from_the_whole_tree(
    lab: Lab, tree: Path, option: str, had: str, flag: int
) -> None:
    for path in (tree, tree / "inner"):
        syscalls.mount(None, str(path), None, syscalls.MS_REMOUNT | syscalls.MS_BIND | flag)
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "none", str(tree), "rbind", option)))).options
    plain = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "none", str(tree), "rbind")))).options
    assert had in plain["/m"] and had in plain["/m/inner"]
    assert had not in found["/m"] and had not in found["/m/inner"]


def test_a_recursive_option_holds_for_a_filesystem_too(lab: Lab) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "tmpfs", "tmpfs", "rro", "rnoexec")))).options
    assert {"ro", "noexec"} <= found["/m"]


def test_a_bind_that_is_not_recursive_leaves_inner_mounts_out(lab: Lab, tree: Path) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "none", str(tree), "bind")))).options
    assert "/m" in found and "/m/inner" not in found


def test_a_relative_destination_is_below_the_root(lab: Lab) -> None:
    assert "/rel/place" in Info(lab.sh(MOUNTINFO, change=with_mounts(mount("rel/place", "tmpfs", "tmpfs")))).options


def test_remount_changes_what_is_mounted_by_then(lab: Lab) -> None:
    entries = (
        mount("/m", "tmpfs", "tmpfs", "size=64k"),
        mount("/m", "tmpfs", "tmpfs", "remount", "size=128k", "nosuid"),
        mount("/n", "tmpfs", "tmpfs"),
        mount("/n", "none", "/n", "remount", "bind", "ro"),
    )
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(*entries)))
    assert "size=128k" in found.superblock["/m"] and "nosuid" in found.options["/m"]
    assert "ro" in found.options["/n"] and "ro" not in found.superblock["/n"]


def test_an_unknown_option_is_the_filesystems_own_and_refused_by_it(lab: Lab) -> None:
    failure = lab.refused("true", change=with_mounts(mount("/m", "tmpfs", "tmpfs", "nonsense=1")))
    assert (failure["stage"], failure["error"]) == ("mounting /m", "mount tmpfs at /m: invalid argument")


# ---------------------------------------------------------------- tmpcopyup


def test_tmpcopyup_begins_with_what_the_image_has_there(lab: Lab) -> None:
    lower = lab.lower / "srv"
    (lower / "sub").mkdir(parents=True)
    (lower / "sub/file").write_text("content\n")
    (lower / "sub/file").chmod(0o640)
    os.chown(lower / "sub/file", 33, 34)
    os.utime(lower / "sub/file", (1000, 2000))
    (lower / "link").symlink_to("/etc/passwd")
    os.mkfifo(lower / "fifo")
    lower.chmod(0o751)
    script = "cd /srv; cat sub/file; stat -c '%a %u %g %Y' sub/file; readlink link; test -p fifo; stat -c %a ."
    entry = mount("/srv", "tmpfs", "tmpfs", "tmpcopyup", "size=1m", "nosuid")
    running = lab.make("sh", "-ec", f"{script}; touch /srv/new; {MOUNTINFO}", change=with_mounts(entry))
    assert running.create() == {"ready": True} and running.start() is None
    code, output = running.wait()
    assert code == 0 and output.startswith("content\n640 33 34 2000\n/etc/passwd\n751\n"), output
    found = Info("\n".join(output.splitlines()[4:]))
    assert "nosuid" in found.options["/srv"] and "size=1024k" in found.superblock["/srv"]
    assert not (lower / "new").exists() and not (lab.directory / running.id[:12] / "upper/srv").exists()


def test_tmpcopyup_may_be_read_only_and_of_a_directory_that_is_missing(lab: Lab) -> None:
    entries = (mount("/none/yet", "tmpfs", "tmpfs", "tmpcopyup"), mount("/etc", "tmpfs", "tmpfs", "tmpcopyup", "ro"))
    output = lab.sh("ls -A /none/yet; touch /etc/x 2>/dev/null || head -1 /etc/passwd", change=with_mounts(*entries))
    assert output == "root:x:0:0:root:/root:/bin/sh\n"


def test_tmpcopyup_that_does_not_fit_fails_and_leaves_nothing(lab: Lab) -> None:
    (lab.lower / "big").mkdir()
    (lab.lower / "big/file").write_bytes(bytes(1 << 20))
    failure = lab.refused("true", change=with_mounts(mount("/big", "tmpfs", "tmpfs", "tmpcopyup", "size=64k")))
    assert (failure["stage"], failure["error"]) == ("mounting /big", "no space left on device")


# ---------------------------------------------------------------- propagation


@pytest.mark.parametrize(
    ("option", "top", "inner"),
    [
        ("shared", ["shared"], []),
        ("rshared", ["shared"], ["shared"]),
        ("private", [], []),
        ("rprivate", [], []),
        ("unbindable", ["unbindable"], []),
        ("runbindable", ["unbindable"], ["unbindable"]),
    ],
)
def test_propagation_of_a_bind(lab: Lab, tree: Path, option: str, top: list[str], inner: list[str]) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "none", str(tree), "rbind", option))))
    assert (found.tags["/m"], found.tags["/m/inner"]) == (top, inner)


@pytest.mark.parametrize("option", ["slave", "rslave"])
def test_a_slave_bind_has_a_master_on_the_host(lab: Lab, tree: Path, option: str) -> None:
    """What is mounted below it too: a peer of the host's there would let the container mount on the host."""
    syscalls.mount(None, str(tree), None, syscalls.MS_SHARED | syscalls.MS_REC)
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "none", str(tree), "rbind", option))))
    assert (found.tags["/m"], found.tags["/m/inner"]) == (["master"], ["master"])


def that_may_mount(*entries: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """A change: the container has these mounts, and may make more of them."""

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] += entries
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
        del spec["linux"]["seccomp"]

    return change


@pytest.mark.parametrize("options", [("slave",), ("rslave",), ("shared", "slave")])
def test_a_container_cannot_mount_on_the_host_through_a_slave_bind(
    lab: Lab, tree: Path, options: tuple[str, ...]
) -> None:
    syscalls.mount(None, str(tree), None, syscalls.MS_SHARED | syscalls.MS_REC)
    places = ("late", "inner/late")
    for place in places:
        (tree / place).mkdir()
    text = " && ".join(f"mount -t tmpfs late /m/{place} && touch /m/{place}/file" for place in places)
    lab.sh(text, change=that_may_mount(mount("/m", "none", str(tree), "rbind", *options)))
    assert [place for place in places if (tree / place / "file").exists()] == []


def test_a_shared_bind_gives_the_host_what_the_container_mounts(lab: Lab, tree: Path) -> None:
    syscalls.mount(None, str(tree), None, syscalls.MS_SHARED)
    (tree / "late").mkdir()
    change = that_may_mount(mount("/m", "none", str(tree), "bind", "shared"))
    lab.sh("mount -t tmpfs late /m/late && touch /m/late/file", change=change)
    assert (tree / "late/file").exists()


@pytest.mark.parametrize(
    ("option", "tags"), [("shared", ["shared"]), ("private", []), ("unbindable", ["unbindable"]), ("slave", [])]
)
def test_propagation_of_a_filesystem_of_the_containers_own(lab: Lab, option: str, tags: list[str]) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(mount("/m", "tmpfs", "tmpfs", option))))
    assert found.tags["/m"] == tags


@pytest.mark.parametrize(
    ("word", "tags"),
    [
        ("private", []),
        ("rprivate", []),
        ("shared", ["shared"]),
        ("rshared", ["shared"]),
        ("unbindable", ["unbindable"]),
        ("slave", []),
    ],
)
def test_the_roots_propagation(lab: Lab, word: str, tags: list[str]) -> None:
    found = Info(lab.sh(MOUNTINFO, change=with_mounts(rootfsPropagation=word)))
    assert found.tags["/"] == tags


def test_a_slave_root_gets_what_the_host_mounts_later(lab: Lab, tree: Path) -> None:
    """The bind names no propagation of its own, as with runc; one that is private stays so."""
    syscalls.mount(None, str(tree), None, syscalls.MS_SHARED)
    (tree / "late").mkdir()
    entries = (mount("/m", "none", str(tree), "rbind"), mount("/p", "none", str(tree), "rbind", "rprivate"))
    running = lab.up(change=with_mounts(*entries, rootfsPropagation="rslave"))
    syscalls.mount("late", str(tree / "late"), "tmpfs")
    (tree / "late/file").touch()
    assert running.exec("ls", "/m/late", "/p/late")["output"] == "/m/late:\nfile\n\n/p/late:\n"


def test_a_read_only_root_with_every_kind_of_propagation_stays_read_only(lab: Lab) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["root"]["readonly"] = True
        spec["linux"]["rootfsPropagation"] = "shared"

    assert "Read-only" in lab.sh("touch /x 2>&1 || true", change=change, config=ContainerConfig())
