"""Where runtimes differ, and why: what the differential test lets pass.

An entry excuses *runtime* in the cases and keys that match (shell patterns): there it may say something else than the
others. An entry that excuses nothing any more fails the test as an unexplained difference does.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Difference:
    """*reason* is for the page ``docs/reference/runtime-differences.md``: what the runtime does, and why. *always*:
    every run shows it."""

    runtime: str
    cases: str
    keys: str
    reason: str
    always: bool = True

    def covers(self, runtime: str, case: str, key: str) -> bool:
        """Whether *runtime* is excused for what it says of *key* in *case*."""
        return runtime == self.runtime and fnmatchcase(case, self.cases) and fnmatchcase(key, self.keys)


def _runc(cases: str, keys: str, reason: str, *, always: bool = True) -> Difference:
    return Difference("runc", cases, keys, reason, always)


def _crun(cases: str, keys: str, reason: str, *, always: bool = True) -> Difference:
    return Difference("crun", cases, keys, reason, always)


def _ours(cases: str, keys: str, reason: str) -> Difference:
    return Difference("scow-runtime", cases, keys, reason)


_POSTSTART = (
    "Stops the container; version 1.2 of the specification says to go on with a warning, 1.3 to stop it, as runc does."
)

_NO_DEVICE = "Takes another file for a device that stands there already; the specification says that it is an error."

_RUNC = (
    _runc("host-names", "uts:domain", "1.1.5 knows no `domainname`."),
    _runc("domain-name-without-a-namespace", "exit", "1.1.5 knows no `domainname`, and does not refuse it."),
    _runc("time-namespace*", "exit", "1.1.5 knows no time namespaces."),
    _runc("user-namespace*", "dev:mqueue", "Mounts the queues before it has a group in the namespace: it is nobody's."),
    _runc("joined-user", "exit", "1.1.5 wants mappings in the configuration for a namespace that it joins too."),
    _runc(
        "device-instead-of-a-default-one",
        "exit",
        "A default device that the configuration names is not allowed by itself any more: /dev/null cannot be opened.",
    ),
    _runc("mounts-none", "exit", "Needs /proc in the container where it looks for its own descriptors."),
    _runc("masked-path-that-is-a-mount", "mount:/data/below", "Makes paths read-only before it masks: nobody sees it."),
    _runc(
        "dev-of-the-host",
        "mount:/proc/timer_list",
        "Masks with the container's own /dev/null, whatever that is (CVE-2025-31133); the others with the host's.",
    ),
    _runc(
        "root-propagation-*shared",
        "mount:*",
        "1.1.5 applies `rootfsPropagation` to the host's tree only, before it makes the container's root from it.",
    ),
    _runc("root-propagation-unbindable", "mount:/", "As above: the container's root itself stays private."),
    _runc("hook-with-a-relative-path", "exit", "Takes a hook's path that is not absolute, against the specification."),
    _runc(
        "bind-that-clears-flags",
        "mount:/b",
        "`suid` and the like change nothing where no other flag is named: the source's flags stay.",
    ),
    _runc("idmapped-bind*", "*", "1.1.5 knows no mappings of mounts, and passes over them."),
    _runc("scheduler-*", "sched:*", "1.1.5 knows no `scheduler`."),
    _runc("io-priority*", "sched:*", "1.1.5 knows no `ioPriority`."),
    _runc("exec-of-a-file-with-scheduling", "sched:*", "1.1.5 knows neither `scheduler` nor `ioPriority`."),
    _runc("personality", "*", "1.1.5 knows no `personality`."),
    _runc("rlimit-twice", "exit", "Takes a limit that stands twice; the specification says that it is an error."),
    _runc("exec-of-a-file-with-everything", "status:Umask", "1.1.5 sets no umask for an exec."),
    _runc("exec-of-a-file-with-everything", "process:oom_score_adj", "Sets no OOM score for an exec."),
    _runc(
        "*",
        "limit:open files",
        "Its language's runtime raises the soft limit of open files, now and then also the container's.",
        always=False,
    ),
    _runc("*", "devices.list*", "1.1.5 also allows /dev/net/tun in every container."),
    _runc("cpu-burst", "cpu.cfs_burst_us", "1.1.5 knows no `cpu.burst`."),
    _runc("cpu-idle", "cpu.*", "1.1.5 knows no `cpu.idle`."),
    _runc("seccomp-flags", "exit", "1.1.5 knows no flags of a filter but the default ones."),
    _runc("hooks-of-all-kinds", "poststart at create", "Runs `poststart` at the end of create, not after start."),
    _runc("hook*", "poststart state", "Runs `poststart` at the end of create: the state is `created`, not `running`."),
    _runc("hook-that-fails-poststart", "exit", _POSTSTART),
    *(
        _runc("hook-that-fails-poststart", key, "Runs `poststart` at the end of create: the program is never started.")
        for key in ("order", "startContainer state")
    ),
    _runc("hook-that-fails-poststop", "*", "Leaves out the hooks after it; the specification says to go on."),
    _runc("linux-absent", "exit", "Runs the program in the host's namespaces, its mount namespace too."),
    _runc("linux-absent", "left", "Runs the program in the host's namespaces: its mounts are there afterwards."),
    _runc("root-that-is-a-link", "exit", "Refuses a root that is a symbolic link."),
    _runc("device-that-is-a-file-already", "exit", _NO_DEVICE),
    _runc("device-rule-of-odd-access", "exit", "Passes over letters of `access` that mean nothing."),
    _runc("groups-twice", "status:Groups", "Names a group once."),
    _runc("caller-blocks-signals", "status:SigBlk", "Leaves SIGUSR1 blocked where its caller has."),
    _runc("exec-by-a-caller-that-blocks-signals", "status:SigBlk", "Leaves SIGUSR1 blocked where its caller has."),
    _runc(
        "caller-with-closed-stdio", "input", "Gives a descriptor of its own where its caller has closed standard input."
    ),
    _runc("variable-without-a-value", "exit", "Refuses a variable without =."),
    _runc("version-absent", "exit", "Does not look at `ociVersion`."),
    _runc("version-of-the-future", "exit", "Does not look at `ociVersion`."),
    _runc("command-unknown", "1 fly", "Exit code 3 of its library for command lines."),
    _runc("state-in-each-state", "* owner", "`state` names no owner, though `list` does."),
    _runc("state-in-each-state", "* ociVersion", "Names the version of the specification that it was made for."),
)

_EXEC_OF_ITS_OWN = "`exec` takes nothing of the container's `process` but user, variables and capabilities"

_CRUN = (
    _crun("*", "dev:core -> /proc/kcore", "Makes the link where the kernel has no /proc/kcore too."),
    _crun("device-of-no-type", "exit", "Takes a device of an unknown type for a character device."),
    _crun("device-rules-none", "*", "Without rules in the configuration every device may be made and used."),
    _crun("updated-by-a-file", "devices.list*", "Without rules in the configuration it makes none."),
    _crun("limits-none", "devices.list", "Also allows /dev/console, which no container has as a device."),
    _crun("devices-in-the-cgroup", "devices.list", "Also allows /dev/console, which no container has as a device."),
    _crun("namespace-cgroup", "mount:/sys/fs/cgroup", "Other options of the tmpfs that holds the hierarchies."),
    _crun("cgroups-*", "mount:/sys/fs/cgroup", "Other options of the tmpfs that holds the hierarchies."),
    _crun("cgroups-*", "names", "Links `net_cls` and `net_prio` to a hierarchy that the host need not have."),
    _crun("namespace-twice", "exit", "Takes a kind of namespace twice; the specification says that it is an error."),
    _crun("time-namespace*", "exit", "1.8.1 fails to write the offsets on this kernel."),
    _crun("user-namespace*", "mount:/dev/*", "Adds nosuid and noexec to the devices that it binds."),
    _crun("user-namespace-without-mappings", "exit", "Maps root alone where the configuration says nothing."),
    _crun("device-that-is-a-file-already", "exit", _NO_DEVICE),
    _crun("*-beyond-all", "exit", "Takes ids from 2147483648 on, and shares beyond what the kernel has."),
    _crun("limit-of-shares-tiny", "exit", "Writes numbers of shares that the kernel makes others of."),
    _crun("limit-of-cpu-negative", "exit", "Takes -1 for a number, which the kernel refuses."),
    _crun("limit-of-memory-zero", "exit", "Takes 0 for a limit, not for none."),
    _crun("limit-of-weight", "exit", "Fails on weights where the kernel's disks have no scheduler with weights."),
    _crun("capability-in-small-letters", "status:CapBnd", "Takes names of capabilities in small letters."),
    _crun("variable-without-a-name", "exit", "Takes a variable without a name."),
    _crun("variable-with-a-zero", "exit", "Takes what stands before a zero byte."),
    _crun("home-that-is-empty", "process:environ", "HOME without a value is none to the others, and is set."),
    _crun("namespaces-are-null", "exit", "Takes an empty `apparmorProfile` for one."),
    _crun("cgroup-with-dots", "exit", "Does not clean a path with `..`, which leads nowhere then."),
    _crun("places-of-mounts", "made *", "Has what it makes for mounts sticky, and files executable."),
    _crun("places-without-mounts", "made dev/core", "Makes the link where the kernel has no /proc/kcore too."),
    _crun("caller-with-a-umask", "places", "Has what it makes for mounts sticky."),
    _crun("rlimit-twice", "exit", "Takes a limit that stands twice; the specification says that it is an error."),
    _crun("exec-*", "process:session", "`exec` without a terminal makes no session: it shares the caller's."),
    _crun("exec-*", "status:NoNewPrivs", f"{_EXEC_OF_ITS_OWN}: not `noNewPrivileges`."),
    _crun("exec-in-all-namespaces", "limit:open files", f"{_EXEC_OF_ITS_OWN}: not the limits."),
    _crun("exec-in-all-namespaces", "process:oom_score_adj", f"{_EXEC_OF_ITS_OWN}: not the OOM score."),
    _crun("exec-of-a-file-with-everything", "process:oom_score_adj", "Sets no OOM score for an exec."),
    _crun("exec-with-options", "process:environ", "Variables of the command line stand instead of the container's."),
    _crun("exec-with-groups", "exit", "Has no `--additional-gids`."),
    _crun("exec-with-capabilities", "status:Cap*", "`--cap` stands instead of the container's capabilities."),
    _crun("exec-of-nothing", "exit", "Exit code 1 for errors of `exec`; runc's is 255."),
    _crun("exec-in-each-state", "6 exec /bin/true", "Exit code 1 for errors of `exec`; runc's is 255."),
    _crun("paused-and-resumed", "exec", "Exit code 1 for errors of `exec`; runc's is 255."),
    _crun("operations-on-nothing", "9 exec true", "Exit code 1 for errors of `exec`; runc's is 255."),
    _crun("operations-on-nothing", "8 ps", "An exit code of its own."),
    _crun("exec-of-a-file-with-scheduling", "sched:*", "1.8.1 knows neither `scheduler` nor `ioPriority`."),
    _crun("scheduler-*", "sched:*", "1.8.1 knows no `scheduler`."),
    _crun("io-priority*", "sched:*", "1.8.1 knows no `ioPriority`."),
    _crun("cpu-burst", "cpu.cfs_burst_us", "1.8.1 knows no `cpu.burst`."),
    _crun("hook*", "* state", "Calls the state `created` in hooks of creation, and may leave out the process."),
    _crun("hook*", "createContainer cwd", "Runs `createContainer` hooks in the bundle."),
    _crun("hook*", "createContainer environ", "Runs `createContainer` hooks in the bundle."),
    _crun("hook-that-fails-prestart", "exit", "Exit code 255 for a hook of creation that fails."),
    _crun("hook-that-fails-create*", "exit", "Exit code 255 for a hook of creation that fails."),
    _crun("hook-missing", "exit", "Exit code 255 for a hook of creation that fails."),
    _crun("hook-that-fails-prestart", "order", "Runs no `poststop` hooks after a hook of creation has failed."),
    _crun("hook-that-fails-create*", "order", "Runs no `poststop` hooks after a hook of creation has failed."),
    _crun("hook-that-hangs", "order", "Runs no `poststop` hooks after a hook of creation has failed."),
    _crun("hook-with-a-relative-path", "exit", "Takes a hook's path that is not absolute, against the specification."),
    _crun("kill-with-an-odd-signal", "2 kill FLY", "Says nothing of a signal that nobody knows."),
    _crun("pause-created", "2 pause", "Shows a paused container that was not started as created."),
    _crun("start-while-paused", "2 pause", "Shows a paused container that was not started as created."),
    _crun("start-while-paused", "3 start", "Starts a created container that is paused: it runs when it is resumed."),
    _crun("start-while-paused", "4 resume", "Starts a created container that is paused: it runs when it is resumed."),
    _crun("update-in-each-state", "6 *", "`update` of a stopped container succeeds and does nothing."),
    _crun("option-unknown-of-run", "1 *", "Exit code 64 for a mistake in the command line."),
    _crun("state-in-each-state", "* more", "`state` says more than the specification."),
    _crun("state-in-each-state", "* ociVersion", "Names the version of the specification that it was made for."),
    _crun("state-in-each-state", "* rootfs", "The root of the state is as the configuration says it, not absolute."),
    _crun("caller-with-closed-stdio", "exit", "Fails where its caller has closed standard input."),
    _crun("statistics", "*", "Has no `events`."),
    _crun("listed", "header", "Other headings."),
    _crun("processes", "table", "Prints process ids only."),
    _crun("pid-file", "mode", "The file of the process id is executable, for its owner alone."),
    _crun("id-with-a-space", "exit", "Takes any id without a slash."),
    _crun("version-newer", "exit", "Knows no version after 1.0."),
    _crun("terminal-and-its-mounts", "mount:/dev/console", "The terminal at /dev/console has no flag of its devpts."),
    _crun("socket-without-a-terminal", "exit", "Does not mind a socket without a terminal."),
    _crun("tmpfs-with-options", "stat", "A parent folder that it makes has the sticky bit of the mount point."),
    _crun("tmpfs-over-a-folder", "stat", "A tmpfs without a mode is writable for all."),
    _crun("tmpfs-with-a-copy-of-what-it-covers", "made", "A tmpfs without a mode is writable for all."),
    _crun("bind-with-recursive-flags", "exit", "1.8.1 knows no recursive option of access times."),
    _crun("bind-that-clears-flags", "mount:/?", "Drops flags of the source that the configuration does not name."),
    _crun("bind-without-links", "*", "1.8.1 knows no `nosymfollow`, and passes over it."),
    _crun("propagation-*", "mount:/data*", "Makes all mounts private before it binds them: none is shared any more."),
    _crun("root-propagation-unknown", "exit", "Passes over an unknown word."),
    _crun("proc-with-options", "mount:/proc/*", "A read-only path has none of the flags of the mount it is on."),
    _crun("destination-that-leads-out", "exit", "Fails on the link, without leaving the root."),
    _crun("destination-proc", "exit", "Mounts whatever over /proc."),
    _crun("home-of-a-stranger", "home", "Sets no HOME for a user without an entry in /etc/passwd; the others `/`."),
    _crun("working-directory-is-relative", "exit", "Takes a relative working directory; the specification forbids it."),
    _crun("pids-unlimited", "exit", "1.8.1 takes -1 for a number, which the kernel refuses."),
    *(
        _crun(name, "left", "Leaves the cgroups of a container whose limits are refused.")
        for name in ("memory-swap-below-the-limit", "cpu-set-that-is-not-there", "pids-unlimited", "huge-pages",
                     "network-class", "unified-on-version-1", "limit-of-*", "device-rule-of-*")
    ),
    _crun("paused-and-resumed", "again", "Pausing what is paused succeeds."),
    _crun("paused-and-resumed", "resume again", "Resuming what is not paused succeeds."),
    _crun("killed-while-paused", "status", "Does not thaw what it kills: the process dies when it is resumed."),
)  # fmt: skip

_MASK = "The empty folder over a masked one is nosuid and nodev too."
_OWNER = "A tmpfs over a folder takes over its owner as well as its mode, so that a user may go on writing there."
_PRIVATE = "What is bound and not named slave or shared is private; runc has it be a slave of the host."

_NODES = "Devices of a user namespace are nodes of its root; the others bind the host's, which belong to nobody there."

_OURS = (
    *(_ours("*", f"mount:{path}", _MASK) for path in ("/proc/acpi", "/sys/firmware")),
    _ours("masked-paths", "mount:/secrets", _MASK),
    _ours("masked-path-that-is-a-mount", "mount:/data#2", _MASK),
    _ours("tmpfs-over-a-folder", "*", _OWNER),
    _ours("tmpfs-with-a-copy-of-what-it-covers", "mount:/a", _OWNER),
    _ours("namespace-cgroup", "mount:/sys/fs/cgroup", "The folder of the hierarchies is read-only where the mount is."),
    _ours("cgroups-readonly", "mount:/sys/fs/cgroup", "The folder of the hierarchies is read-only where the mount is."),
    _ours("hooks-and-what-they-see", "createContainer host-name", "The host name is set before the hooks of creation."),
    _ours(
        "bind-that-clears-flags",
        "mount:/a",
        "A read-only bind mount keeps the source's nosuid and nodev; the others drop what nobody names.",
    ),
    _ours("descriptors-preserved", "*", "Refuses `--preserve-fds`: a process has no descriptors but its stdio."),
    _ours("user-namespace*", "dev:[!m]*", _NODES),
    _ours("user-namespace*", "mount:/dev/[!m]*", _NODES),
    _ours(
        "user-namespace*",
        "dev:mqueue",
        "The folder of the queues, writable for all, is whose who made the IPC namespace: nobody's inside.",
    ),
    _ours(
        "mappings-without-a-user-namespace",
        "exit",
        "Refuses mappings without a user namespace; the others pass over them.",
    ),
    _ours("propagation-private", "mount:/data/below", _PRIVATE),
    _ours("propagation-unbindable", "mount:/data/below", _PRIVATE),
    _ours(
        "propagation-*shared",
        "mount:/data*",
        "A shared bind mount exchanges mounts with the host; with runc only where `rootfsPropagation` says so too.",
    ),
    _ours("root-propagation-runbindable", "exit", "Makes the tree unbindable when all is bound, not before."),
    _ours("hook-that-fails-poststart", "exit", _POSTSTART),
    _ours(
        "exec-by-a-caller-with-a-umask",
        "status:Umask",
        "An exec has the umask of a container's program, 0022, whoever calls.",
    ),
    _ours(
        "statistics",
        "memory",
        "`events` has no numbers of swap and of the kernel's memory, which is counted as all is.",
    ),
    _ours("statistics", "cpu", "`events` has no numbers of each CPU by user and kernel."),
    _ours("no-pivot", "exit", "Refuses `--no-pivot`: the root is changed by pivot_root(2) always."),
    _ours("places-of-mounts", "made bound/file", "A file that is made for a mount is not executable."),
    _ours("destination-inside-proc", "exit", "Lets nothing but what lxcfs replaces be mounted inside /proc."),
)

DIFFERENCES: tuple[Difference, ...] = (*_RUNC, *_CRUN, *_OURS)
