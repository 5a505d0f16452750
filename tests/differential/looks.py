"""What is looked at inside a container: shell text, and how its output becomes observations.

A normaliser takes out what differs between two runs of one runtime: numbers of ids, devices and namespaces, the
folder of the bundle; and what means nothing: the order of mount options.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from tests.differential.corpus import Observed

Normaliser = Callable[[str], Iterable[tuple[str, str]]]
MARK = "@@look "
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_STATUS = (
    *("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Speculation_Store_Bypass"),
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Cpus_allowed_list", "Mems_allowed_list"),
)
_SIGNALS_OF_LIBC = 0b11 << 31  # 32 and 33: what is started by posix_spawn(3), as by make, ignores them


def script(look: Iterable[str], sh: Mapping[str, str]) -> str:
    """Shell text that takes these looks, each below a line with its name."""
    texts = {name: LOOKS[name][0] for name in look} | dict(sh)
    return "\n".join(f"echo '{MARK}{name}'; {{ {text}\n}} 2>&1" for name, text in texts.items())


def parse(output: str) -> Observed:
    """The observations in what `script` printed; what comes before the first look is ``out``."""
    parts = re.split(rf"^{MARK}(.+)\n", output, flags=re.MULTILINE)
    observed = {"out": parts[0].rstrip("\n")} if parts[0].strip() else {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name in LOOKS:
            observed |= {f"{name}:{key}": value for key, value in LOOKS[name][1](text)}
        else:
            observed[name] = text.rstrip("\n")
    return observed


def status(text: str) -> Iterable[tuple[str, str]]:
    """The lines of /proc/<pid>/status that a runtime decides about."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("SigBlk", "SigIgn"):
            yield name, f"{int(value, 16) & ~_SIGNALS_OF_LIBC:016x}"
        elif name in _STATUS:
            yield name, " ".join(value.split())


def mounts(text: str) -> Iterable[tuple[str, str]]:
    """/proc/<pid>/mountinfo, a mount an observation; one that covers another at the same place has a number."""
    seen: Counter[str] = Counter()
    for line in text.splitlines():
        words = line.split(" ")
        if "-" not in words:
            yield "", line
            continue
        middle = words.index("-")
        seen[words[4]] += 1
        number = seen[words[4]]
        yield words[4] if number == 1 else f"{words[4]}#{number}", _mount(words[:middle], words[middle + 1 :])


def _mount(words: list[str], of_file_system: list[str]) -> str:
    """What a program can notice of a mount (proc_pid_mountinfo(5)): read-only is the mount or its file system; which
    null device masks a file, how large an empty read-only tmpfs may be and what the host's /dev holds is all the same.
    """
    root, options = words[3], set(words[5].split(","))
    fstype, source = of_file_system[:2]
    data = set(of_file_system[2].split(","))
    if root == "/null" and fstype in ("tmpfs", "devtmpfs"):
        return "null device"
    readonly = "ro" in options | data
    options = options - {"ro", "rw"} | {"ro" if readonly else "rw"}
    data -= {"ro", "rw"}
    if fstype == "overlay":
        data = {re.sub(r"(lowerdir|upperdir|workdir)=.*", r"\1", word) for word in data}
    elif fstype == "devtmpfs" or (fstype == "tmpfs" and readonly):
        data = {word for word in data if not word.startswith(("size=", "nr_inodes="))}
    parts = [fstype, ",".join(sorted(options)), ",".join(sorted(data)), *sorted(tag.split(":")[0] for tag in words[6:])]
    if root != "/":
        parts.append(f"root={root}")
    if fstype == "tmpfs":
        parts.append(f"source={source}")
    return " ".join(part for part in parts if part)


def namespaces(text: str) -> Iterable[tuple[str, str]]:
    """``new`` or ``host`` for each namespace."""
    own = own_namespaces()
    for name, value in re.findall(r"(\w+) -> (\w+:\[\d+\])", text):
        yield name, "host" if own.get(name) == value else "new"


@cache
def own_namespaces() -> dict[str, str]:
    """The namespaces in which the runtimes are started."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES}


def lines_by_name(text: str) -> Iterable[tuple[str, str]]:
    """``name value…`` lines."""
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        yield name, " ".join(value.split())


def limits(text: str) -> Iterable[tuple[str, str]]:
    """/proc/<pid>/limits."""
    for line in text.splitlines()[1:]:
        if found := re.match(r"Max (.+?)\s{2,}(\S+)\s+(\S+)", line):
            yield found[1], f"{found[2]} {found[3]}"


def cgroups(text: str) -> Iterable[tuple[str, str]]:
    """/proc/<pid>/cgroup; the unified hierarchy, in which nobody takes part here, is left out."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers:
            yield controllers, path


def scheduling(text: str) -> Iterable[tuple[str, str]]:
    """/proc/<pid>/stat (proc_pid_stat(5)) and what ionice says."""
    stat, _, rest = text.partition("\n")
    fields = stat.rpartition(")")[2].split()
    yield "nice", fields[16]
    yield "rt_priority", fields[37]
    yield "policy", fields[38]
    yield "io", rest.strip()


def links(text: str) -> Iterable[tuple[str, str]]:
    """``ip -o`` lines: the flags of a device, and its addresses."""
    for line in text.splitlines():
        if found := re.match(r"\d+: ([^:@ ]+)[:@].*<(.*)>", line):
            yield found[1], found[2]
        elif found := re.match(r"\d+: (\S+)\s+(inet6? \S+)", line):
            yield f"{found[1]} {found[2]}", "there"


_DEV = "cd /dev && stat -c '%N %A %u:%g %t,%T' $(ls -A) | sed \"s/'//g\"; cd /"
LOOKS: dict[str, tuple[str, Normaliser]] = {
    "status": ("cat /proc/$$/status", status),
    "mount": ("cat /proc/$$/mountinfo", mounts),
    "ns": ("ls -l /proc/$$/ns", namespaces),
    "dev": (_DEV.replace("%N ", "%N|"), lambda text: _by_bar(text)),
    "limit": ("cat /proc/$$/limits", limits),
    "cgroup": ("cat /proc/$$/cgroup", cgroups),
    "sched": ("cat /proc/$$/stat; ionice -p $$", scheduling),
    "net": ("ip -o link; ip -o addr", links),
    "process": (
        "echo environ $(tr '\\0' ' ' < /proc/$$/environ); echo cwd $(pwd); echo oom_score_adj "
        "$(cat /proc/$$/oom_score_adj); echo personality $(cat /proc/$$/personality); echo pid $$; "
        "echo session $(awk '{print ($5 == $1), ($6 == $1), $7}' /proc/$$/stat); "
        "printf descriptors; for f in /proc/$$/fd/*; do printf ' %s' ${f##*/}; done; echo",
        lines_by_name,
    ),
    "uts": ("echo host $(hostname); echo domain $(cat /proc/sys/kernel/domainname)", lines_by_name),
}


def _by_bar(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition("|")
        yield name, value
