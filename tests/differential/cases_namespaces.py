"""``linux.namespaces``, host names, sysctls, user and time namespaces."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.differential.bundle import bind, mount, replace_mount, root_capabilities, without
from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Run, to_the_end

MAPPED = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def add(spec: Spec, kind: str, path: str = "") -> None:
    """*spec* asks for a namespace of *kind*: a new one, or that at *path*."""
    entry = {"type": kind, "path": path} if path else {"type": kind}
    spec["linux"]["namespaces"] = [old for old in spec["linux"]["namespaces"] if old["type"] != kind] + [entry]


@case("ns", "uts", sample=True)
def namespaces_of_the_host(spec: Spec, run: Run) -> None:
    """Only a mount namespace: all others stay the caller's."""
    without(spec, "pid", "network", "ipc", "uts")


@case("ns", "uts", "process", "net", "mount", "dev")
def namespace_pid_of_the_host(spec: Spec, run: Run) -> None:
    """The host's process ids."""
    without(spec, "pid")
    spec["process"]["args"][2] = spec["process"]["args"][2].replace("echo pid $$; ", "")


@case("ns", "mount")
def namespace_network_of_the_host(spec: Spec, run: Run) -> None:
    """The host's network."""
    without(spec, "network")


@case("ns")
def namespace_ipc_of_the_host(spec: Spec, run: Run) -> None:
    """The host's System V objects and message queues."""
    without(spec, "ipc")


@case("ns", "cgroup", "mount", sample=True)
def namespace_cgroup(spec: Spec, run: Run) -> None:
    """A cgroup namespace of its own, and cgroups mounted."""
    add(spec, "cgroup")
    spec["mounts"].append(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"))


@case("ns", "uts", sample=True)
def host_names(spec: Spec, run: Run) -> None:
    """Host name and domain name of a new UTS namespace."""
    spec.update(hostname="diff.example", domainname="example.org")


@case("uts")
def host_name_of_nobody(spec: Spec, run: Run) -> None:
    """A new UTS namespace without a host name keeps the host's."""
    del spec["hostname"]


@case()
def host_name_without_a_namespace(spec: Spec, run: Run) -> None:
    """A host name without a new UTS namespace is an error."""
    without(spec, "uts")
    spec["hostname"] = "box"


@case()
def domain_name_without_a_namespace(spec: Spec, run: Run) -> None:
    """A domain name without a new UTS namespace is an error."""
    without(spec, "uts")
    spec["domainname"] = "example.org"


@contextmanager
def holder(*kinds: str) -> Iterator[int]:
    """A process in new namespaces of these *kinds*, words of unshare(1)."""
    words = ["unshare", *(f"--{kind}" for kind in kinds), "sh", "-c", "echo; exec sleep 60"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        inside = process.pid
        if any(kind.startswith(("fork", "pid")) for kind in kinds):
            inside = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        yield inside
    finally:
        subprocess.run(["kill", "-9", str(inside)], check=True)
        process.kill()
        process.wait()
        process.stdout.close()


def _joining(kind: str, name: str, *more: str) -> Drive:
    """Runs in the namespace of a holder, and says whether the program was in it."""

    def drive(run: Run) -> Observed:
        with holder(kind, *more) as pid:
            path = f"/proc/{pid}/ns/{name}"
            add(run.spec, "network" if name == "net" else "mount" if name == "mnt" else name, path)
            run.spec["process"]["args"][2] += f"\necho '@@look joined'; readlink /proc/$$/ns/{name}"
            run.write_spec()
            observed = to_the_end(run)
            if "joined" in observed:
                observed["joined"] = str(observed["joined"] == os.readlink(path))
            return observed

    return drive


@case("ns", "net", drive=_joining("net", "net"), expect={"joined": "True"}, sample=True)
def joined_network(spec: Spec, run: Run) -> None:
    """A network namespace by its path; loopback in it is left as it is."""


@case("ns", drive=_joining("ipc", "ipc"), expect={"joined": "True"})
def joined_ipc(spec: Spec, run: Run) -> None:
    """An IPC namespace by its path."""


@case("ns", "uts", drive=_joining("uts", "uts"), expect={"joined": "True"})
def joined_uts(spec: Spec, run: Run) -> None:
    """A UTS namespace by its path, and a host name that is set in it."""


@case("ns", "process", drive=_joining("pid", "pid", "fork"), expect={"joined": "True"})
def joined_pid(spec: Spec, run: Run) -> None:
    """A process namespace by its path: the program is not the first in it."""


@case("ns", drive=_joining("cgroup", "cgroup"), expect={"joined": "True"})
def joined_cgroup(spec: Spec, run: Run) -> None:
    """A cgroup namespace by its path."""


@case("ns", drive=_joining("mount", "mnt"), expect={"joined": "True"})
def joined_mount(spec: Spec, run: Run) -> None:
    """A mount namespace by its path."""


@case()
def joined_path_missing(spec: Spec, run: Run) -> None:
    """A path of a namespace that is not there."""
    add(spec, "network", str(run.folder / "nothing"))


@case()
def joined_path_of_another_kind(spec: Spec, run: Run) -> None:
    """The path of a namespace of another kind than the entry's."""
    add(spec, "network", "/proc/self/ns/uts")


@case()
def namespace_unknown(spec: Spec, run: Run) -> None:
    """An unknown kind of namespace is an error."""
    add(spec, "dream")


@case()
def namespace_twice(spec: Spec, run: Run) -> None:
    """A kind that stands twice is an error."""
    spec["linux"]["namespaces"].append({"type": "ipc"})


@case(sh={"a": "cat /proc/sys/net/ipv4/ip_forward", "b": "cat /proc/sys/kernel/shm_rmid_forced"}, sample=True)
def sysctls(spec: Spec, run: Run) -> None:
    """Kernel parameters of the container's own namespaces."""
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}


@case(sh={"a": "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"})
def sysctl_with_slashes(spec: Spec, run: Run) -> None:
    """A name with slashes."""
    spec["linux"]["sysctl"] = {"net/ipv4/ip_unprivileged_port_start": "0"}


@case()
def sysctl_of_the_host(spec: Spec, run: Run) -> None:
    """A parameter of the whole machine is refused."""
    spec["linux"]["sysctl"] = {"kernel.printk_ratelimit": Path("/proc/sys/kernel/printk_ratelimit").read_text().strip()}


@case()
def sysctl_of_the_hosts_network(spec: Spec, run: Run) -> None:
    """A parameter of the network is refused where the network is the host's."""
    without(spec, "network")
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()}


@case()
def sysctl_unknown(spec: Spec, run: Run) -> None:
    """An unknown parameter is an error."""
    spec["linux"]["sysctl"] = {"net.ipv4.no_such_thing": "1"}


@case(
    "ns",
    sh={"offsets": "cat /proc/$$/timens_offsets", "days": "echo $(( $(cut -d. -f1 /proc/uptime) / 86400 ))"},
    expect={"ns:time": "new"},
)
def time_namespace(spec: Spec, run: Run) -> None:
    """A time namespace whose clocks are ahead."""
    add(spec, "time")
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 8640000, "nanosecs": 0}, "monotonic": {"secs": 86400}}


@case("ns", sh={"offsets": "cat /proc/$$/timens_offsets"})
def time_namespace_without_offsets(spec: Spec, run: Run) -> None:
    """A time namespace whose clocks are the host's."""
    add(spec, "time")


def in_user_namespace(spec: Spec, uids: list[Spec] | None = None, gids: list[Spec] | None = None) -> None:
    """*spec* has a user namespace with these mappings, and a root file system that its root owns."""
    add(spec, "user")
    spec["linux"].update(uidMappings=uids or MAPPED, gidMappings=gids or uids or MAPPED)


_MAPS = {
    "uid map": "awk '{print $1, $2, $3}' /proc/$$/uid_map",
    "gid map": "awk '{print $1, $2, $3}' /proc/$$/gid_map",
    "setgroups": "cat /proc/$$/setgroups",
}


@case("ns", "status", "mount", "dev", "process", sh=_MAPS, sample=True)
def user_namespace(spec: Spec, run: Run) -> None:
    """A user namespace with one range."""
    in_user_namespace(spec)


@case("ns", "status", sh=_MAPS)
def user_namespace_with_two_ranges(spec: Spec, run: Run) -> None:
    """Ranges with a hole, and other groups than users."""
    in_user_namespace(
        spec,
        [{"containerID": 0, "hostID": 200000, "size": 10}, {"containerID": 100, "hostID": 300000, "size": 10}],
        [{"containerID": 0, "hostID": 400000, "size": 1000}],
    )


@case("status", sh={**_MAPS, "file": "touch /tmp/f && stat -c %u:%g /tmp/f", "root": "stat -c %u:%g /etc/passwd"})
def user_namespace_and_a_user(spec: Spec, run: Run) -> None:
    """A user with groups in a user namespace; files of the host's root belong to nobody there."""
    in_user_namespace(spec)
    (run.root / "tmp").chmod(0o1777)
    spec["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [77]}


@case(sh={"chown": "chown 5:6 /tmp/mine && stat -c %u:%g /tmp/mine", "mknod": "mknod /tmp/null c 1 3"})
def user_namespace_and_capabilities(spec: Spec, run: Run) -> None:
    """Capabilities in a user namespace count for its own ids, and make no device."""
    in_user_namespace(spec)
    root_capabilities(spec, "CAP_CHOWN", "CAP_MKNOD", "CAP_DAC_OVERRIDE")
    (run.root / "tmp").chmod(0o1777)
    (run.root / "tmp" / "mine").write_text("")
    os.chown(run.root / "tmp" / "mine", 100000, 100000)


@case()
def user_namespace_without_mappings(spec: Spec, run: Run) -> None:
    """A user namespace without mappings."""
    add(spec, "user")


@case()
def mappings_without_a_user_namespace(spec: Spec, run: Run) -> None:
    """Mappings without a user namespace."""
    spec["linux"].update(uidMappings=MAPPED, gidMappings=MAPPED)


@case("ns")
def user_namespace_with_the_hosts_network(spec: Spec, run: Run) -> None:
    """sysfs cannot be mounted where the network is another user namespace's: a bind of the host's."""
    in_user_namespace(spec)
    without(spec, "network")
    replace_mount(spec, bind("/sys", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"))


def _in_a_mapped_one(run: Run) -> Observed:
    with holder("user") as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536")
        add(run.spec, "user", f"/proc/{pid}/ns/user")
        run.write_spec()
        return to_the_end(run)


@case("ns", sh=_MAPS, drive=_in_a_mapped_one)
def joined_user(spec: Spec, run: Run) -> None:
    """A user namespace by its path."""


@case("ns", "status", sh=_MAPS)
def user_namespace_of_the_same_ids(spec: Spec, run: Run) -> None:
    """A user namespace that maps each id to itself."""
    in_user_namespace(spec, [{"containerID": 0, "hostID": 0, "size": 4294967295}])
