"""What a container has of who calls the runtime, and what it has not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.differential import looks
from tests.differential.bundle import SETS, bind, mount
from tests.differential.cases_exec import seen
from tests.differential.corpus import Drive, Observed, Spec, case
from tests.differential.run import Run, observed_of

_ODD = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD}


def called(prepare: Callable[[], object] | None = None, *, exec: bool = False, **options: Any) -> Drive:
    """``run`` by a process that has done *prepare*; with *exec* that of ``exec`` instead."""

    def drive(run: Run) -> Observed:
        if not exec:
            return observed_of(run.run(preexec_fn=prepare, **options))
        words, run.spec["process"]["args"] = run.spec["process"]["args"], ["/bin/sleep", "60"]
        run.write_spec()
        run.run("--detach")
        return seen(run, run.command("exec", run.id, *words, preexec_fn=prepare, **options))

    return drive


def _ignoring() -> None:
    for number in _ODD - {signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)


@case("status", drive=called(_ignoring))
def caller_ignores_signals(spec: Spec, run: Run) -> None:
    """Signals that the caller ignores, as under nohup(1)."""


@case("status", drive=called(_ignoring, exec=True))
def exec_by_a_caller_that_ignores_signals(spec: Spec, run: Run) -> None:
    """Signals that the caller of ``exec`` ignores."""


@case("status", drive=called(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _ODD)), sample=True)
def caller_blocks_signals(spec: Spec, run: Run) -> None:
    """Signals that the caller blocks."""


@case("status", drive=called(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _ODD), exec=True))
def exec_by_a_caller_that_blocks_signals(spec: Spec, run: Run) -> None:
    """Signals that the caller of ``exec`` blocks."""


_MADE = {
    "program": "touch /made && stat -c %A /made",
    "places": "stat -c '%A %F' /new /new/place /dev/shm /new-file",
    "cwd": "stat -c '%A %u:%g' /work /work/here",
    "device": "stat -c %A /dev/null /dev/odd",
}


@case("status", "dev", sh=_MADE, drive=called(lambda: os.umask(0o077)))
def caller_with_a_umask(spec: Spec, run: Run) -> None:
    """The caller's umask: neither the program has it nor what the runtime makes."""
    (run.folder / "file").write_text("")
    spec["mounts"] += [mount("/new/place", "tmpfs", "tmpfs", "mode=711"), bind(run.folder / "file", "/new-file")]
    spec["process"]["cwd"] = "/work/here"
    spec["linux"]["devices"] = [{"path": "/dev/odd", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]


@case("status", drive=called(lambda: os.umask(0o077), exec=True))
def exec_by_a_caller_with_a_umask(spec: Spec, run: Run) -> None:
    """The umask of the caller of ``exec``."""


@case("sched", drive=called(lambda: os.nice(5)))
def caller_that_is_nice(spec: Spec, run: Run) -> None:
    """The caller's nice value."""


@case("process", drive=called(lambda: Path("/proc/self/oom_score_adj").write_text("123")))
def caller_with_an_oom_score(spec: Spec, run: Run) -> None:
    """The caller's OOM score."""


@case("status", drive=called(lambda: os.sched_setaffinity(0, {0})))
def caller_on_one_cpu(spec: Spec, run: Run) -> None:
    """The CPUs that the caller may use."""


@case("process", drive=called(env={"PATH": "/usr/bin:/bin", "SECRET": "x", "HOME": "/nowhere", "LISTEN_PID": "1"}))
def caller_with_variables(spec: Spec, run: Run) -> None:
    """No variable of the caller is the container's."""


@case("process", drive=called(env={"PATH": "/usr/bin:/bin", "SECRET": "x"}, exec=True))
def exec_by_a_caller_with_variables(spec: Spec, run: Run) -> None:
    """No variable of the caller of ``exec`` is the container's."""


@case("process", drive=called(lambda: os.dup2(0, 33)))
def caller_with_descriptors(spec: Spec, run: Run) -> None:
    """A descriptor that the caller has open and not marked close-on-exec is not the container's."""


@case("process", drive=called(lambda: os.dup2(0, 33), exec=True))
def exec_by_a_caller_with_descriptors(spec: Spec, run: Run) -> None:
    """A descriptor of the caller of ``exec`` is not the container's."""


@case("status", drive=called(lambda: os.setgroups([5, 77])))
def caller_with_groups(spec: Spec, run: Run) -> None:
    """The caller's supplementary groups are not the container's (CVE-2022-2989)."""


@case("status", drive=called(lambda: os.setgroups([5, 77])), sample=True)
def caller_with_groups_and_a_user(spec: Spec, run: Run) -> None:
    """The caller's supplementary groups are not those of a container's user."""
    spec["process"]["user"] = {"uid": 1000, "gid": 1001}


@case("status", drive=called(lambda: os.setgroups([5, 77]), exec=True))
def exec_by_a_caller_with_groups(spec: Spec, run: Run) -> None:
    """The supplementary groups of the caller of ``exec`` are not the container's."""


@case("process")
def keyring_of_the_caller(spec: Spec, run: Run) -> None:
    """``--no-new-keyring``."""
    run.extra.append("--no-new-keyring")


@case("status", "process", "mount")
def no_pivot(spec: Spec, run: Run) -> None:
    """``--no-pivot``."""
    run.extra.append("--no-pivot")


_SELF = {
    "name": "cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline",
    "dumpable": "stat -c %u:%g /proc/1/status /proc/1/fd",
    "filter": "cat /proc/1/coredump_filter",
    "slack": "cat /proc/1/timerslack_ns",
    "security": "grep -E '^(THP_enabled|Speculation|NSpid|Threads|TracerPid|untag)' /proc/1/status",
    "login": "cat /proc/1/loginuid /proc/1/sessionid",
    "label": "cat /proc/1/attr/current 2>&1",
    "exe": "readlink /proc/1/exe /proc/1/root /proc/1/cwd",
    "ids": "cat /proc/1/setgroups /proc/1/uid_map /proc/1/projid_map",
}


@case(sh=_SELF)
def what_proc_says_of_the_program(spec: Spec, run: Run) -> None:
    """What else /proc has of the first process."""


@case(sh=_SELF)
def what_proc_says_of_a_users_program(spec: Spec, run: Run) -> None:
    """What else /proc has of the first process of a user."""
    spec["process"]["user"] = {"uid": 1000, "gid": 1001}
    spec["process"]["capabilities"] = {name: [] for name in SETS}


def _pid_file_nowhere(run: Run) -> Observed:
    code = run.create("--pid-file", str(run.folder / "nowhere" / "pid")).code
    return {"exit": str(code), "status": run.status()}


@case(drive=_pid_file_nowhere)
def pid_file_nowhere(spec: Spec, run: Run) -> None:
    """A ``--pid-file`` in a folder that is not there: nothing is created."""


def _console_nowhere(run: Run) -> Observed:
    code = run.create("--console-socket", str(run.folder / "nowhere")).code
    return {"exit": str(code), "status": run.status()}


@case(drive=_console_nowhere)
def console_socket_nowhere(spec: Spec, run: Run) -> None:
    """A ``--console-socket`` that is not there: nothing is created."""
    spec["process"]["terminal"] = True


def _logged(run: Run) -> Observed:
    log = run.folder / "log"
    words = [run.program, "--root", str(run.state_root), "--log", str(log), "--log-format", "json", "state", run.id]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {"exit": str(done.returncode), "level": lines[-1]["level"], "keys": " ".join(sorted(lines[-1]))}


@case(drive=_logged)
def log_as_json(spec: Spec, run: Run) -> None:
    """``--log`` and ``--log-format json``: errors as containerd reads them."""


def _closed(run: Run) -> Observed:
    words = run.words("run", "--bundle", str(run.folder), run.id)
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *words], stdout=subprocess.PIPE, text=True)
    return {"exit": str(done.returncode), **looks.parse(done.stdout)}


@case("process", sh={"input": "readlink /proc/1/fd/0"}, drive=_closed)
def caller_with_closed_stdio(spec: Spec, run: Run) -> None:
    """The caller has closed standard input and error."""
