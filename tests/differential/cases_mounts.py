"""``mounts``, the root, masked and read-only paths."""

from __future__ import annotations

import os
from pathlib import Path

from scow.linux import syscalls as sys
from tests.differential.bundle import bind, mount, replace_mount
from tests.differential.cases_namespaces import MAPPED, in_user_namespace
from tests.differential.corpus import Change, Observed, Spec, case
from tests.differential.run import Run, to_the_end


def source(run: Run, name: str = "source") -> Path:
    """A folder outside the root file system, with a file and a folder in it."""
    folder = run.folder / name
    (folder / "below").mkdir(parents=True)
    (folder / "file").write_text("from outside\n")
    return folder


def submounted(run: Run) -> Path:
    """A `source` that is a mount with a mount below it; both go with the run."""
    folder = source(run)
    for place in (folder, folder / "below"):
        sys.mount("tmpfs", str(place), "tmpfs", 0, "size=1m,mode=755")
        if place == folder:
            (folder / "below").mkdir()
        sys.mount(None, str(place), None, sys.MS_PRIVATE)
    return folder


def unmounting(run: Run) -> Observed:
    """Drives `to_the_end`, and unmounts what `submounted` made."""
    try:
        return to_the_end(run)
    finally:
        sys.umount(str(run.folder / "source"), sys.MNT_DETACH)


@case("mount", sh={"stat": "stat -c '%A %u:%g' /a /a/b", "write": "touch /a/b/x && echo written"}, sample=True)
def tmpfs_with_options(spec: Spec, run: Run) -> None:
    """A tmpfs with size, mode and flags at a place that has to be made."""
    spec["mounts"].append(mount("/a/b", "tmpfs", "tmpfs", "nosuid", "noexec", "nodev", "size=64k", "mode=1770"))


@case("mount", sh={"stat": "stat -c '%A %u:%g' /there"})
def tmpfs_over_a_folder(spec: Spec, run: Run) -> None:
    """A tmpfs without a mode takes over that of the folder below it."""
    (run.root / "there").mkdir()
    (run.root / "there").chmod(0o1751)
    os.chown(run.root / "there", 8, 12)
    spec["mounts"].append(mount("/there", "tmpfs", "tmpfs"))


@case("mount", sh={"write": "touch /a/x"})
def tmpfs_readonly(spec: Spec, run: Run) -> None:
    """A read-only tmpfs."""
    spec["mounts"].append(mount("/a", "tmpfs", "tmpfs", "ro"))


@case("mount", sh={"made": "ls -A /a; stat -c '%A %u:%g' /a /a/f; cat /a/f"})
def tmpfs_with_a_copy_of_what_it_covers(spec: Spec, run: Run) -> None:
    """The option tmpcopyup, an extension of runc."""
    (run.root / "a").mkdir()
    (run.root / "a" / "f").write_text("kept\n")
    spec["mounts"].append(mount("/a", "tmpfs", "tmpfs", "tmpcopyup"))


@case("mount", sh={"read": "cat /data/file", "write": "echo x > /data/new && cat /data/new"}, sample=True)
def bind_of_a_folder(spec: Spec, run: Run) -> None:
    """A bind mount of a folder."""
    spec["mounts"].append(bind(source(run), "/data"))


@case("mount", sh={"read": "cat /data/file", "write": "echo x > /data/new"}, sample=True)
def bind_readonly(spec: Spec, run: Run) -> None:
    """A read-only bind mount."""
    spec["mounts"].append(bind(source(run), "/data", "ro"))


@case("mount", sh={"read": "cat /etc/new/file", "stat": "stat -c '%A %u:%g %s' /etc/new"})
def bind_of_a_file(spec: Spec, run: Run) -> None:
    """A bind mount of a file at a place that has to be made."""
    spec["mounts"].append(bind(source(run) / "file", "/etc/new/file"))


@case("mount")
def bind_with_flags(spec: Spec, run: Run) -> None:
    """Flags of a bind mount."""
    spec["mounts"] += [
        bind(source(run), "/a", "nosuid", "nodev", "noexec", "noatime"),
        bind(run.folder / "source", "/b", "nodiratime", "relatime"),
        bind(run.folder / "source", "/c", "strictatime", "suid", "dev", "exec"),
    ]


@case("mount", drive=unmounting)
def bind_not_recursive(spec: Spec, run: Run) -> None:
    """A bind mount leaves out the mounts below its source."""
    spec["mounts"].append(bind(submounted(run), "/data"))


@case("mount", sh={"top": "touch /data/x", "below": "touch /data/below/x && echo written"}, drive=unmounting)
def bind_recursive_readonly(spec: Spec, run: Run) -> None:
    """``rbind`` with ``ro``: only the first mount is read-only."""
    spec["mounts"].append(bind(submounted(run), "/data", "rbind", "ro"))


@case("mount", sh={"top": "touch /data/x", "below": "touch /data/below/x"}, drive=unmounting)
def bind_recursively_readonly(spec: Spec, run: Run) -> None:
    """``rro``: the mounts below are read-only too."""
    spec["mounts"].append(bind(submounted(run), "/data", "rbind", "rro"))


@case("mount", drive=unmounting)
def bind_with_recursive_flags(spec: Spec, run: Run) -> None:
    """``rnosuid``, ``rnodev``, ``rnoexec`` and ``rnoatime`` reach the mounts below."""
    spec["mounts"].append(bind(submounted(run), "/data", "rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime"))


@case("mount", drive=unmounting)
def bind_that_clears_flags(spec: Spec, run: Run) -> None:
    """A bind mount keeps the flags of its source which it does not name."""
    folder = submounted(run)
    sys.mount(None, str(folder), None, sys.MS_REMOUNT | sys.MS_BIND | sys.MS_NOSUID | sys.MS_NODEV)
    spec["mounts"] += [bind(folder, "/a", "ro"), bind(folder, "/b", "suid"), bind(folder, "/c")]


@case("mount", sh={"link": "cat /data/link"})
def bind_without_links(spec: Spec, run: Run) -> None:
    """``nosymfollow``: no symbolic link on the mount is followed."""
    (source(run) / "link").symlink_to("file")
    spec["mounts"].append(bind(run.folder / "source", "/data", "nosymfollow"))


def _with_propagation(word: str) -> Change:
    def change(spec: Spec, run: Run) -> None:
        folder = submounted(run)
        sys.mount(None, str(folder), None, sys.MS_SHARED | sys.MS_REC)
        spec["mounts"].append(bind(folder, "/data", "rbind", word))

    change.__name__ = f"propagation_{word}"
    change.__doc__ = f"A bind mount of a shared tree with ``{word}``."
    return change


for _word in ("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"):
    case("mount", drive=unmounting, sample=_word == "slave")(_with_propagation(_word))


def _with_root_propagation(word: str) -> Change:
    def change(spec: Spec, run: Run) -> None:
        spec["linux"]["rootfsPropagation"] = word
        spec["mounts"].append(bind(source(run), "/data"))

    change.__name__ = f"root_propagation_{word}"
    change.__doc__ = f"``rootfsPropagation`` ``{word}``."
    return change


for _word in ("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"):
    case("mount")(_with_root_propagation(_word))


@case()
def root_propagation_unknown(spec: Spec, run: Run) -> None:
    """A word for the propagation that nobody knows."""
    spec["linux"]["rootfsPropagation"] = "public"


@case("mount", sh={"write": "touch /x", "tmpfs": "touch /dev/shm/x && echo written"}, sample=True)
def root_readonly(spec: Spec, run: Run) -> None:
    """A read-only root; mounts below it stay writable."""
    spec["root"]["readonly"] = True


_MASKED = {
    "file": "head -c 1 /secret | wc -c; echo x > /secret && echo swallowed",
    "folder": "ls -A /secrets; touch /secrets/x",
    "kcore": "head -c 1 /proc/kcore | wc -c",
    "stat": "stat -c '%F %A' /secret /secrets",
}


@case("mount", sh=_MASKED, sample=True)
def masked_paths(spec: Spec, run: Run) -> None:
    """A masked file is empty, a masked folder too; what is not there stays so."""
    (run.root / "secret").write_text("secret")
    (run.root / "secrets").mkdir()
    (run.root / "secrets" / "inner").write_text("secret")
    spec["linux"]["maskedPaths"] += ["/secret", "/secrets", "/not/there"]


@case(sh={"read": "cat /link /target"})
def masked_path_by_a_link(spec: Spec, run: Run) -> None:
    """A masked path that is a symbolic link: what it leads to is masked."""
    (run.root / "target").write_text("secret")
    (run.root / "link").symlink_to("/target")
    spec["linux"]["maskedPaths"].append("/link")


@case("mount", sh={"write": "echo 1 > /proc/sys/net/ipv4/ip_forward", "etc": "touch /etc/x; touch /var/x && echo ok"})
def readonly_paths(spec: Spec, run: Run) -> None:
    """Read-only paths; what is not there stays so."""
    spec["linux"]["readonlyPaths"] += ["/etc", "/not/there"]


@case("mount", sh={"write": "echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward"})
def nothing_masked(spec: Spec, run: Run) -> None:
    """Neither masked nor read-only paths, as for a privileged container."""
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])


@case("mount")
def masked_path_that_is_a_mount(spec: Spec, run: Run) -> None:
    """A read-only path below a masked one, and a mount that is masked."""
    spec["mounts"].append(bind(source(run), "/data"))
    spec["linux"]["maskedPaths"].append("/data")
    spec["linux"]["readonlyPaths"].append("/data/below")


@case("mount", sh={"file": "touch /mnt-o/new && ls /mnt-o"})
def overlay(spec: Spec, run: Run) -> None:
    """A mount of type overlay with its own options."""
    for name in ("o-lower", "o-upper", "o-work"):
        (run.folder / name).mkdir()
    (run.folder / "o-lower" / "old").write_text("")
    layers = [f"{key}={run.folder}/o-{key[:5]}" for key in ("lowerdir", "upperdir")]
    spec["mounts"].append(mount("/mnt-o", "overlay", "overlay", *layers, f"workdir={run.folder}/o-work"))


@case("mount", "dev")
def mounts_none(spec: Spec, run: Run) -> None:
    """No mounts at all: nothing can be looked at but /dev."""
    spec["mounts"] = []
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])


@case("mount", "dev")
def dev_of_the_host(spec: Spec, run: Run) -> None:
    """/dev as a bind mount: no device is made in it."""
    folder = run.folder / "dev"
    folder.mkdir()
    for name, minor in (("null", 3), ("zero", 5)):
        os.mknod(folder / name, 0o20666, os.makedev(1, minor))
    spec["mounts"] = [entry for entry in spec["mounts"] if not entry["destination"].startswith("/dev")]
    spec["mounts"].append(bind(folder, "/dev", "rbind"))


@case("mount", sh={"write": "touch /dev/x"})
def dev_readonly(spec: Spec, run: Run) -> None:
    """/dev read-only; what is in it is made all the same."""
    replace_mount(spec, mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k", "ro"))


@case("mount", sh={"others": "ls -d /proc/1 /proc/sys", "processes": "set -- /proc/[0-9]*; echo $#"})
def proc_with_options(spec: Spec, run: Run) -> None:
    """/proc with flags and with data of its own."""
    replace_mount(spec, mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev", "hidepid=2"))


@case(
    "mount",
    sh={"names": "ls /sys/fs/cgroup", "write": "mkdir /sys/fs/cgroup/memory/x && rmdir /sys/fs/cgroup/memory/x"},
)
def cgroups_writable(spec: Spec, run: Run) -> None:
    """The cgroup hierarchies, writable."""
    spec["mounts"].append(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime"))


@case("mount", sh={"names": "ls /sys/fs/cgroup", "write": "mkdir /sys/fs/cgroup/memory/x"})
def cgroups_readonly(spec: Spec, run: Run) -> None:
    """The cgroup hierarchies, read-only."""
    spec["mounts"].append(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro"))


@case("mount", sh={"read": "cat /real/in/file"})
def destination_by_a_link(spec: Spec, run: Run) -> None:
    """A destination through a symbolic link of the image stays in the root."""
    (run.root / "real" / "in").mkdir(parents=True)
    (run.root / "link").symlink_to("/real")
    spec["mounts"].append(bind(source(run), "/link/in"))


@case("mount", sh={"outside": "ls -A /"}, sample=True)
def destination_that_leads_out(spec: Spec, run: Run) -> None:
    """A symbolic link with many ``..`` ends at the container's own root."""
    (run.root / "out").symlink_to("../../../../../etc/escaped")
    spec["mounts"].append(mount("/out", "tmpfs", "tmpfs", "size=64k"))


@case("mount")
def destination_relative(spec: Spec, run: Run) -> None:
    """A destination without a leading slash."""
    spec["mounts"].append(mount("data", "tmpfs", "tmpfs"))


@case("mount")
def destination_twice(spec: Spec, run: Run) -> None:
    """Two mounts at one place: the second covers the first."""
    spec["mounts"] += [mount("/a", "tmpfs", "tmpfs", "size=64k"), bind(source(run), "/a")]


@case()
def destination_proc(spec: Spec, run: Run) -> None:
    """A bind mount over /proc is refused."""
    spec["mounts"].append(bind(source(run), "/proc"))


@case()
def destination_inside_proc(spec: Spec, run: Run) -> None:
    """A mount inside /proc is refused."""
    spec["mounts"].append(mount("/proc/sys", "tmpfs", "tmpfs"))


@case(sh={"read": "cat /proc/uptime"})
def destination_inside_proc_as_lxcfs(spec: Spec, run: Run) -> None:
    """The files of /proc that lxcfs replaces may be."""
    spec["mounts"].append(bind(source(run) / "file", "/proc/uptime"))


@case()
def proc_that_is_a_link(spec: Spec, run: Run) -> None:
    """/proc of the image is a symbolic link: refused."""
    (run.root / "proc").rmdir()
    (run.root / "proc").symlink_to("/var")


@case()
def source_missing(spec: Spec, run: Run) -> None:
    """The source of a bind mount is missing: an error, and nothing is left."""
    spec["mounts"].append(bind(run.folder / "nothing", "/data"))


@case("mount", sh={"read": "cat /data/file"})
def source_relative(spec: Spec, run: Run) -> None:
    """A relative source is below the bundle."""
    source(run)
    spec["mounts"].append(bind("source", "/data"))


@case()
def source_is_a_file_and_the_place_a_folder(spec: Spec, run: Run) -> None:
    """A file cannot be mounted on a folder."""
    spec["mounts"].append(bind(source(run) / "file", "/etc"))


@case()
def type_unknown(spec: Spec, run: Run) -> None:
    """An unknown file system type is an error."""
    spec["mounts"].append(mount("/data", "dreamfs", "dreamfs"))


@case()
def option_unknown(spec: Spec, run: Run) -> None:
    """An option that the file system does not know is an error."""
    spec["mounts"].append(mount("/data", "tmpfs", "tmpfs", "dreams=1"))


@case("mount")
def type_none_with_bind(spec: Spec, run: Run) -> None:
    """The type ``none`` with the option ``bind`` is a bind mount."""
    spec["mounts"].append(mount("/data", "none", str(source(run)), "bind"))


@case("mount")
def type_absent_with_bind(spec: Spec, run: Run) -> None:
    """The option ``bind`` without a type is a bind mount."""
    spec["mounts"].append({"destination": "/data", "source": str(source(run)), "options": ["bind"]})


@case()
def root_missing(spec: Spec, run: Run) -> None:
    """A root file system that is not there."""
    spec["root"]["path"] = "nothing"


@case(sh={"there": "ls -d /bin"})
def root_by_an_absolute_path(spec: Spec, run: Run) -> None:
    """A root file system by its absolute path."""
    spec["root"]["path"] = str(run.root)


@case("mount", sh={"owner": "stat -c %u:%g /data /data/file"}, expect={"owner": "100000:100000\n100000:100000"})
def idmapped_bind(spec: Spec, run: Run) -> None:
    """A bind mount with mappings: the host's root is another user there."""
    spec["mounts"].append({**bind(source(run), "/data"), "uidMappings": MAPPED, "gidMappings": MAPPED})


@case(
    sh={"owner": "stat -c %u:%g /data /data/file; touch /data/new && stat -c %u:%g /data/new"},
    expect={"owner": "0:0\n0:0\n0:0"},
)
def idmapped_bind_in_a_user_namespace(spec: Spec, run: Run) -> None:
    """A bind mount with the mappings of the container's user namespace: what root owns outside, root owns inside."""
    in_user_namespace(spec)
    (run.root / "data").mkdir()
    spec["mounts"].append({**bind(source(run), "/data"), "uidMappings": MAPPED, "gidMappings": MAPPED})
