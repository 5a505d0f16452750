"""Odd values: what is refused, what is passed over, and what holds all the same."""

from __future__ import annotations

import os

from tests.differential.bundle import bind, mount
from tests.differential.cases_mounts import source
from tests.differential.cases_namespaces import MAPPED
from tests.differential.cases_resources import set_resources
from tests.differential.corpus import Observed, Spec, case
from tests.differential.run import Run, to_the_end


def _made(run: Run) -> Observed:
    """``run``, and which files were made in the root, with mode and owner."""
    observed = to_the_end(run)
    upper = run.folder / "upper"
    for folder, names, files in os.walk(upper):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            observed[f"made {os.path.relpath(path, upper)}"] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"
    return observed


@case(drive=_made)
def places_of_mounts(spec: Spec, run: Run) -> None:
    """Places that the root has not got: modes and owners of what is made for them."""
    folder = source(run)
    spec["mounts"] += [
        mount("/new/folder", "tmpfs", "tmpfs"),
        bind(folder, "/bound/folder"),
        bind(folder / "file", "/bound/file"),
    ]
    spec["process"]["cwd"] = "/work/here"


@case(drive=_made)
def places_of_devices(spec: Spec, run: Run) -> None:
    """Devices below folders that the root has not got."""
    spec["linux"]["devices"] = [{"path": "/odd/place/null", "type": "c", "major": 1, "minor": 3}]


@case(drive=_made)
def places_without_mounts(spec: Spec, run: Run) -> None:
    """No /dev to mount: devices and links are made in the root."""
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["destination"] == "/proc"]
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])


@case()
def root_that_is_a_link(spec: Spec, run: Run) -> None:
    """``root.path`` is a symbolic link."""
    (run.folder / "link").symlink_to("rootfs")
    spec["root"]["path"] = "link"


@case()
def root_that_is_a_file(spec: Spec, run: Run) -> None:
    """``root.path`` is a file."""
    (run.folder / "plain").write_text("")
    spec["root"]["path"] = "plain"


@case("mount")
def destination_with_dots(spec: Spec, run: Run) -> None:
    """A destination with ``..`` and a slash at its end."""
    spec["mounts"].append(mount("/a/../../b/./c/", "tmpfs", "tmpfs", "size=64k"))


@case()
def destination_of_the_root(spec: Spec, run: Run) -> None:
    """A mount over the root."""
    spec["mounts"].append(mount("/", "tmpfs", "tmpfs"))


@case("mount", sh={"read": "cat /data/file"})
def source_that_is_a_link(spec: Spec, run: Run) -> None:
    """The source of a bind mount is a symbolic link."""
    source(run)
    (run.folder / "link").symlink_to("source")
    spec["mounts"].append(bind(run.folder / "link", "/data"))


@case()
def source_is_a_folder_and_the_place_a_file(spec: Spec, run: Run) -> None:
    """A folder over a file."""
    spec["mounts"].append(bind(source(run), "/etc/passwd"))


@case("mount", sh={"stat": "stat -c '%A %u:%g' /a"})
def tmpfs_with_an_owner(spec: Spec, run: Run) -> None:
    """Owner and mode of a tmpfs by its own options."""
    spec["mounts"].append(mount("/a", "tmpfs", "tmpfs", "mode=1750", "uid=8", "gid=12"))


@case("mount")
def bind_with_data(spec: Spec, run: Run) -> None:
    """Options of a file system for a bind mount."""
    spec["mounts"].append(bind(source(run), "/data", "size=64k"))


@case("mount")
def cgroups_in_a_namespace(spec: Spec, run: Run) -> None:
    """The hierarchies in a cgroup namespace, writable."""
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    spec["mounts"].append(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime"))


@case("mount")
def masked_path_that_is_relative(spec: Spec, run: Run) -> None:
    """A masked path without a leading slash."""
    spec["linux"]["maskedPaths"].append("etc/passwd")


@case(sh={"write": "echo x > /etc/passwd", "read": "head -c 4 /etc/passwd"})
def readonly_path_that_is_a_file(spec: Spec, run: Run) -> None:
    """A read-only file."""
    spec["linux"]["readonlyPaths"].append("/etc/passwd")


@case("dev", sh={"dev": "stat -c '%A %u:%g %t,%T' /dev/a /dev/b"})
def device_twice(spec: Spec, run: Run) -> None:
    """One device with two names."""
    spec["linux"]["devices"] = [{"path": f"/dev/{name}", "type": "c", "major": 1, "minor": 5} for name in "ab"]


@case(sh={"dev": "stat -c '%A %u:%g' /dev/x"})
def device_with_bits_of_its_kind(spec: Spec, run: Run) -> None:
    """``fileMode`` with the bits of a character device."""
    spec["linux"]["devices"] = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 5, "fileMode": 0o20640}]


@case(expect={"exit": "1"})
def device_that_is_a_file_already(spec: Spec, run: Run) -> None:
    """A file stands where the device is to be."""
    (run.root / "place").write_text("")
    spec["linux"]["devices"] = [{"path": "/place", "type": "c", "major": 1, "minor": 5}]


def _case(name: str, about: str, change: object) -> None:
    assert callable(change)

    def changes(spec: Spec, run: Run) -> None:
        change(spec)

    changes.__name__, changes.__doc__ = name, about
    case("status", "limit", "process")(changes)


_case("user_beyond_all", "A user id that nobody can have.", lambda spec: spec["process"]["user"].update(uid=2**32 - 1))
_case("user_negative", "A negative user id.", lambda spec: spec["process"]["user"].update(uid=-1))
_case("group_beyond_all", "A group id beyond all.", lambda spec: spec["process"]["user"].update(gid=2**32 - 1))
_case(
    "groups_twice",
    "A group twice, and the user's own.",
    lambda spec: spec["process"]["user"].update(gid=5, additionalGids=[7, 5, 7]),
)
_case("user_absent", "No user at all.", lambda spec: spec["process"].pop("user"))
_case(
    "capability_in_small_letters",
    "A capability in small letters.",
    lambda spec: spec["process"]["capabilities"]["bounding"].append("cap_chown"),
)
_case(
    "rlimit_in_small_letters",
    "A limit without its prefix.",
    lambda spec: spec["process"].update(rlimits=[{"type": "nofile", "soft": 10, "hard": 10}]),
)
_case(
    "rlimit_core",
    "A limit of core dumps, and of stack and memory.",
    lambda spec: spec["process"].update(
        rlimits=[
            {"type": f"RLIMIT_{word}", "soft": 0 if word == "CORE" else 1 << 22, "hard": 1 << 23}
            for word in ("CORE", "STACK", "MEMLOCK", "RTTIME", "SIGPENDING", "FSIZE")
        ]
    ),
)
_case("oom_score_beyond_all", "An OOM score that is none.", lambda spec: spec["process"].update(oomScoreAdj=2000))
_case("variable_without_a_value", "A variable without =.", lambda spec: spec["process"]["env"].append("WORD"))
_case("variable_without_a_name", "A variable without a name.", lambda spec: spec["process"]["env"].append("=x"))
_case("variable_with_a_zero", "A variable with a zero byte.", lambda spec: spec["process"]["env"].append("A=\0b"))
_case("home_that_is_empty", "HOME without a value.", lambda spec: spec["process"]["env"].append("HOME="))
_case("working_directory_absent", "No working directory.", lambda spec: spec["process"].pop("cwd"))
_case(
    "working_directory_with_dots",
    "A working directory with ``..``.",
    lambda spec: spec["process"].update(cwd="/var/../etc/."),
)
_case("host_name_too_long", "A host name of 65 letters.", lambda spec: spec.update(hostname="x" * 65))
_case("host_name_odd", "A host name with a dot and a capital.", lambda spec: spec.update(hostname="A.b"))
_case("terminal_absent", "Nothing is said of a terminal.", lambda spec: spec["process"].pop("terminal"))
_case("new_privileges_absent", "Nothing is said of privileges.", lambda spec: spec["process"].pop("noNewPrivileges"))
_case("root_absent_of_readonly", "Nothing is said of a read-only root.", lambda spec: spec["root"].pop("readonly"))
_case("namespaces_are_null", "Members that are null.",
      lambda spec: (spec["process"].update(rlimits=None, apparmorProfile="", oomScoreAdj=None),
                    spec["linux"].update(devices=None, sysctl=None, seccomp=None, uidMappings=None),
                    spec.update(annotations=None, hooks=None, domainname="")))  # fmt: skip


@case("status", drive=to_the_end)
def user_that_is_not_mapped(spec: Spec, run: Run) -> None:
    """A user without an id in the user namespace."""
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=MAPPED, gidMappings=MAPPED)
    spec["process"]["user"] = {"uid": 70000, "gid": 70000}


def _limits(name: str, about: str, **limits: object) -> None:
    def changes(spec: Spec, run: Run) -> None:
        set_resources(spec, **limits)

    changes.__name__, changes.__doc__ = name, about
    files = ("memory/memory.limit_in_bytes", "cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "pids/pids.max")

    def drive(run: Run) -> Observed:
        observed = {"exit": str(run.create().code)}
        for file in files if observed["exit"] == "0" else ():
            controller, _, leaf = file.partition("/")
            path = run.cgroup_folder(controller) / leaf
            observed[leaf] = path.read_text().strip() if path.exists() else "none"
        return observed

    case(drive=drive)(changes)


_limits("limit_of_memory_tiny", "A limit of memory of one byte.", memory={"limit": 1})
_limits("limit_of_memory_negative", "A limit of memory of -1.", memory={"limit": -1})
_limits("limit_of_memory_odd", "A limit of memory that is no whole page.", memory={"limit": 64 * 1024 * 1024 + 1})
_limits("limit_of_memory_zero", "A limit of memory of 0.", memory={"limit": 0})
_limits("limit_of_shares_tiny", "One share.", cpu={"shares": 1})
_limits("limit_of_shares_zero", "No share.", cpu={"shares": 0})
_limits("limit_of_shares_beyond_all", "More shares than there can be.", cpu={"shares": 1 << 40})
_limits("limit_of_cpu_negative", "A quota of -1.", cpu={"quota": -1})
_limits("limit_of_cpu_tiny", "A quota that is too small.", cpu={"quota": 10})
_limits("limit_of_cpu_period_odd", "A period that is too long.", cpu={"quota": 10000, "period": 10_000_000})
_limits("limit_of_pids_zero", "A limit of 0 processes.", pids={"limit": 0})
_limits("limit_of_pids_large", "A limit of more processes than there can be.", pids={"limit": 1 << 40})
_limits("limit_of_swappiness", "A swappiness beyond 100.", memory={"swappiness": 300})
_limits("limit_of_weight", "A weight of disks that is too small.", blockIO={"weight": 1})
_limits("limits_null", "Limits that are null.", memory=None, cpu=None, pids=None, blockIO=None)


@case()
def device_rule_of_an_odd_kind(spec: Spec, run: Run) -> None:
    """A rule for devices of an unknown kind."""
    spec["linux"]["resources"]["devices"].append({"allow": True, "type": "x", "access": "r"})


@case()
def device_rule_of_odd_access(spec: Spec, run: Run) -> None:
    """A rule for devices with an unknown letter."""
    spec["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "access": "z"})


def _cgroup(name: str, about: str, path: str) -> None:
    def changes(spec: Spec, run: Run) -> None:
        spec["linux"]["cgroupsPath"] = path.format(run.cgroup.lstrip("/"))

    changes.__name__, changes.__doc__ = name, about
    case("cgroup")(changes)


_cgroup("cgroup_with_dots", "A path with ``..`` stays below the hierarchies' roots.", "/../../{}")
_cgroup("cgroup_with_slashes", "A path with slashes at its end.", "//{}//")
