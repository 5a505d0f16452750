"""Which commands there are, and their flags: runc's."""

from __future__ import annotations

from scow_runtime_native.command.arguments import Flag, Grammar

_ROOT = "/run/scow-runtime"

GLOBAL = Grammar(
    "scow-runtime [flags] <command> [flags] [arguments]",
    "Runs OCI bundles: the native runtime of Scow as a command, with runc's grammar.",
    (
        Flag("root", f"where the state of the containers is kept (default {_ROOT})", default=_ROOT),
        Flag("log", "a file that errors are appended to"),
        Flag("log-format", "of that file: text or json", default="text"),
        Flag("debug", "show where an error comes from", "switch"),
        Flag("systemd-cgroup", "refused: the cgroup driver is cgroupfs", "switch"),
        Flag("rootless", "auto or false; true is refused", default="auto"),
        Flag("criu", "ignored: there are no checkpoints"),
        Flag("version,v", "show the versions", "switch"),
    ),
    most=-1,
    rest=True,
)

_MAKE = (
    Flag("bundle,b", "the folder of the bundle (default: the working directory)", default="."),
    Flag("pid-file", "a file that the init's pid is written to"),
    Flag("console-socket", "a socket that gets the master of the terminal"),
    Flag("preserve-fds", "refused but for 0: a process has no descriptors but its stdio", "number", 0),
    Flag("no-pivot", "refused: the root is always changed by pivot_root(2)", "switch"),
    Flag("no-new-keyring", "the process keeps the caller's session keyring", "switch"),
)

_EXEC = (
    Flag("process,p", "a file with an OCI process as JSON"),
    Flag("detach,d", "do not stay until it has ended", "switch"),
    Flag("tty,t", "give it a terminal", "switch"),
    Flag("console-socket", "a socket that gets the master of the terminal"),
    Flag("pid-file", "a file that its pid is written to"),
    Flag("cwd", "its working directory"),
    Flag("env,e", "a variable, NAME=VALUE", "list"),
    Flag("user,u", "uid[:gid]"),
    Flag("additional-gids,g", "a further group", "list"),
    Flag("process-label", "its SELinux label"),
    Flag("apparmor", "its AppArmor profile"),
    Flag("no-new-privs", "it can gain no privileges", "switch"),
    Flag("cap,c", "a further capability", "list"),
    Flag("preserve-fds", "refused but for 0", "number", 0),
    Flag("cgroup", "a group below the container's, [controllers:]path"),
    Flag("ignore-paused", "also in a paused container", "switch"),
)


_LIMITS = (
    Flag("resources,r", "a file with OCI linux.resources as JSON, - for stdin; other flags are not looked at then"),
    Flag("blkio-weight", "10 to 1000", "number"),
    Flag("cpu-period", "in microseconds", "number"),
    Flag("cpu-quota", "in microseconds a period", "number"),
    Flag("cpu-burst", "in microseconds", "number"),
    Flag("cpu-share", "the weight against others (1024 is the kernel's)", "number"),
    Flag("cpu-rt-period", "in microseconds", "number"),
    Flag("cpu-rt-runtime", "in microseconds a period", "number"),
    Flag("cpuset-cpus", "such as 0-2,4"),
    Flag("cpuset-mems", "such as 0"),
    Flag("cpu-idle", "1: only when no other wants to run", "number"),
    Flag("memory", "bytes, or with k, m, g; -1 for no limit"),
    Flag("memory-reservation", "as --memory"),
    Flag("memory-swap", "memory and swap together, as --memory"),
    Flag("kernel-memory", "ignored: kernels have no such limit any more"),
    Flag("kernel-memory-tcp", "ignored, as --kernel-memory"),
    Flag("pids-limit", "how many processes, -1 for no limit", "number"),
)


def _of_one(usage: str, help: str, *flags: Flag, most: int = 1) -> Grammar:
    """A command whose first argument is a container."""
    return Grammar(f"scow-runtime {usage}", help, flags, 1, most)


COMMANDS = {
    "create": _of_one("create [flags] <id>", "Makes a container, which waits for its start.", *_MAKE),
    "start": _of_one("start <id>", "Runs the program of a created container."),
    "run": _of_one(
        "run [flags] <id>",
        "Makes and starts a container, and stays until it has ended.",
        *_MAKE,
        Flag("detach,d", "do not stay", "switch"),
        Flag("keep", "keep the container when it has ended", "switch"),
        Flag("no-subreaper", "do not reap what the container's processes leave behind", "switch"),
    ),
    "exec": Grammar(
        "scow-runtime exec [flags] <id> <program> [arguments], or exec [flags] --process <file> <id>",
        "Runs a further process in a container.",
        _EXEC,
        1,
        -1,
        rest=True,
    ),
    "state": _of_one("state <id>", "Shows the state of a container as JSON."),
    "kill": _of_one(
        "kill [flags] <id> [signal]",
        "Sends a signal (TERM if none is named) to the init of a container.",
        Flag("all,a", "to all its processes", "switch"),
        most=2,
    ),
    "delete": _of_one("delete [flags] <id>", "Removes a container.", Flag("force,f", "kill it if it runs", "switch")),
    "list": Grammar(
        "scow-runtime list [flags]",
        "Lists the containers.",
        (Flag("format,f", "table or json", default="table"), Flag("quiet,q", "only the ids", "switch")),
    ),
    "ps": Grammar(
        "scow-runtime ps [flags] <id> [arguments of ps]",
        "Shows the processes of a container.",
        (Flag("format,f", "table or json (pids only)", default="table"),),
        1,
        -1,
        rest=True,
    ),
    "pause": _of_one("pause <id>", "Freezes the processes of a container."),
    "resume": _of_one("resume <id>", "Lets the processes of a paused container run again."),
    "update": _of_one("update [flags] <id>", "Changes the limits of a container.", *_LIMITS),
    "events": _of_one(
        "events [flags] <id>",
        "Shows the statistics of a container, and when it runs out of memory, as JSON lines.",
        Flag("interval", "of the statistics: a number with s, m or h", default="5s"),
        Flag("stats", "the statistics of now, once", "switch"),
    ),
    "spec": Grammar(
        "scow-runtime spec [flags]",
        "Writes a configuration to begin with.",
        (
            Flag("bundle,b", "the folder to write it to (default: the working directory)", default="."),
            Flag("rootless", "refused", "switch"),
        ),
    ),
    "features": Grammar("scow-runtime features", "Shows what this runtime can, as the OCI document."),
    "checkpoint": Grammar("scow-runtime checkpoint", "Refused: there are no checkpoints.", (), 0, -1, rest=True),
    "restore": Grammar("scow-runtime restore", "Refused: there are no checkpoints.", (), 0, -1, rest=True),
}
