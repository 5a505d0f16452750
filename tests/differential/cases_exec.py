"""``exec``: a further process in a running container."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from tests.differential import looks
from tests.differential.bundle import SETS
from tests.differential.cases_namespaces import MAPPED
from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Done, Run, wait_for, wait_gone
from tests.differential.terminal import Console

_LOOK = ("status", "ns", "process", "cgroup", "limit", "uts")


def executing(*options: str, look: Iterable[str] = (), words: Iterable[str] = (), input: bytes = b"") -> Drive:
    """Runs a process with these *options* in a sleeping container: *words*, or a shell that takes looks."""

    def drive(run: Run) -> Observed:
        run.run("--detach")
        program = list(words) or ["/bin/sh", "-c", looks.script(look, run.case.sh)]
        return seen(run, run.command("exec", *options, run.id, *program, input=input))

    return drive


def seen(run: Run, done: Done) -> Observed:
    """Exit code and looks of an exec; its namespaces are compared with the container's."""
    observed = {"exit": str(done.code), **looks.parse(done.out)}
    observed.pop("process:pid", None)
    if not any(entry["type"] == "pid" for entry in run.spec["linux"]["namespaces"]):
        observed.pop("process:session", None)
    return observed


def sleeping(spec: Spec) -> None:
    spec["process"]["args"] = ["/bin/sleep", "60"]


@case(drive=executing(look=_LOOK), sample=True)
def exec_plain(spec: Spec, run: Run) -> None:
    """A process as the configuration's: user, variables, capabilities, cgroup, namespaces."""
    sleeping(spec)


@case(drive=executing(look=_LOOK))
def exec_in_all_namespaces(spec: Spec, run: Run) -> None:
    """A process in a container with a cgroup namespace and limits of its own."""
    sleeping(spec)
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    spec["process"].update(oomScoreAdj=300, rlimits=[{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}])


@case(
    drive=executing("--user", "8:12", "--cwd", "/var", "--env", "A=1", "--env", "PATH=/x:/bin", look=_LOOK), sample=True
)
def exec_with_options(spec: Spec, run: Run) -> None:
    """User, working directory and variables by options."""
    sleeping(spec)


@case(drive=executing("--user", "8:12", look=("process",)), sh={"home": "echo $HOME"})
def exec_home(spec: Spec, run: Run) -> None:
    """HOME of a user who is not the configuration's."""
    sleeping(spec)


@case(drive=executing("--additional-gids", "5", "--additional-gids", "77", look=("status",)))
def exec_with_groups(spec: Spec, run: Run) -> None:
    """Additional groups by options."""
    sleeping(spec)


@case(drive=executing("--cap", "CAP_NET_RAW", "--cap", "CAP_CHOWN", look=("status",)))
def exec_with_capabilities(spec: Spec, run: Run) -> None:
    """More capabilities by options."""
    sleeping(spec)
    for name in SETS[:3]:
        spec["process"]["capabilities"][name] += ["CAP_NET_RAW"]


@case(drive=executing("--no-new-privs", look=("status",)))
def exec_without_new_privileges(spec: Spec, run: Run) -> None:
    """``--no-new-privs`` where the configuration allows new privileges."""
    sleeping(spec)
    spec["process"]["noNewPrivileges"] = False


@case(drive=executing(look=("status",), words=()), sh={"mkdir": "mkdir /tmp/d; echo $?"})
def exec_under_seccomp(spec: Spec, run: Run) -> None:
    """The container's filter holds for its execs."""
    sleeping(spec)
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


@case(drive=executing(look=("status", "ns")), sh={"id": "id", "map": "awk '{print $1, $2, $3}' /proc/self/uid_map"})
def exec_in_a_user_namespace(spec: Spec, run: Run) -> None:
    """A process in a container with a user namespace."""
    sleeping(spec)
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=MAPPED, gidMappings=MAPPED)


@case(drive=executing(look=("ns",)))
def exec_in_namespaces_of_the_host(spec: Spec, run: Run) -> None:
    """A process in a container that shares the host's namespaces."""
    sleeping(spec)
    spec["linux"]["namespaces"] = [{"type": "mount"}]
    del spec["hostname"]


@case(drive=executing(words=["/bin/sh", "-c", "exit 9"]), expect={"exit": "9"})
def exec_exit_code(spec: Spec, run: Run) -> None:
    """The exit code is the process's."""
    sleeping(spec)


@case(drive=executing(words=["/bin/sh", "-c", "kill -9 $$"]), expect={"exit": "137"})
def exec_killed(spec: Spec, run: Run) -> None:
    """A process that a signal kills."""
    sleeping(spec)


@case(drive=executing(words=["/bin/wc", "-c"], input=b"12345"), expect={"out": "5"})
def exec_input(spec: Spec, run: Run) -> None:
    """Standard input of an exec."""
    sleeping(spec)


@case(drive=executing(words=["/bin/nothing"]), sample=True)
def exec_missing(spec: Spec, run: Run) -> None:
    """A program that is not there."""
    sleeping(spec)


@case(drive=executing(words=["nothing"]))
def exec_missing_in_path(spec: Spec, run: Run) -> None:
    """A program that is nowhere in PATH."""
    sleeping(spec)


@case(drive=executing(words=["/etc/passwd"]))
def exec_not_executable(spec: Spec, run: Run) -> None:
    """A file that may not be executed."""
    sleeping(spec)


@case(drive=executing("--cwd", "/nothing", words=["/bin/pwd"]))
def exec_in_a_missing_folder(spec: Spec, run: Run) -> None:
    """A working directory that is not there."""
    sleeping(spec)


@case(drive=executing("--cwd", "relative", words=["/bin/pwd"]))
def exec_in_a_relative_folder(spec: Spec, run: Run) -> None:
    """A relative working directory is an error."""
    sleeping(spec)


def _nothing_to_execute(run: Run) -> Observed:
    run.run("--detach")
    return {"exit": str(run.command("exec", run.id).code)}


@case(drive=_nothing_to_execute)
def exec_of_nothing(spec: Spec, run: Run) -> None:
    """No program is an error."""
    sleeping(spec)


def with_process(change: Callable[[Spec], None], look: Iterable[str]) -> Drive:
    """Runs a process of a file, ``--process``."""

    def drive(run: Run) -> Observed:
        run.run("--detach")
        process = {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", looks.script(look, run.case.sh)],
            "env": ["PATH=/bin"],
            "cwd": "/",
        }
        change(process)
        (run.folder / "process.json").write_text(json.dumps(process))
        return seen(run, run.command("exec", "--process", str(run.folder / "process.json"), run.id))

    return drive


@case(drive=with_process(lambda process: None, ("status", "process", "limit")), sample=True)
def exec_of_a_file(spec: Spec, run: Run) -> None:
    """A process of a file that names the least."""
    sleeping(spec)


def _much(process: Spec) -> None:
    process.update(
        user={"uid": 8, "gid": 12, "additionalGids": [77], "umask": 0o077},
        cwd="/var",
        env=["PATH=/bin", "A=b"],
        noNewPrivileges=True,
        capabilities={name: ["CAP_KILL"] for name in SETS},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
        oomScoreAdj=200,
    )


@case(drive=with_process(_much, ("status", "process", "limit")))
def exec_of_a_file_with_everything(spec: Spec, run: Run) -> None:
    """A process of a file that names everything."""
    sleeping(spec)


def _scheduled(process: Spec) -> None:
    process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 3}
    process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 5}


@case(
    drive=with_process(_scheduled, ("sched",)),
    expect={"sched:policy": "3", "sched:nice": "3", "sched:io": "best-effort: prio 5"},
)
def exec_of_a_file_with_scheduling(spec: Spec, run: Run) -> None:
    """Scheduling of a process of a file."""
    sleeping(spec)


def _detached(run: Run) -> Observed:
    run.run("--detach")
    path = run.folder / "pid"
    done = run.command("exec", "--detach", "--pid-file", str(path), run.id, "/bin/sh", "-c", "touch /ran; sleep 60")
    wait_for((run.root / "ran").exists)
    pid = int(path.read_text())
    pids = json.loads(run.command("ps", "--format", "json", run.id).out)
    observed = {"exit": str(done.code), "ran": str((run.root / "ran").exists()), "in ps": str(pid in pids)}
    run.kill("KILL")
    observed["gone"] = str(wait_gone(pid))
    return observed


@case(drive=_detached, sample=True)
def exec_detached(spec: Spec, run: Run) -> None:
    """``--detach`` and ``--pid-file``; the process ends with the container."""
    sleeping(spec)


def _on_terminal(run: Run) -> Observed:
    run.run("--detach")
    console = Console(run.folder / "console")
    try:
        words = "tty; test -t 0 -a -t 1 && echo all; stat -c '%A %u:%g' $(tty)"
        options = ["--tty", "--detach", "--console-socket", str(console.path)]
        done = run.command("exec", *options, run.id, "/bin/sh", "-c", f"sleep 0.1; {words}")
        console.take()
        return {"exit": str(done.code), "shown": console.read()}
    finally:
        console.close()


@case(drive=_on_terminal)
def exec_on_a_terminal(spec: Spec, run: Run) -> None:
    """A terminal for an exec."""
    sleeping(spec)


def _sees(run: Run) -> Observed:
    run.run("--detach")
    words = "ls -l /proc/1/ns/ | grep -o '[a-z]*:.*'; echo --; ls -l /proc/$$/ns/ | grep -o '[a-z]*:.*'"
    done = run.command("exec", run.id, "/bin/sh", "-c", words)
    of_init, _, of_exec = done.out.partition("--\n")
    return {"exit": str(done.code), "same": str(bool(of_init) and of_init == of_exec)}


@case(drive=_sees)
def exec_joins_every_namespace(spec: Spec, run: Run) -> None:
    """An exec is in the very namespaces of the container."""
    sleeping(spec)
    spec["process"]["capabilities"]["bounding"].append("CAP_SYS_PTRACE")
    for name in SETS[1:3]:
        spec["process"]["capabilities"][name].append("CAP_SYS_PTRACE")
    spec["linux"]["namespaces"].append({"type": "cgroup"})
