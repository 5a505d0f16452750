"""``process`` of config.json: program, user, capabilities, limits, scheduling."""

from __future__ import annotations

import os

from tests.differential.bundle import CAPABILITIES
from tests.differential.corpus import Spec, case
from tests.differential.run import Run

EVERYTHING = ("status", "mount", "ns", "dev", "limit", "cgroup", "sched", "net", "process", "uts")


@case(*EVERYTHING, sample=True)
def base(spec: Spec, run: Run) -> None:
    """The base configuration, with everything that is looked at."""


@case(*EVERYTHING)
def base_as_a_user(spec: Spec, run: Run) -> None:
    """The base configuration for a user who is not root."""
    spec["process"]["user"] = {"uid": 8, "gid": 12}


@case("process", sh={"home": "echo $HOME", "order": "tr '\\0' '\\n' < /proc/$$/environ"})
def environment(spec: Spec, run: Run) -> None:
    """Variables keep their order; values may be empty, hold = and spaces."""
    spec["process"]["env"] = ["B=2", "PATH=/bin", "A=1=1", "EMPTY=", "SPACE=a b"]


@case(sh={"a": "echo $A"})
def environment_twice(spec: Spec, run: Run) -> None:
    """Of two values of one variable the last holds."""
    spec["process"]["env"] = ["A=1", "PATH=/bin", "A=2"]


@case(sh={"environ": "/bin/tr '\\0' '\\n' < /proc/1/environ"})
def environment_empty(spec: Spec, run: Run) -> None:
    """No variable at all: what the runtime adds."""
    spec["process"]["env"] = []


@case(sh={"home": "echo $HOME"})
def home_of_the_user(spec: Spec, run: Run) -> None:
    """HOME is of the container's /etc/passwd."""
    spec["process"]["user"] = {"uid": 8, "gid": 12}


@case(sh={"home": "echo $HOME"})
def home_of_a_stranger(spec: Spec, run: Run) -> None:
    """HOME of a user that /etc/passwd does not know."""
    spec["process"]["user"] = {"uid": 4711, "gid": 12}


@case(sh={"home": "echo $HOME"})
def home_given(spec: Spec, run: Run) -> None:
    """HOME of the configuration stays."""
    spec["process"]["env"].append("HOME=/elsewhere")


@case(sh={"cwd": "pwd"}, sample=True)
def working_directory(spec: Spec, run: Run) -> None:
    """The working directory."""
    spec["process"]["cwd"] = "/var"


@case(sh={"cwd": "pwd", "made": "stat -c '%A %u:%g' /srv /srv/new"})
def working_directory_is_made(spec: Spec, run: Run) -> None:
    """A working directory that is missing is made."""
    spec["process"].update(cwd="/srv/new", user={"uid": 8, "gid": 12})


@case(sh={"cwd": "pwd -P"})
def working_directory_by_a_link(spec: Spec, run: Run) -> None:
    """A working directory that is a symbolic link."""
    (run.root / "link").symlink_to("/var")
    spec["process"]["cwd"] = "/link"


@case()
def working_directory_is_relative(spec: Spec, run: Run) -> None:
    """A relative working directory is an error."""
    spec["process"]["cwd"] = "var"


@case()
def working_directory_is_a_file(spec: Spec, run: Run) -> None:
    """A working directory that is none is an error."""
    spec["process"]["cwd"] = "/etc/passwd"


@case(sh={"cwd": "pwd"})
def working_directory_of_the_user_only(spec: Spec, run: Run) -> None:
    """A working directory that only the user may enter, who is not root and has no capabilities."""
    (run.root / "mine").mkdir(mode=0o700)
    os.chown(run.root / "mine", 8, 12)
    spec["process"].update(cwd="/mine", user={"uid": 8, "gid": 12}, capabilities={})


@case("status", sh={"id": "id", "file": "touch /tmp/f && stat -c '%u:%g %a' /tmp/f"}, sample=True)
def user_with_groups(spec: Spec, run: Run) -> None:
    """User, group and additional groups."""
    spec["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 77]}


@case("status", sh={"file": "touch /tmp/f && stat -c %a /tmp/f"})
def umask(spec: Spec, run: Run) -> None:
    """A umask."""
    spec["process"]["user"]["umask"] = 0o027


@case("status")
def capabilities_in_all_sets(spec: Spec, run: Run) -> None:
    """The five sets, each another."""
    spec["process"]["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
        "ambient": ["CAP_KILL"],
    }
    spec["process"]["user"] = {"uid": 8, "gid": 12}


@case("status", sample=True)
def capabilities_ambient(spec: Spec, run: Run) -> None:
    """A user keeps ambient capabilities over execve."""
    names = ["CAP_NET_BIND_SERVICE", "CAP_KILL"]
    spec["process"]["capabilities"] = dict.fromkeys(spec["process"]["capabilities"], names) | {
        "inheritable": names,
        "ambient": names[:1],
    }
    spec["process"]["user"] = {"uid": 8, "gid": 12}


@case("status")
def capabilities_none(spec: Spec, run: Run) -> None:
    """Empty sets."""
    spec["process"]["capabilities"] = {}


@case("status")
def capabilities_absent(spec: Spec, run: Run) -> None:
    """No ``capabilities`` at all."""
    del spec["process"]["capabilities"]


@case("status")
def capabilities_of_root_inheritable(spec: Spec, run: Run) -> None:
    """Root with inheritable capabilities."""
    spec["process"]["capabilities"]["inheritable"] = CAPABILITIES[:1]


@case("status")
def capabilities_unknown(spec: Spec, run: Run) -> None:
    """A capability that nobody knows."""
    for names in spec["process"]["capabilities"].values():
        names.append("CAP_FLY")


@case("status")
def new_privileges_allowed(spec: Spec, run: Run) -> None:
    """``noNewPrivileges`` false."""
    spec["process"]["noNewPrivileges"] = False


@case("limit", sample=True)
def rlimits(spec: Spec, run: Run) -> None:
    """Lower limits, soft and hard."""
    spec["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60},
        {"type": "RLIMIT_AS", "soft": 1 << 30, "hard": 1 << 40},
        {"type": "RLIMIT_FSIZE", "soft": 1 << 20, "hard": 18446744073709551615},
    ]


@case()
def rlimit_soft_above_hard(spec: Spec, run: Run) -> None:
    """A soft limit above the hard one is an error."""
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]


@case()
def rlimit_unknown(spec: Spec, run: Run) -> None:
    """An unknown limit is an error."""
    spec["process"]["rlimits"] = [{"type": "RLIMIT_DREAMS", "soft": 1, "hard": 1}]


@case(expect={"exit": "1"})
def rlimit_twice(spec: Spec, run: Run) -> None:
    """A limit that stands twice is an error (config.md, "rlimits")."""
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}] * 2


@case("process")
def oom_score(spec: Spec, run: Run) -> None:
    """A higher OOM score."""
    spec["process"]["oomScoreAdj"] = 500


@case("sched", expect={"sched:policy": "3", "sched:nice": "5"})
def scheduler_batch(spec: Spec, run: Run) -> None:
    """Scheduling policy batch with a nice value."""
    spec["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}


@case("sched", expect={"sched:policy": "5"})
def scheduler_idle(spec: Spec, run: Run) -> None:
    """Scheduling policy idle."""
    spec["process"]["scheduler"] = {"policy": "SCHED_IDLE"}


@case("sched", expect={"sched:io": "best-effort: prio 6"})
def io_priority(spec: Spec, run: Run) -> None:
    """An I/O priority of the class best effort."""
    spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}


@case("sched")
def io_priority_idle(spec: Spec, run: Run) -> None:
    """The idle I/O class."""
    spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}


@case("process", sh={"machine": "uname -m"})
def personality(spec: Spec, run: Run) -> None:
    """The 32-bit personality."""
    spec["linux"]["personality"] = {"domain": "LINUX32"}


@case("process")
def personality_of_the_machine(spec: Spec, run: Run) -> None:
    """The personality that is the default."""
    spec["linux"]["personality"] = {"domain": "LINUX"}


@case()
def apparmor_where_there_is_none(spec: Spec, run: Run) -> None:
    """An AppArmor profile on a host without AppArmor."""
    spec["process"]["apparmorProfile"] = "nonexistent"


@case()
def selinux_where_there_is_none(spec: Spec, run: Run) -> None:
    """An SELinux label on a host without SELinux."""
    spec["process"]["selinuxLabel"] = "system_u:system_r:container_t:s0"


@case("status")
def user_name_of_windows(spec: Spec, run: Run) -> None:
    """A user's name is for Windows, and passed over."""
    spec["process"]["user"] = {"uid": 1000, "gid": 1001, "username": "root"}
